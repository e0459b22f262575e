"""The toon motion module that comes with the pack, by its nodes in a real ComfyUI."""

import nodes as core
import pytest
import torch

from sdxl_anime_video.demo.comfy import load_toon_comfy, register_folders
from sdxl_anime_video.nodes.motion_module import ApplyMotionModule, LoadMotionModule
from sdxl_anime_video.temporal import metrics

NAME = "toon/toon_motion.safetensors"


@pytest.fixture(scope="module")
def clips():
    """Clips `[F, H, W, 3]` of one caption and seed: without the module, with it, and without it again."""
    register_folders()
    model, clip, vae = load_toon_comfy()
    module = LoadMotionModule.execute(NAME).result[0]
    moving = ApplyMotionModule.execute(model, module, 1.0, 0.0, 1.0, "auto").result[0]
    positive, negative = (
        core.CLIPTextEncode().encode(clip, text)[0] for text in ("boy, red hair, blue shirt, sunset, wave", "")
    )
    empty = {"samples": torch.zeros(8, 4, 16, 16)}
    found = []
    with torch.inference_mode():
        for each in (model, moving, model):
            latent = core.common_ksampler(each, 3, 8, 3.0, "dpmpp_2m", "karras", positive, negative, empty)[0]
            found.append(vae.decode(latent["samples"]).cpu().float().numpy())
    return found


def test_its_frames_belong_together(clips):
    plain, moving, _ = clips
    assert metrics.flicker(moving) < 0.7 * metrics.flicker(plain)


def test_nothing_of_it_stays_behind(clips):
    plain, _, again = clips
    assert (plain == again).all()
