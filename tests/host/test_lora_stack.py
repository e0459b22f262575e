"""LoRA Stack in the real ComfyUI, on the toon model: equal to core's LoraLoader, and what it refuses."""

import json
import logging

import comfy.sample
import folder_paths
import nodes as core
import pytest
import torch

import lora_files as make
import tiny
from sdxl_anime_video.demo.comfy import load_toon_comfy
from sdxl_anime_video.nodes.lora_stack import LoraStack
from sdxl_anime_video.temporal.hosts.comfy.errors import NodeError

LAYERS = make.layers(make.TOON)
ATTENTION = {name: pair for name, pair in LAYERS.items() if ".ff." not in name}
UNET = {name: pair for name, pair in LAYERS.items() if name.startswith("unet")}
FILES = {
    "kohya": make.kohya(LAYERS),
    "second": make.kohya(make.layers(make.TOON, rank=2, seed=5)),
    "style/no alpha": make.kohya(LAYERS, alpha=None),
    "locon": make.kohya(make.layers(make.TOON | make.TOON_CONV)),
    "loha": make.loha(make.layers(make.TOON | make.TOON_CONV)),
    "lokr": make.lokr(LAYERS),
    "diffusers 2023": make.diffusers_2023(ATTENTION),
    "attention": make.kohya(ATTENTION, alpha=None),
    "unet": make.kohya(UNET, alpha=None),
    "diffusers": make.diffusers(LAYERS),
    "diffusers peft": make.diffusers_peft(LAYERS),
    "peft": make.peft(LAYERS),
    "sd15": make.kohya(make.layers(make.SD15)),
    "sdxl": make.kohya(make.layers(make.SDXL)),
    "sd15 attn1": make.kohya(make.layers({next(iter(make.SD15)): (320, 320)})),
    "lcm": make.kohya(make.layers(make.TOON, rank=1, seed=6)),
}


@pytest.fixture(scope="module")
def toon():
    return load_toon_comfy()[:2]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("loras")
    for name, tensors in FILES.items():
        make.write(path / f"{name}.safetensors", tensors)
    folder_paths.add_model_folder_path("loras", str(path), is_default=True)
    return path


def stack(toon, *loras, prompt="", speed=None, **more):
    """(MODEL, CLIP, prompt, report); loras: (name, weight) of the rows."""
    rows = {}
    for number, (name, weight) in enumerate(loras, 1):
        rows |= {f"lora_{number}": f"{name}.safetensors", f"weight_{number}": weight}
    if speed:
        rows |= {"speed_lora": f"{speed[0]}.safetensors", "speed_weight": speed[1]}
    return LoraStack.execute(*toon, prompt, **rows, **more).args


def by_core(toon, *loras):
    for name, weight, clip_weight in loras:
        toon = core.LoraLoader().load_lora(*toon, f"{name}.safetensors", weight, clip_weight)
    return toon


@torch.inference_mode()
def results(toon):
    """A latent by the model in one step, and the text encoders' output: what a LoRA changes."""
    model, clip = toon[:2]
    encoded = clip.encode_from_tokens_scheduled(clip.tokenize("girl, blue hair, run"))
    noise = tiny.latent(1, 8, 8)
    blank = torch.zeros_like(noise)
    latent = comfy.sample.sample(model, noise, 1, 1.0, "euler", "normal", encoded, encoded, blank, disable_pbar=True)
    return latent, encoded[0][0], encoded[0][1]["pooled_output"]


def difference(one, other) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(results(one), results(other), strict=True))


@pytest.mark.parametrize("name", ["kohya", "locon", "loha", "lokr", "diffusers 2023"])
def test_equals_cores_loader(toon, name):
    expected = by_core(toon, (name, 0.8, 0.8))
    assert difference(expected, toon) > 0.01
    assert difference(stack(toon, (name, 0.8)), expected) == 0.0


def test_equals_a_chain_of_cores_loaders(toon):
    expected = by_core(toon, ("kohya", 0.8, 0.8), ("second", 0.3, -0.1), ("loha", -0.2, 0.5), ("lcm", 1.0, 1.0))
    found = stack(
        toon, ("kohya", 0.8), ("second", 0.3), prompt="<lora:loha:-0.2:0.5>", speed=("lcm", 1.0), clip_weight_2=-0.1
    )
    assert difference(found, expected) == 0.0
    assert "3 LoRAs" not in found[3] and found[3].index("loha.safetensors\n") < found[3].index("speed_lora: lcm")


