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


@pytest.fixture(scope="module", params=[PLAIN, FOLLOWS])
def clips(request):
    """Clips `[F, H, W, 3]` of one caption and seed: without the module, with it, and without it again."""
    register_folders()
    model, clip, vae = load_toon_comfy()
    module = LoadMotionModule.execute(request.param).result[0]
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


def test_frames_between_keyframes_follow_them():
    """In a camera pan steered at five of 16 frames, the pose errors of the eleven other frames are compared."""
    register_folders()
    model, clip, vae = load_toon_comfy()
    network = comfy.controlnet.load_controlnet(str(WEIGHTS.parent / "controlnet" / "toon" / "toon_pose.safetensors"))
    painted = paint_clip("boy, blonde hair, white shirt, night, pan", 16, 128, 1004)
    rows, text = [0, 4, 8, 11, 15], "0, 4, 8, 11, 15"
    hints = torch.from_numpy(hint_pictures(painted, "pose")[rows]).float() / 255
    prompts = (core.CLIPTextEncode().encode(clip, text)[0] for text in (painted.caption, ""))
    steered = ControlKeyframes.execute(*prompts, network, hints, 16, text, 1.0, "none", 0.0, 1.0).result
    between = {}
    for name in (PLAIN, FOLLOWS):
        module = LoadMotionModule.execute(name).result[0]
        moving = ApplyMotionModule.execute(model, module, 1.0, 0.0, 1.0, "auto").result[0]
        with torch.inference_mode():
            empty = {"samples": torch.zeros(16, 4, 16, 16)}
            latent = core.common_ksampler(moving, 1004, 8, 3.0, "dpmpp_2m", "karras", *steered, empty)[0]
            found = vae.decode(latent["samples"]).cpu().float().numpy()
        between[name] = scores(found, painted, rows)["between"]
    assert between[FOLLOWS] < 0.95 * between[PLAIN], between
