"""Motion modules against their authors: numbers that their code gave, kept in tests/data, and that code itself.

SAV_ANIMATEDIFF and SAV_HOTSHOT_XL name checkouts of guoyww/AnimateDiff (branch sdxl) and hotshotco/Hotshot-XL; where
they are not set the committed numbers stand for them. `motion_references.py` wrote those.
"""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import motion_references as references
import tiny
from sdxl_anime_video.schedulers.best_hq import training_sigmas
from sdxl_anime_video.temporal.layers.motion_module import FORMATS as ARITHMETIC
from sdxl_anime_video.temporal.layers.motion_module import MotionConfig, MotionModule

FORMATS = ("animatediff", "hotshot")


@pytest.fixture(scope="module")
def unet():
    made = tiny.diffusers_unet()
    made.load_state_dict(references.spatial_state())
    return made


@pytest.fixture(scope="module", params=FORMATS)
def format(request):
    return request.param


@pytest.fixture(scope="module")
def golden(format):
    return load_file(references.DATA / f"motion_{format}.safetensors")


def test_the_authors_numbers(unet, format, golden, tmp_path):
    got = references.ours(unet, format, tmp_path)
    for name in ("unet", "wide"):
        assert references.difference(got[name], golden[name]) < 1e-5, name


def test_the_authors_code(unet, format, golden, tmp_path):
    folder = os.environ.get(references.ENVIRONMENT[format])
    if not folder:
        pytest.skip(f"{references.ENVIRONMENT[format]} does not name a checkout of {references.SOURCE[format]}")
    theirs, got = references.outputs(format, folder), references.ours(unet, format, tmp_path)
    for name in ("unet", "wide"):
        assert references.difference(theirs[name], golden[name]) < 1e-5, (
            f"{name}: the committed numbers are no longer theirs"
        )
        assert references.difference(got[name], theirs[name]) < 1e-5, name


def test_the_formats_are_not_each_other(unet, golden, format, tmp_path):
    """The numbers tell the two arithmetics apart: with the other's norms the same weights miss them."""
    other = {"animatediff": "hotshot", "hotshot": "animatediff"}[format]
    channels = references.channels_of(unet)
    right = references.seeded_file(tmp_path / "a.safetensors", channels, format)
    wrong = MotionModule(MotionConfig(channels, other, references.LENGTHS[format]))
    wrong.load_state_dict(right.state_dict())
    given = references.unet_inputs()
    site, width = next(iter(right.sites.items()))
    x = given["sample"].repeat(1, width // 4, 1, 1)
    with torch.no_grad():
        a, b = right.site(site)(x, references.FRAMES), wrong.site(site)(x, references.FRAMES)
    assert references.difference(b, a) > 1e-3


# The schedules that the authors' programs make, with diffusers' own arithmetic for them.
SIGMA_MAX = {"animatediff": 65.9, "hotshot": 14.6}


def test_noise_schedules(format):
    from diffusers import EulerDiscreteScheduler

    start, end = ARITHMETIC[format].betas
    if format == "animatediff" and (folder := os.environ.get(references.ENVIRONMENT[format])):
        import yaml

        said = yaml.safe_load((Path(folder) / "configs/inference/inference.yaml").read_text("utf-8"))
        assert said["noise_scheduler_kwargs"] == {
            "num_train_timesteps": 1000,
            "beta_start": start,
            "beta_end": end,
            "beta_schedule": "scaled_linear",
        }
    theirs = EulerDiscreteScheduler(1000, start, end, "scaled_linear", timestep_spacing="leading", steps_offset=1)
    abar = theirs.alphas_cumprod.double()
    sigmas = training_sigmas(start, end, "scaled_linear", 1000)
    assert references.difference(sigmas, ((1 - abar) / abar).sqrt()) < 1e-4  # diffusers multiplies in fp32
    assert round(sigmas[-1].item(), 1) == SIGMA_MAX[format]
