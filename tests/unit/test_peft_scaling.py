"""The factor of each layer of a LoRA, compared with PEFT's own, and settings that are refused."""

import json

import pytest
import torch
from safetensors import safe_open

from sdxl_anime_video.temporal.lora.keys import split_key
from sdxl_anime_video.temporal.weights.header import WeightsFileError
from sdxl_anime_video.temporal.weights.peft_scaling import read_settings, scaling

NAMES = ("to_q", "to_k", "proj")
SETTINGS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "alpha of the end of a name": {"alpha_pattern": {"to_q": 3}},
    "rank of the end of a name": {"rank_pattern": {"attn1.to_q": 2}, "use_rslora": True},
    "both": {"rank_pattern": {"attn1.to_q": 2, "attn2.to_q": 8}, "alpha_pattern": {"up.attn1.to_q": 5, "proj": 7}},
    "the first one that matches": {"alpha_pattern": {"to_q": 3, "attn1.to_q": 9}},
    "a whole name": {"alpha_pattern": {"^up.attn1.to_q": 3, "^attn1.to_k": 9, r"^up\.attn2\.proj$": 11}},
    "part of a word is no end": {"alpha_pattern": {"o_q": 3, "down.attn": 4}},
}


def network():
    """Linear layers such as up.attn1.to_q."""
    attention = {
        place: torch.nn.ModuleDict(
            {f"attn{number}": torch.nn.ModuleDict({name: torch.nn.Linear(8, 8) for name in NAMES}) for number in (1, 2)}
        )
        for place in ("up", "down")
    }
    return torch.nn.ModuleDict(attention)


@pytest.mark.parametrize("name", SETTINGS)
def test_equals_peft(tmp_path, name):
    from peft import LoraConfig, PeftModel, get_peft_model

    config = LoraConfig(r=4, lora_alpha=6, target_modules=list(NAMES), **SETTINGS[name])
    get_peft_model(network(), config).save_pretrained(tmp_path)  # sorts the patterns
    model = PeftModel.from_pretrained(network(), tmp_path)
    expected = {key: module.scaling["default"] for key, module in model.named_modules() if hasattr(module, "scaling")}
    path = tmp_path / "adapter_model.safetensors"
    beside = read_settings(path, {})
    flat = {f"unet.{key}": value for key, value in json.loads((tmp_path / "adapter_config.json").read_text()).items()}
    inside = read_settings(tmp_path / "other.safetensors", {"lora_adapter_metadata": json.dumps(flat)})
    with safe_open(path, framework="pt") as file:
        downs = {split_key(key)[0]: len(file.get_tensor(key)) for key in file.keys() if "lora_A" in key}  # noqa: SIM118
    assert {layer: scaling(beside, layer, rank) for layer, rank in downs.items()} == expected
    bare = {layer.removeprefix("base_model.model."): value for layer, value in expected.items()}
    assert {layer: scaling(inside, f"unet.{layer}", 4) for layer in bare} == bare


def test_each_model_of_a_pipeline_has_its_own_settings():
    told = {"unet.lora_alpha": 2, "unet.r": 4, "text_encoder_2.lora_alpha": 4, "text_encoder_2.r": 4}
    layers = ("unet.mid_block.to_q", "mid_block.to_q", "text_encoder_2.k_proj", "text_encoder.k_proj")
    assert [scaling(told, layer, 8) for layer in layers] == [0.5, 0.5, 1.0, 1.0]


def test_without_settings_or_rank(tmp_path):
    assert read_settings(tmp_path / "adapter_model.safetensors", {}) == {}
    assert scaling({}, "to_q", 4) == 1
    assert scaling({"lora_alpha": 8}, "to_q", 4) == 2, "the rank of the tensors"
    assert scaling({"alpha_pattern": {"to_q": 8}}, "to_k", 4) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lora_alpha": 1, "r": 0}, "with lora_alpha 1 and r 0 for to_q, which are no positive numbers"),
        ({"lora_alpha": "1", "r": 1}, "with lora_alpha '1' and r 1"),
        ({"lora_alpha": float("inf"), "r": 1}, "with lora_alpha inf"),
        ({"lora_alpha": float("nan"), "r": 1}, "with lora_alpha nan"),
        ({"alpha_pattern": {"(a+)+": 1}}, r"alpha_pattern '\(a\+\)\+' is a regular expression, and only names"),
        ({"rank_pattern": [1]}, r"with rank_pattern \[1\], no table"),
    ],
)
def test_settings_that_are_refused(settings, words):
    with pytest.raises(WeightsFileError, match=words):
        scaling(settings, "to_q", 4)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "3", "\xff"])
def test_settings_that_cannot_be_read(tmp_path, text):
    (tmp_path / "adapter_config.json").write_bytes(text.encode("latin-1"))
    for path, metadata in ((tmp_path / "adapter_model.bin", {}), (tmp_path / "a", {"lora_adapter_metadata": text})):
        with pytest.raises(WeightsFileError, match="has settings of PEFT that cannot be read"):
            read_settings(path, metadata)
