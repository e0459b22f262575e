"""The toon motion modules that come with the pack, by their nodes in a real ComfyUI."""

import comfy.controlnet
import nodes as core
import pytest
import torch

from sdxl_anime_video.benchmarks.judging.control import scores
from sdxl_anime_video.demo.comfy import load_toon_comfy, register_folders
from sdxl_anime_video.demo.hints import hint_pictures
from sdxl_anime_video.demo.model import WEIGHTS
from sdxl_anime_video.demo.painter import paint_clip
from sdxl_anime_video.nodes.control_keyframes import ControlKeyframes
from sdxl_anime_video.nodes.motion_module import ApplyMotionModule, LoadMotionModule
from sdxl_anime_video.temporal.measure import metrics

PLAIN, FOLLOWS = (f"toon/toon_motion{name}.safetensors" for name in ("", "_keyframes"))


@pytest.fixture(scope="module")
def toon():
    register_folders()
    return load_toon_comfy()


def encoded(toon, *texts):
    return [core.CLIPTextEncode().encode(toon[1], text)[0] for text in texts]


def rendered(toon, module, positive, negative, frames, seed):
    """A clip `[F, H, W, 3]` with a module of that file name, or without one."""
    model, _, vae = toon
    if module:
        loaded = LoadMotionModule.execute(module).result[0]
        model = ApplyMotionModule.execute(model, loaded, 1.0, 0.0, 1.0, "auto").result[0]
    empty = {"samples": torch.zeros(frames, 4, 16, 16)}
    with torch.inference_mode():
        latent = core.common_ksampler(model, seed, 8, 3.0, "dpmpp_2m", "karras", positive, negative, empty)[0]
        return vae.decode(latent["samples"]).cpu().float().numpy()


def test_their_frames_belong_together(toon):
    conds = encoded(toon, "boy, red hair, blue shirt, sunset, wave", "")
    plain, *moving = (metrics.flicker(rendered(toon, name, *conds, 8, 3)) for name in ("", PLAIN, FOLLOWS))
    assert max(moving) < 0.7 * plain


def test_frames_between_keyframes_follow_them(toon):
    """In a camera pan steered at five of 16 frames, the pose errors of the eleven other frames are compared."""
    network = comfy.controlnet.load_controlnet(str(WEIGHTS.parent / "controlnet" / "toon" / "toon_pose.safetensors"))
    painted = paint_clip("boy, blonde hair, white shirt, night, pan", 16, 128, 1004)
    rows, text = [0, 4, 8, 11, 15], "0, 4, 8, 11, 15"
    hints = torch.from_numpy(hint_pictures(painted, "pose")[rows]).float() / 255
    prompts = encoded(toon, painted.caption, "")
    steered = ControlKeyframes.execute(*prompts, network, hints, 16, text, 1.0, "none", 0.0, 1.0).result
    plain, follows = (
        scores(rendered(toon, name, *steered, 16, 1004), painted, rows)["between"] for name in (PLAIN, FOLLOWS)
    )
    assert follows < 0.95 * plain, (follows, plain)
