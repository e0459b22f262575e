"""Descriptions of LoRA files in every naming, and the report of a stack."""

import hashlib
import json

import pytest
import torch

import lora_files as make
from sdxl_anime_video.temporal.lora.file import SDXL, describe, hashes, is_lcm_name, is_speed_name
from sdxl_anime_video.temporal.lora.keys import LoraError, core_keys
from sdxl_anime_video.temporal.lora.report import Entry, Fit, report, warnings
from sdxl_anime_video.temporal.lora.stack import SPEED, Choice
from sdxl_anime_video.temporal.weights.header import Header, TensorInfo, read_header

LAYERS = make.layers(make.SDXL)


def described(tmp_path, tensors, **metadata):
    return describe(read_header(make.write(tmp_path / "a.safetensors", tensors, **metadata)))


def header(*keys, **metadata):
    return Header(metadata, dict.fromkeys(keys, TensorInfo("F16", (8, 8))))


@pytest.mark.parametrize(
    ("tensors", "naming", "kinds"),
    [
        (make.kohya(LAYERS), "kohya", ("LoRA",)),
        (make.diffusers_2023(LAYERS), "diffusers", ("LoRA",)),
        (make.diffusers(LAYERS), "diffusers", ("LoRA",)),
        (make.diffusers_peft(LAYERS), "diffusers", ("LoRA",)),
        (make.peft(LAYERS), "PEFT", ("LoRA",)),
        (make.kohya(LAYERS | make.layers(make.TOON_CONV)), "kohya", ("LoCon",)),
        (make.loha(LAYERS), "kohya", ("LoHa",)),
        (make.lokr(LAYERS), "kohya", ("LoKr",)),
    ],
)
def test_formats(tmp_path, tensors, naming, kinds):
    file = described(tmp_path, tensors)
    assert (file.naming, file.kinds, file.base, file.context) == (naming, kinds, SDXL, 2048)
    assert next(iter(file.layers.values())) == (1280, 2048)
    assert file.unread == ()


@pytest.mark.parametrize("sizes", [make.TOON, make.TOON_CONV, make.TOON | make.TOON_CONV])
@pytest.mark.parametrize("write", [make.kohya, make.loha, make.lokr, make.diffusers])
def test_sizes_of_layers(tmp_path, sizes, write):
    found = sorted(size for size in described(tmp_path, write(make.layers(sizes))).layers.values() if size)
    assert found == sorted((out, torch.Size(rest).numel()) for out, *rest in sizes.values())


def test_all_namings_come_to_kohyas():
    expected = {key for key in make.kohya(LAYERS) if not key.endswith(".alpha")}
    for write in (make.diffusers_2023, make.diffusers, make.diffusers_peft, make.peft):
        assert set(core_keys(write(LAYERS)).values()) == expected
    assert set(core_keys(make.kohya(LAYERS)).values()) == set(make.kohya(LAYERS)), "kohya's stay"
    out = next(iter(core_keys(["unet.mid_block.attentions.0.attn1.processor.to_out_lora.up.weight"]).values()))
    assert out == "lora_unet_mid_block_attentions_0_attn1_to_out_0.lora_up.weight"


@pytest.mark.parametrize(
    ("keys", "base"),
    [
        (["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"], "FLUX or Hunyuan Video"),
        (["transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"], "FLUX or Hunyuan Video"),
        (["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"], "a diffusion transformer such as"),
        (["diffusion_model.blocks.0.cross_attn.k.lora_A.weight"], "a video model such as Wan"),
        (["lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_down.weight"], "Stable Diffusion 1 or 2"),
    ],
)
def test_other_models_by_their_layers(keys, base):
    ups = [key.replace("lora_A", "lora_B").replace("lora_down", "lora_up") for key in keys]
    assert describe(header(*keys, *ups)).base.startswith(base)


@pytest.mark.parametrize(
    ("width", "base"),
    [(2048, SDXL), (768, "Stable Diffusion 1.5"), (1024, "Stable Diffusion 2"), (1280, "SDXL's refiner"), (192, None)],
)
def test_the_width_of_cross_attention_decides(tmp_path, width, base):
    sizes = {"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v": (1280, width)}
    assert described(tmp_path, make.kohya(make.layers(sizes))).base == base