@pytest.mark.parametrize(
    ("name", "twin"), [("diffusers", "style/no alpha"), ("diffusers peft", "style/no alpha"), ("peft", "unet")]
)
def test_names_that_core_passes_over(toon, name, twin):
    expected = by_core(toon, (twin, 0.8, 0.8))
    assert difference(stack(toon, (name, 0.8)), expected) == 0.0
    assert difference(by_core(toon, (name, 0.8, 0.8)), expected) > 0.01


def test_weights_of_8_bits(toon, folder):
    small = {name: value.to(torch.float8_e4m3fn) for name, value in FILES["kohya"].items()}
    path = make.write(folder / "eight.safetensors", small)
    assert difference(stack(toon, ("eight", 0.8)), by_core(toon, ("eight", 0.8, 0.8))) == 0.0
    make.write(path, {name: (value.float() * float("nan")).to(value.dtype) for name, value in small.items()})
    with pytest.raises(NodeError, match="holds NaN or infinity"):
        stack(toon, ("eight", 0.8))
    path.unlink()


@pytest.mark.parametrize("place", ["beside", "inside"])
def test_pefts_strength_counts(toon, folder, place):
    told = {"lora_alpha": 8, "r": 4}
    inside = json.dumps({f"unet.{key}": value for key, value in told.items()})
    metadata = {"lora_adapter_metadata": inside} if place == "inside" else {}
    make.write(folder / place / "adapter_model.safetensors", make.peft(LAYERS), **metadata)
    if place == "beside":
        (folder / place / "adapter_config.json").write_text(json.dumps(told))
    expected = by_core(toon, ("unet", 2.0, 2.0))
    assert difference(stack(toon, (f"{place}/adapter_model", 1.0)), expected) < 1e-4
    assert difference(toon, expected) > 0.01


def test_neutral_is_the_plain_model(toon):
    for found in (stack(toon), stack(toon, ("kohya", 0.0)), stack(toon, prompt="girl, run")):
        assert found[0] is toon[0] and found[1] is toon[1]
    assert stack(toon)[3] == "No LoRA."
    assert "(off)" in stack(toon, ("kohya", 0.0))[3]


def test_inputs_stay_as_they_are(toon):
    before = results(toon)
    stack(toon, ("kohya", 1.0), ("second", 1.0))
    assert not toon[0].patches and not toon[1].patcher.patches
    assert all(torch.equal(a, b) for a, b in zip(results(toon), before, strict=True))


def test_works_without_text_encoders(toon):
    model, clip, _, report = stack((toon[0], None), ("kohya", 0.8))
    assert clip is None and model.patches
    assert "layers: 4 of the diffusion model, 0 of the text encoders" in report
    assert "2 of its layers are not in this model" in report


def test_the_prompt_comes_out_clean(toon):
    _, _, prompt, report = stack(toon, prompt="girl, <lora:kohya:0.8>, <lora:no alpha:0.2>, run")
    assert prompt == "girl, run"
    assert "a tag of the prompt: kohya.safetensors" in report
    assert "a tag of the prompt: style/no alpha.safetensors" in report.replace("\\", "/")


def test_the_report(toon, folder, caplog):
    path = make.write(
        folder / "told.safetensors",
        make.kohya(LAYERS) | {"lora_unet_no_such_layer.diff": torch.ones(2, 2), "note": torch.ones(1)},
        ss_tag_frequency='{"1_a": {"pastel": 3}}',
        sshs_model_hash="0" * 64,
    )
    with caplog.at_level(logging.WARNING):
        result = LoraStack.execute(*toon, lora_1="told.safetensors", weight_1=0.9)
    report = result.args[3]
    for words in (
        "Warning: told.safetensors has weight 0.9; advised is 0.7 to 0.85",
        "Warning: told.safetensors: 1 of its layers are not in this model and do nothing (lora_unet_no_such_layer).",
        "Warning: told.safetensors: 1 of its keys belong to no LoRA (note).",
        "layers: 4 of the diffusion model, 2 of the text encoders",
        "trigger words: pastel",
        "base model: unknown; its layers fit this model",
        "changed after training",
    ):
        assert words in report
    assert result.ui.as_dict() == {"text": (report,)}, "the page and the history get it"
    assert "LoRA Stack: told.safetensors has weight 0.9" in caplog.text
    path.unlink()


