"""Motion modules and LoRAs with ComfyUI's own layers and patcher."""

import pytest
import torch
from safetensors.torch import save_file

from sdxl_anime_video.temporal.layers.motion_module import MotionConfig, MotionModule, Site
from sdxl_anime_video.temporal.weights.motion.file import load_motion_module, save_motion_module
from sdxl_anime_video.temporal.weights.motion.lora import load_motion_lora, patches

FRAMES = 4
CHANNELS = {Site("down", 0, 0): 64, Site("up", 1, 2): 64}


@pytest.fixture
def file(tmp_path):
    module = MotionModule(MotionConfig(CHANNELS, max_frames=8))
    module.reset_parameters()
    with torch.no_grad():
        for value in module.parameters():
            value.normal_(std=0.1)
    save_motion_module(module, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_cast_as_they_are_used(file, dtype):
    import comfy.ops

    kept = load_motion_module(file, comfy.ops.manual_cast, dtype)
    full = load_motion_module(file, dtype=dtype).float()
    x = torch.randn(2 * FRAMES, 64, 5, 3)
    with torch.no_grad():
        for site in CHANNELS:
            got = kept.site(site)(x, FRAMES)
            assert got.dtype == torch.float32
            assert torch.allclose(got, full.site(site)(x, FRAMES), atol=1e-6)
    assert {value.dtype for value in kept.state_dict().values()} == {dtype}


def test_patches_are_what_the_model_patcher_takes(file, tmp_path):
    import comfy.model_patcher
    import comfy.ops

    key = "up_blocks.1.motion_modules.2.transformer_blocks.0.attention_blocks.1.to_v.weight"
    name = "unet.up_blocks.1.motion_modules.2.transformer_blocks.0.attn2.to_v"
    factors = {f"{name}.lora_A.weight": torch.randn(2, 64), f"{name}.lora_B.weight": torch.randn(64, 2)}
    save_file(factors, tmp_path / "l.safetensors")
    lora = load_motion_lora(tmp_path / "l.safetensors")
    module = load_motion_module(file, comfy.ops.manual_cast)
    before = module.state_dict()[key].clone()

    patcher = comfy.model_patcher.ModelPatcher(module, torch.device("cpu"), torch.device("cpu"))
    assert patcher.add_patches(patches(module, lora), 0.5) == [key]
    patcher.patch_model()
    patched = module.state_dict()[key].clone()
    patcher.unpatch_model()
    assert torch.equal(module.state_dict()[key], before) and not torch.equal(patched, before)
    delta = factors[f"{name}.lora_B.weight"] @ factors[f"{name}.lora_A.weight"]
    assert torch.allclose(before + 0.5 * delta, patched, atol=1e-6)