@pytest.mark.parametrize(
    ("said", "base"),
    [
        ("sdxl_base_v1-0", SDXL),
        ("sd_v1", "Stable Diffusion 1.5"),
        ("sd_v2_v", "Stable Diffusion 2"),
        ("flux1", "FLUX"),
        ("something new", None),
    ],
)
def test_metadata_decide_where_shapes_do_not_tell(tmp_path, said, base):
    layers = make.layers({"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q": (1280, 1280)})
    assert described(tmp_path, make.kohya(layers), ss_base_model_version=said).base == base
    assert described(tmp_path, make.kohya(LAYERS), ss_base_model_version="sd_v1").base == SDXL, "shapes go first"
    assert described(
        tmp_path, make.kohya(layers), **{"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}
    ).base == (SDXL)


def test_trigger_words(tmp_path):
    counts = {"10_miku": {"1girl": 40, "blue hair ": 30, "": 90}, "5_bg": {"1girl": 2, "sky\n\x1b[31m": 35}}
    tags = {"ss_tag_frequency": json.dumps(counts), "ss_sd_model_name": "base.safetensors"}
    file = described(tmp_path, make.kohya(LAYERS), **tags)
    assert file.triggers == ("1girl", "sky [31m", "blue hair")
    assert file.trained_on == "base.safetensors"
    assert described(tmp_path, make.kohya(LAYERS), **tags, **{"modelspec.trigger_phrase": "pastel"}).triggers == (
        "pastel",
    )
    for broken in ("{", "[1]", '{"a": 3}', '{"a": {"b": "c"}}', '{"a": {"b": Infinity}}', "[" * 100000):
        assert described(tmp_path, make.kohya(LAYERS), ss_tag_frequency=broken).triggers == ()


def test_hashes(tmp_path):
    path = make.write(tmp_path / "a.safetensors", make.kohya(LAYERS))
    again = make.write(tmp_path / "b.safetensors", make.kohya(LAYERS), note="other metadata")
    read = []
    whole, weights = hashes(path, read.append)
    assert whole == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read[-1] == path.stat().st_size
    assert hashes(again)[0] != whole and hashes(again)[1] == weights
    tensors = path.read_bytes()[8 + int.from_bytes(path.read_bytes()[:8], "little") :]
    assert weights == hashlib.sha256(tensors).hexdigest()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["model.diffusion_model.input_blocks.0.0.weight"], "is a diffusion model .* not a LoRA"),
        (["down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"], "is an AnimateDiff motion module"),
        (["down_blocks.0.motion_modules.0.processor.to_q_lora.up.weight"], "is a motion LoRA of AnimateDiff"),
        (["anything"], r"has no key of a LoRA \(its keys: anything\)"),
        ([], "its keys: none at all"),
        (["lora_unet_a.alpha"], "has no key of a LoRA"),
        (["lora_unet_a.lora_up.weight"], "has lora_up.weight of lora_unet_a without its other half"),
        (["lora_unet_a.hada_w1_b"], "has hada_w1_b of lora_unet_a without its other half"),
        (["lora_unet_a.lokr_w1"], "has a layer lora_unet_a without a whole lokr_w2"),
        (["lora_unet_a.lokr_w1", "lora_unet_a.lokr_w2_b"], "has a layer lora_unet_a without a whole lokr_w2"),
    ],
)
def test_what_is_no_lora(keys, words):
    with pytest.raises(LoraError, match=words):
        describe(header(*keys))


@pytest.mark.parametrize(("up", "down"), [("lora_up.weight", "lora_down.weight"), ("hada_w1_a", "hada_w1_b")])
def test_halves_of_other_ranks_are_refused(up, down):
    shapes = {f"lora_unet_a.{up}": TensorInfo("F16", (320, 4)), f"lora_unet_a.{down}": TensorInfo("F16", (8, 320))}
    with pytest.raises(LoraError, match=r"layer lora_unet_a whose halves \[320, 4\] and \[8, 320\] differ in rank"):
        describe(Header({}, shapes))