@pytest.mark.parametrize(
    ("loras", "prompt", "words"),
    [
        (
            [("sd15", 0.8)],
            "",
            "LoRA Stack: lora_1: sd15.safetensors is a LoRA for Stable Diffusion 1.5: its cross-attention takes 768 "
            "values a token, this MODEL's 192. Choose",
        ),
        ([("sdxl", 0.8)], "", "sdxl.safetensors is a LoRA for SDXL: its cross-attention takes 2048"),
        ([("sd15 attn1", 0.8)], "", "is a LoRA for Stable Diffusion 1 or 2 (places of its layers)"),
        ([("sd15", 0.0)], "", "lora_1: sd15.safetensors is a LoRA for"),
        ([], "<lora:sd15:0.5>", "a tag of the prompt: sd15.safetensors is a LoRA for"),
        ([], "<lora:koya:0.5>", "LoRA Stack: there is no 'koya' in models/loras; did you mean 'kohya."),
        ([], "<lora:kohya:50>", "LoRA Stack: the tag '<lora:kohya:50>' has the weight 50; it must lie"),
        ([("kohya", 0.8)], "<lora:kohya:0.5>", "named by lora_1 and a tag of the prompt; remove one"),
        ([("kohya", 0.8), ("kohya", 0.1)], "", "named by lora_1 and lora_2; remove one"),
        ([("gone", 0.8)], "", "lora_1 'gone.safetensors' is not in models/loras; put the file there"),
        ([("kohya", 10.5)], "", "LoRA Stack: lora_1 has weight 10.5; it must lie between -10 and 10"),
        ([("kohya", float("nan"))], "", "lora_1 has weight nan"),
    ],
)
def test_what_is_refused(toon, loras, prompt, words):
    with pytest.raises(NodeError) as refused:
        stack(toon, *loras, prompt=prompt)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_broken_files_are_refused(toon, folder):
    def refused(name):
        with pytest.raises(NodeError) as caught:
            stack(toon, (name, 0.8))
        return str(caught.value)

    broken = {key: value * float("nan") for key, value in make.kohya(LAYERS).items()}
    make.write(folder / "nan.safetensors", broken)
    (folder / "cut.safetensors").write_bytes((folder / "kohya.safetensors").read_bytes()[:-9])
    torch.save(make.kohya(LAYERS), folder / "pickle.safetensors")
    make.write(folder / "fits nothing.safetensors", {"lora_unet_mid_block_x.diff": torch.ones(4, 4)})
    assert "lora_1: nan.safetensors holds NaN or infinity in 18 tensors" in refused("nan")
    assert "cut.safetensors is cut off" in refused("cut")
    assert "it is a pickle in a zip, not safetensors. Save it as safetensors." in refused("pickle")
    assert "has no layer that fits this MODEL (its layers: lora_unet_mid_block_x)" in refused("fits nothing")
    alpha = next(name for name in FILES["kohya"] if name.endswith("alpha"))
    make.write(folder / "three.safetensors", FILES["kohya"] | {alpha: torch.ones(3)})
    half = {name: value for name, value in FILES["loha"].items() if "hada_w2" not in name}
    make.write(folder / "half.safetensors", half)
    assert "to_q.alpha of the shape [3], not one number" in refused("three")
    assert "lora_1: half.safetensors lacks 'lora_unet_mid_block" in refused("half")
    for name in ("nan", "cut", "pickle", "fits nothing", "three", "half"):
        (folder / f"{name}.safetensors").unlink()


def test_a_link_without_a_target(toon, folder):
    link = folder / "link.safetensors"
    link.symlink_to(folder / "moved.safetensors")
    with pytest.raises(FileNotFoundError, match=r"^LoRA Stack: lora_1 'link\.safetensors' is a link to a file that"):
        stack(toon, ("link", 0.8))
    assert LoraStack.fingerprint_inputs(lora_1="link.safetensors") == ""
    link.unlink()


def test_layers_of_another_size_are_counted(toon, folder):
    sizes = make.TOON | {"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_k": (64, 64)}
    make.write(folder / "odd.safetensors", make.kohya(make.layers(sizes)))
    assert "1 of its layers have other sizes in it and do nothing (lora_unet_mid_block" in stack(toon, ("odd", 0.8))[3]
    (folder / "odd.safetensors").unlink()


def test_another_model_than_sdxl_is_refused(toon):
    class Other:
        model = torch.nn.Linear(1, 1)

    with pytest.raises(ValueError, match="LoRA Stack: this MODEL is Linear, not SDXL; load an SDXL checkpoint"):
        LoraStack.execute(Other(), toon[1])


def test_a_replaced_file_is_noticed(folder):
    def seen(**rows):
        return LoraStack.fingerprint_inputs(**rows)

    path = make.write(folder / "changing.safetensors", make.kohya(LAYERS))
    row, tag = {"lora_2": "changing.safetensors"}, {"prompt": "<lora:changing:1>"}
    before = seen(**row), seen(**tag)
    assert before == (seen(**row), seen(**tag))
    make.write(path, make.kohya(make.layers(make.TOON, rank=8)))
    assert seen(**row) != before[0] and seen(**tag) != before[1]
    assert str(folder) not in str(seen(**row)), "it would be written into saved clips"
    path.unlink()
    assert seen(**row) == ""
