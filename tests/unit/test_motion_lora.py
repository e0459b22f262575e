"""Motion LoRAs: the four namings, alpha, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdxl_anime_video.__main__ import main
from sdxl_anime_video.temporal.layers.motion_module import MotionConfig, MotionModule, Site
from sdxl_anime_video.temporal.weights.header import WeightsFileError
from sdxl_anime_video.temporal.weights.motion.lora import load_motion_lora, patches

CHANNELS = {Site("down", 0, 1): 64, Site("mid", 0, 0): 96, Site("up", 1, 2): 64}
RANK = 3
BLOCK = "transformer_blocks.0"
THEIR_BLOCK = f"temporal_transformer.{BLOCK}"
# our weight -> how each naming calls its layer: AnimateDiff, diffusers, PEFT, kohya
LAYERS = {
    f"down_blocks.0.motion_modules.1.{BLOCK}.attention_blocks.0.to_q.weight": {
        "animatediff": f"down_blocks.0.motion_modules.1.{THEIR_BLOCK}.attention_blocks.0.processor.to_q_lora",
        "diffusers": f"unet.down_blocks.0.motion_modules.1.{BLOCK}.attn1.to_q.lora",
        "processor": f"unet.down_blocks.0.motion_modules.1.{BLOCK}.attn1.processor.to_q_lora",
        "peft": f"base_model.model.down_blocks.0.motion_modules.1.{BLOCK}.attn1.to_q",
        "kohya": (
            "lora_unet_down_blocks_0_motion_modules_1_temporal_transformer_transformer_blocks_0_attention_blocks_0_to_q"
        ),
    },
    f"mid_block.motion_modules.0.{BLOCK}.attention_blocks.1.to_out.0.weight": {
        "animatediff": f"module.mid_block.motion_modules.0.{THEIR_BLOCK}.attention_blocks.1.processor.to_out_lora",
        "diffusers": f"unet.mid_block.motion_modules.0.{BLOCK}.attn2.to_out.0.lora",
        "processor": f"unet.mid_block.motion_modules.0.{BLOCK}.attn2.processor.to_out_lora",
        "peft": f"base_model.model.mid_block.motion_modules.0.{BLOCK}.attn2.to_out.0",
        "kohya": "lora_unet_mid_block_motion_modules_0_transformer_blocks_0_attn2_to_out_0",
    },
}
FEED_FORWARD = {
    f"up_blocks.1.motion_modules.2.{BLOCK}.ff.net.0.proj.weight": {
        "diffusers": f"unet.up_blocks.1.motion_modules.2.{BLOCK}.ff.net.0.proj.lora",
        "peft": f"up_blocks.1.motion_modules.2.{BLOCK}.ff.net.0.proj",
        "kohya": "lora_unet_up_blocks_1_temporal_attentions_2_transformer_blocks_0_ff_net_0_proj",
    },
    "up_blocks.1.motion_modules.2.proj_in.weight": {
        "diffusers": "unet.up_blocks.1.motion_modules.2.proj_in.lora",
        "peft": "up_blocks.1.motion_modules.2.proj_in",
        "kohya": "lora_unet_up_blocks_1_motion_modules_2_temporal_transformer_proj_in",
    },
}
ENDS = {
    "animatediff": (".down", ".up"),
    "diffusers": (".down", ".up"),
    "processor": (".down", ".up"),
    "peft": (".lora_A", ".lora_B"),
    "kohya": (".lora_down", ".lora_up"),
}


@pytest.fixture(scope="module")
def module():
    made = MotionModule(MotionConfig(CHANNELS, max_frames=8))
    made.reset_parameters()
    return made


def factors(module, weight):
    out, into = module.state_dict()[weight].shape
    return torch.randn(RANK, into), torch.randn(out, RANK)


def write(path, module, naming, alpha=None, metadata=None):
    """A LoRA in this naming; its deltas with alpha = rank."""
    state, deltas = {}, {}
    for weight, names in {**LAYERS, **FEED_FORWARD}.items():
        if naming not in names:
            continue
        down, up = factors(module, weight)
        first, second = ENDS[naming]
        state[f"{names[naming]}{first}.weight"], state[f"{names[naming]}{second}.weight"] = down, up
        if alpha is not None:
            state[f"{names[naming]}.alpha"] = torch.tensor(alpha)
        deltas[weight] = up @ down
    save_file(state, path, metadata)
    return deltas


def changes(module, path):
    """Name of a weight -> its change by a file."""
    return {key: value for key, (value,) in patches(module, load_motion_lora(path)).items()}


def assert_same(got, expected):
    assert set(got) == set(expected)
    for key, value in expected.items():
        assert torch.allclose(got[key], value, atol=1e-5), key


@pytest.mark.parametrize("naming", ENDS)
def test_namings(tmp_path, module, naming):
    deltas = write(tmp_path / "a.safetensors", module, naming)
    assert_same(changes(module, tmp_path / "a.safetensors"), deltas)


def test_alpha(tmp_path, module):
    deltas = write(tmp_path / "a.safetensors", module, "kohya", alpha=1.5)
    assert_same(changes(module, tmp_path / "a.safetensors"), {k: v * 1.5 / RANK for k, v in deltas.items()})


def test_alpha_of_peft(tmp_path, module):
    pattern = f"down_blocks.0.motion_modules.1.{BLOCK}.attn1.to_q"
    settings = {"lora_alpha": 6, "alpha_pattern": {pattern: 12}}
    said = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in settings.items()})}
    deltas = write(tmp_path / "a.safetensors", module, "peft", metadata=said)
    expected = {k: v * (12 if "down_blocks" in k else 6) / RANK for k, v in deltas.items()}
    (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, "use_rslora": True}))
    deltas_beside = write(tmp_path / "adapter_model.safetensors", module, "peft")
    root = {k: v * (12 if "down_blocks" in k else 6) / RANK**0.5 for k, v in deltas_beside.items()}
    for name, right in (("a", expected), ("adapter_model", root)):
        assert_same(changes(module, tmp_path / f"{name}.safetensors"), right)


@pytest.mark.parametrize("name", ["attn1.to_q", "to_q", f"unet.down_blocks.0.motion_modules.1.{BLOCK}.attn1.to_q"])
def test_alpha_pattern_names_the_end_of_a_layer(tmp_path, module, name):
    said = {"lora_adapter_metadata": json.dumps({"unet.alpha_pattern": {name: 12}})}
    deltas = write(tmp_path / "a.safetensors", module, "diffusers", metadata=said)
    expected = {k: v * (4 if k.endswith("to_q.weight") else 1) for k, v in deltas.items()}
    assert_same(changes(module, tmp_path / "a.safetensors"), expected)


SETTINGS = {
    "with lora_alpha nan and r 3 for": '{"lora_alpha": NaN}',
    r"whose alpha_pattern '\.\*to_q' is a regular expression": '{"alpha_pattern": {".*to_q": 4}}',
    "that cannot be read .*recursion": "[" * 100_000,
}


@pytest.mark.parametrize("message", SETTINGS)
def test_settings_of_peft_that_cannot_be_read(tmp_path, module, message):
    write(tmp_path / "a.safetensors", module, "peft", metadata={"lora_adapter_metadata": SETTINGS[message]})
    with pytest.raises(WeightsFileError, match=f"a.safetensors has settings of PEFT {message}"):
        load_motion_lora(tmp_path / "a.safetensors")


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.float8_e4m3fn])
def test_alpha_of_any_type(tmp_path, module, dtype):
    path = tmp_path / "a.safetensors"
    deltas = write(path, module, "kohya", alpha=6.0)
    as_written = {key: value.to(dtype) if key.endswith(".alpha") else value for key, value in load_file(path).items()}
    save_file(as_written, path)
    assert_same(changes(module, path), {k: v * 2 for k, v in deltas.items()})


def test_a_lora_without_effect_warns(tmp_path, module, caplog):
    write(tmp_path / "a.safetensors", module, "kohya", alpha=0.0)
    assert not any(value.any() for value in changes(module, tmp_path / "a.safetensors").values())
    assert "a.safetensors: every alpha or matrix in it is zero, so this motion LoRA changes nothing" in caplog.text


def test_torch_files_and_checkpoints(tmp_path, module):
    deltas = write(tmp_path / "a.safetensors", module, "animatediff")
    torch.save({"epoch": 1, "state_dict": load_file(tmp_path / "a.safetensors")}, tmp_path / "a.ckpt")
    assert_same(changes(module, tmp_path / "a.ckpt"), deltas)


SD15_KEY = (
    "down_blocks.3.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor.to_q_lora"
)


def test_stable_diffusion_15(tmp_path, module):
    save_file({f"{SD15_KEY}.down.weight": torch.zeros(2, 1280)}, tmp_path / "v2_lora_PanLeft.safetensors")
    with pytest.raises(WeightsFileError, match=r"PanLeft.* Stable Diffusion 1\.5: it changes a fourth level"):
        load_motion_lora(tmp_path / "v2_lora_PanLeft.safetensors")
    write(tmp_path / "a.safetensors", module, "kohya", metadata={"ss_base_model_version": "sd_v1"})
    with pytest.raises(WeightsFileError, match=r"1\.5: its metadata say 'sd_v1'"):
        load_motion_lora(tmp_path / "a.safetensors")


PREFIX = "unet.up_blocks.1.motion_modules.2.proj_in.lora"
PROBLEMS = {
    "unknown key unet.up_blocks.1.motion_modules.2.proj_in.lora_magnitude_vector": {
        "unet.up_blocks.1.motion_modules.2.proj_in.lora_magnitude_vector": torch.zeros(64)
    },
    "unknown key lora_te_text_model": {"lora_te_text_model_q.lora_down.weight": torch.zeros(2, 2)},
    "proj_out.weight has down without up": {PREFIX.replace("in.", "out.") + ".down.weight": torch.zeros(2, 64)},
    "of different ranks": {f"{PREFIX}.down.weight": torch.zeros(RANK + 1, 64)},
    "of different ranks or none": {
        f"{PREFIX}.down.weight": torch.zeros(0, 64),
        f"{PREFIX}.up.weight": torch.zeros(64, 0),
    },
    "proj_in.lora_A.weight is there twice": {PREFIX.removesuffix("lora") + "lora_A.weight": torch.zeros(RANK, 64)},
    "alpha holds NaN, infinity or no weights": {PREFIX.removesuffix("lora") + "alpha": torch.zeros(2)},
    "holds NaN": {f"{PREFIX}.down.weight": torch.full((RANK, 64), torch.nan)},
}


@pytest.mark.parametrize("message", PROBLEMS)
def test_unmatched_keys_are_listed(tmp_path, module, message):
    write(tmp_path / "a.safetensors", module, "diffusers")
    save_file({**load_file(tmp_path / "a.safetensors"), **PROBLEMS[message]}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsFileError, match=f"a.safetensors .*{message}") as caught:
        load_motion_lora(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


def test_misfit(tmp_path, module):
    write(tmp_path / "a.safetensors", module, "diffusers")
    other = MotionModule(MotionConfig({Site("down", 0, 1): 64, Site("mid", 0, 0): 128}, max_frames=8))
    with pytest.raises(WeightsFileError) as caught:
        changes(other, tmp_path / "a.safetensors")
    assert "up_blocks.1.motion_modules.2.proj_in.weight is not in the module" in str(caught.value)
    assert "to_out.0.weight is for [96, 96] and the module has [128, 128]" in str(caught.value)


def test_other_files(tmp_path):
    save_file({"lora_unet_input_blocks_4_1_proj_in.lora_down.weight": torch.zeros(2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsFileError, match=r"is a LoRA, not a motion LoRA\. Move it to models/loras"):
        load_motion_lora(tmp_path / "a.safetensors")
    lora = f"down_blocks.0.motion_modules.1.{BLOCK}.attn1.to_q.lora_A.weight"
    for keys, message in {
        ("down_blocks.0.motion_modules.1.proj_in.weight",): "is a MotionAdapter of .* load it with Load Motion Module",
        (f"down_blocks.1.attentions.0.{BLOCK}.temporal_attn.gate",): "is a temporal adapter, not a motion LoRA",
        # v3_sd15_adapter.ckpt, published beside the motion modules
        (f"down_blocks.0.attentions.0.{BLOCK}.attn1.processor.to_q_lora.down.weight",): "is a LoRA, not a motion LoRA",
        (lora, "proj_in.weight"): "is no motion LoRA that can be read whole: unknown key proj_in.weight",
    }.items():
        save_file({key: torch.zeros(2, 2) for key in keys}, tmp_path / "a.safetensors")
        with pytest.raises(WeightsFileError, match=message):
            load_motion_lora(tmp_path / "a.safetensors")


def test_inspect(tmp_path, module, capsys):
    write(tmp_path / "a.safetensors", module, "kohya", alpha=1.5)
    assert main(["inspect", str(tmp_path / "a.safetensors")]) == 0
    said = capsys.readouterr().out
    assert "motion LoRA: 4 matrices at 3 places" in said and "rank: 3; alpha over rank: 0.5" in said