def test_a_part_without_a_shape_has_no_rank():
    shapes = {"lokr_w1": (2, 2), "lokr_w2": (4, 4), "lokr_w1_b": ()}
    file = describe(Header({}, {f"lora_unet_a.{part}": TensorInfo("F16", shape) for part, shape in shapes.items()}))
    assert file.ranks == () and file.layers == {"lora_unet_a": (8, 8)}


def test_whole_differences_are_loras():
    file = describe(header("diffusion_model.input_blocks.4.1.proj_in.diff", "diffusion_model.out.2.diff_b"))
    assert file.kinds == ("full difference",) and set(file.layers.values()) == {(8, 8), None}


def test_two_loras_in_one_file_and_pefts_dora_are_refused():
    with pytest.raises(LoraError, match="several LoRAs"):
        core_keys(["unet.mid_block.a.lora_A.one.weight", "unet.mid_block.a.lora_A.two.weight"])
    with pytest.raises(LoraError, match="DoRA"):
        core_keys(["unet.mid_block.a.lora_magnitude_vector.default.weight"])


@pytest.mark.parametrize(
    ("name", "speed", "lcm"),
    [
        ("lcm-lora-sdxl.safetensors", True, True),
        ("toon/toon_LCM_6.safetensors", True, True),
        ("latent-consistency/pytorch_lora_weights.safetensors", True, True),
        ("sdxl_lightning_4step.safetensors", True, False),
        ("Hyper-SDXL-8steps.safetensors", True, False),
        ("dmd2_sdxl_4step.safetensors", True, False),
        ("hyperrealism.safetensors", False, False),
        ("talcmagic.safetensors", False, False),
    ],
)
def test_names_of_loras_for_few_steps(name, speed, lcm):
    assert (is_speed_name(name), is_lcm_name(name)) == (speed, lcm)


def entry(name, weight, tmp_path, source="lora_1", clip_weight=None, **fit):
    choice = Choice(source, name, weight, weight if clip_weight is None else clip_weight)
    return Entry(choice, described(tmp_path, make.kohya(LAYERS)), Fit(unet=1, **fit), "ab", "cd")


def test_advice(tmp_path):
    def advice(*stack, **change):
        return warnings([entry(name, weight, tmp_path, **change) for name, weight in stack])

    assert advice(("pastel", 0.8), ("flat", 0.25), ("character_miku", 0.7)) == []
    assert advice() == []
    assert "4 LoRAs: more than 3" in advice(("a", 0.8), ("b", 0.2), ("c", 0.2), ("d", 0.1))[0]
    assert advice(("a", 0.8), ("b", 0.2), ("c", 0.2), ("d", 0)) == [], "one that is off does not count"
    assert "2 character LoRAs (chara A, character_b)" in advice(("chara A", 0.7), ("character_b", 0.7))[0]
    assert "2 strong styles (a, b)" in advice(("a", 0.7), ("b", 0.6))[0]
    assert advice(("a", 0.9)) == ["a has weight 0.9; advised is 0.7 to 0.85 for the main style"]
    assert "0.6 to 0.8 for a character" in advice(("chara", 1.0))[0]
    assert "choose it as speed_lora" in advice(("lcm-lora", 0.5))[0]
    assert advice(("lcm-lora", 1.0), source=SPEED) == []
    assert "2 of its layers are not in this model and do nothing (x, y)" in advice(("a", 0.8), unmatched=("x", "y"))[0]
    assert "1 of its layers have other sizes" in advice(("a", 0.8), misshapen=("x",))[0]


def test_report(tmp_path):
    text = report([entry("pastel.safetensors", 0.9, tmp_path, clip_weight=0.5)])
    for words in ("Warning: pastel", "weight: 0.9, on the text encoders 0.5", "base model: SDXL (cross-attention takes "
                  "2048", "rank 4", "SHA-256: ab", "(AutoV3): cd"):  # fmt: skip
        assert words in text
    assert report([]) == "No LoRA."
