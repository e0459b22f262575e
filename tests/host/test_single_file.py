"""SDXL checkpoints in one file, as ComfyUI writes them, against the same weights in ComfyUI."""

import json

import comfy.model_base
import comfy.sd
import comfy.sdxl_clip
import comfy.supported_models
import comfy.utils
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sdxl_anime_video.demo.comfy import VOCABULARY, load_toon_comfy
from sdxl_anime_video.demo.model import TOWERS, load_toon_diffusers, tower_config
from sdxl_anime_video.temporal.hosts.diffusers.base import load_base
from sdxl_anime_video.temporal.hosts.diffusers.single_file import CONFIGS

CAPTION = "girl, blue hair, red dress, sunset, run"


def toon_configs(folder):
    """The shipped configs with the toon model's sizes in place of SDXL's."""
    unet, vae, _ = load_toon_diffusers()
    for name, module in (("unet", unet), ("vae", vae)):
        module.save_config(folder / name)
    for name, tower in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
        said = json.loads((CONFIGS / name / "config.json").read_text())
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({**said, **tower_config(tower, VOCABULARY)}))
    for name in ("model_index.json", "scheduler/scheduler_config.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text((CONFIGS / name).read_text())
    return folder


@pytest.fixture(scope="module")
def toon():
    return load_toon_comfy()


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    return toon_configs(tmp_path_factory.mktemp("configs"))


@pytest.fixture(scope="module")
def checkpoint(toon, tmp_path_factory):
    """The toon model as ComfyUI's CheckpointSave writes it."""
    path = tmp_path_factory.mktemp("checkpoint") / "toon.safetensors"
    model, clip, vae = toon
    comfy.sd.save_checkpoint(str(path), model, clip, vae)
    return path


def relative(value, expected):
    return float((value - expected).norm() / expected.norm())


@torch.no_grad()
def test_a_checkpoint_of_comfyui_is_the_same_model(base):
    toon = load_base("toon")
    for part in ("unet", "vae"):
        expected = getattr(toon, part).state_dict()
        found = getattr(base, part).state_dict()
        assert set(found) == set(expected) and all(torch.equal(found[key], expected[key]) for key in expected)
        assert not any(value.requires_grad for value in getattr(base, part).parameters())
    for mine, theirs in zip(base.encode_text(["", CAPTION]), toon.encode_text(["", CAPTION]), strict=True):
        assert relative(mine, theirs) < 1e-5
    assert (base.prediction, base.text_widths) == ("epsilon", (64, 128))
    assert base.origin == "toon.safetensors: SDXL checkpoint, predicts epsilon (no key v_pred)"


@pytest.fixture(scope="module")
def base(checkpoint, configs):
    return load_base(str(checkpoint), configs=configs)


TEXTS = [
    "",
    "1girl, solo; upper-body!  two  spaces\nand a line",
    "an Ünïcode naïve café 2024's <3 日本語",
    "a" * 300,
    "word " * 80,
    "antidisestablishmentarianism floccinaucinihilipilification " * 12,
]


@pytest.mark.parametrize("text", TEXTS)
def test_prompts_of_any_length_are_cut_as_comfyui_cuts_them(toon, base, text):
    """Any words, not only the toon world's."""
    tokens, pooled = toon[1].encode_from_tokens(toon[1].tokenize(text), return_pooled=True)
    mine, mine_pooled = base.encode_prompt(text)
    assert mine.shape == tokens.shape
    assert relative(mine, tokens) < 1e-4 and relative(mine_pooled, pooled) < 1e-4


def test_captions_are_cut_at_77_tokens(toon, base):
    text = "word " * 80
    tokens, pooled = toon[1].encode_from_tokens(toon[1].tokenize("word " * 75), return_pooled=True)
    mine, mine_pooled = base.encode_text([text, "word"])
    assert mine.shape == (2, 77, 192)
    assert relative(mine[:1], tokens) < 1e-4 and relative(mine_pooled[:1], pooled) < 1e-4


def test_full_size_shapes_are_sdxls():
    """The shipped configs, against a whole SDXL that ComfyUI builds: every tensor, without allocating one."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders import single_file_utils as convert
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    def config(name):
        return json.loads((CONFIGS / name / "config.json").read_text())

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config("unet"))
        vae = AutoencoderKL.from_config(config("vae"))
        clip_l = CLIPTextModel(CLIPTextConfig(**config("text_encoder")))
        clip_g = CLIPTextModelWithProjection(CLIPTextConfig(**config("text_encoder_2")))
    stored = full_size_checkpoint()
    found = {
        unet: convert.convert_ldm_unet_checkpoint(dict(stored), config=config("unet")),
        vae: convert.convert_ldm_vae_checkpoint(dict(stored), config=config("vae")),
        clip_l: convert.convert_ldm_clip_checkpoint(dict(stored)),
        clip_g: convert.convert_open_clip_checkpoint(clip_g, dict(stored), prefix="conditioner.embedders.1.model."),
    }
    for module, tensors in found.items():
        expected = {name.removeprefix("text_model."): value.shape for name, value in module.named_parameters()}
        shapes = {name.removeprefix("text_model."): value.shape for name, value in tensors.items()}
        shapes.pop("embeddings.position_ids", None)
        assert shapes == expected
    assert sum(value.numel() for value in unet.parameters()) == 2_567_463_684  # as published


def full_size_checkpoint():
    """Names and shapes of an SDXL checkpoint, as ComfyUI saves one, on the meta device."""
    layout = {
        **comfy.supported_models.SDXL.unet_config,
        "in_channels": 4,
        "out_channels": 4,
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
        "num_classes": "sequential",
        "use_spatial_transformer": True,
        "image_size": 32,
        "legacy": False,
    }
    meta = torch.device("meta")
    model_config = comfy.supported_models.SDXL(layout)
    model = comfy.model_base.SDXL(model_config, device=meta)
    unet = {f"model.diffusion_model.{name}": value for name, value in model.diffusion_model.state_dict().items()}
    with meta:
        vae = comfy.ldm.models.autoencoder.AutoencoderKL(
            ddconfig={
                "double_z": True,
                "z_channels": 4,
                "resolution": 256,
                "in_channels": 3,
                "out_ch": 3,
                "ch": 128,
                "ch_mult": [1, 2, 4, 4],
                "num_res_blocks": 2,
                "attn_resolutions": [],
                "dropout": 0.0,
            },
            embed_dim=4,
        )
    clip = comfy.sdxl_clip.SDXLClipModel(device="meta", dtype=torch.float16)
    text = model_config.process_clip_state_dict_for_saving(dict(clip.state_dict()))
    return {**unet, **{f"first_stage_model.{name}": value for name, value in vae.state_dict().items()}, **text}


def rewritten(checkpoint, path, change=lambda tensors: None, metadata=None):
    tensors = load_file(checkpoint)
    change(tensors)
    save_file(tensors, path, metadata)
    return path


def test_what_a_checkpoint_predicts(checkpoint, configs, tmp_path):
    def v_pred(tensors):
        tensors["v_pred"] = torch.empty(0)
        tensors["ztsnr"] = torch.empty(0)

    base = load_base(str(rewritten(checkpoint, tmp_path / "v.safetensors", v_pred)), configs=configs)
    assert base.prediction == "v_prediction" and base.scheduler_config["rescale_betas_zero_snr"]
    assert "v_prediction with zero terminal SNR (key v_pred and ztsnr)" in base.origin
    assert base.sigmas[-1] > 4000
    said = {"modelspec.prediction_type": "v"}
    base = load_base(str(rewritten(checkpoint, tmp_path / "said.safetensors", metadata=said)), configs=configs)
    assert base.prediction == "v_prediction" and "modelspec.prediction_type=v" in base.origin
    assert 14 < base.sigmas[-1] < 15


UNET, CLIP_L = "model.diffusion_model.", "conditioner.embedders.0."


def _inpainting(tensors):
    key = f"{UNET}input_blocks.0.0.weight"
    tensors[key] = torch.zeros(tensors[key].shape[0], 9, 3, 3)


def _sd1(tensors):
    for key in [key for key in tensors if key.startswith("conditioner.")]:
        tensors[key.replace("conditioner.embedders.0.", "cond_stage_model.")] = tensors.pop(key)


def _refiner(tensors):
    for key in [key for key in tensors if key.startswith(CLIP_L)]:
        del tensors[key]
    for key in [key for key in tensors if key.startswith("conditioner.embedders.1.")]:
        tensors[key.replace("embedders.1.", "embedders.0.")] = tensors.pop(key)


def _drop(prefix):
    def change(tensors):
        for key in [key for key in tensors if key.startswith(prefix)]:
            del tensors[key]

    return change


def _lora(tensors):
    tensors.clear()
    tensors["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"] = torch.zeros(4, 128)


def _noisy(tensors):
    tensors["edm_vpred.sigma_max"] = torch.tensor(120.0)


def _wider(tensors):
    key = f"{UNET}time_embed.0.weight"
    tensors[key] = torch.zeros(2 * tensors[key].shape[0], tensors[key].shape[1])


@pytest.mark.parametrize(
    "change, words",
    [
        (_inpainting, "is an inpainting model: its UNet takes 9 channels, not 4; give"),
        (_sd1, "is a Stable Diffusion 1 or 2 checkpoint, not SDXL; give"),
        (_refiner, "is SDXL's refiner"),
        (_drop("first_stage_model."), "has no VAE; give a whole checkpoint"),
        (_drop("conditioner."), "has no text encoder CLIP-L, no text encoder CLIP-G; give"),
        (
            _drop(f"{UNET}middle_block.1.transformer_blocks.0.attn1"),
            "does not have SDXL's layers: layers are missing; give",
        ),
        (
            _drop(f"{CLIP_L}transformer.text_model.encoder.layers.1.mlp"),
            "lacks 4 of SDXL's tensors, such as text_encoder.enc",
        ),
        (_lora, "is a LoRA, not an SDXL checkpoint; give"),
        (_noisy, "has noise levels of another kind .key edm_vpred.sigma_max: EDM"),
        (_wider, "does not have SDXL's layers: .*give the file"),
    ],
)
def test_files_that_will_not_do_are_named(checkpoint, configs, tmp_path, change, words):
    path = rewritten(checkpoint, tmp_path / "file.safetensors", change)
    with pytest.raises(ValueError, match=f"^base: {path} {words}") as caught:
        load_base(str(path), configs=configs)
    assert "\n" not in str(caught.value)


def test_files_that_are_damaged_or_of_another_kind_are_named(checkpoint, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(checkpoint.read_bytes()[:1_000_000])
    with pytest.raises(ValueError, match=r"cut.safetensors is cut off: .* Download"):
        load_base(str(cut))
    pickle = tmp_path / "model.ckpt"
    torch.save({"state_dict": {"model.diffusion_model.x": torch.zeros(1)}}, pickle)
    with pytest.raises(ValueError, match=r"model.ckpt was written by torch.save.*save it with CheckpointSave"):
        load_base(str(pickle))
    with pytest.raises(ValueError, match=r"does not exist; give a \.safetensors file, a diffusers folder, or toon"):
        load_base(str(tmp_path / "none.safetensors"))


def test_the_checkpoint_names_its_layout(checkpoint):
    with safe_open(checkpoint, "pt") as file:
        keys = set(file.keys())
    assert {
        f"{CLIP_L}transformer.text_model.final_layer_norm.bias",
        "conditioner.embedders.1.model.ln_final.bias",
    } < keys
    assert list(TOWERS) == ["clip_l", "clip_g"]
