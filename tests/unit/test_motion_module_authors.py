"""Motion modules against their authors: numbers that their code gave, kept in tests/data, and that code itself.

SAV_ANIMATEDIFF and SAV_HOTSHOT_XL name checkouts of guoyww/AnimateDiff (branch sdxl) and hotshotco/Hotshot-XL; where
they are not set the committed numbers stand for them. `motion_references.py` wrote those.
"""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

import motion_references as references
import tiny
from sdxl_anime_video.temporal.hosts.diffusers_motion import MotionUNet, unet_channels
from sdxl_anime_video.temporal.motion_module import MotionConfig, MotionModule, Site
from sdxl_anime_video.temporal.motion_module_format import load_motion_module, save_motion_module

FORMATS = ("animatediff", "hotshot")
LENGTHS = {"animatediff": 32, "hotshot": 24}


def difference(got, expected):
    return ((got - expected).norm() / expected.norm()).item()


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


def seeded_file(path, channels, format):
    """A file under the authors' names with the weights that their code was given."""
    module = MotionModule(MotionConfig(channels, format, LENGTHS[format]))
    module.reset_parameters()  # for the position tables
    save_motion_module(module, path)
    state = load_file(path)
    save_file({**state, **references.motion_weights({k: tuple(v.shape) for k, v in state.items()})}, path)
    return load_motion_module(path)


def ours(unet, format, folder):
    """What our modules give in the place of the authors' UNet and block."""
    given = references.unet_inputs()
    rows = {name: given[name].repeat_interleave(references.FRAMES, 0) for name in ("text", "pooled", "time_ids")}
    # neither of them has a motion module in the middle
    channels = {site: width for site, width in unet_channels(unet).items() if site.stage != "mid"}
    site = Site("down", 2, 1)
    wide = seeded_file(folder / "wide.safetensors", {site: references.WIDE}, format)
    with torch.no_grad(), MotionUNet(unet, seeded_file(folder / "unet.safetensors", channels, format)) as motion:
        out = motion(
            given["sample"],
            torch.tensor(400),
            rows["text"],
            added_cond_kwargs={"text_embeds": rows["pooled"], "time_ids": rows["time_ids"]},
            return_dict=False,
            num_frames=references.FRAMES,
        )[0]
        return {"unet": out, "wide": wide.site(site)(references.wide_input(), references.FRAMES)}


def test_the_authors_numbers(unet, format, golden, tmp_path, record_property):
    got = ours(unet, format, tmp_path)
    for name in ("unet", "wide"):
        record_property(name, difference(got[name], golden[name]))
        assert difference(got[name], golden[name]) < 1e-5, name


def test_the_authors_code(unet, format, golden, tmp_path):
    folder = os.environ.get(references.ENVIRONMENT[format])
    if not folder:
        pytest.skip(f"{references.ENVIRONMENT[format]} does not name a checkout of {references.SOURCE[format]}")
    theirs, got = references.outputs(format, folder), ours(unet, format, tmp_path)
    for name in ("unet", "wide"):
        assert difference(theirs[name], golden[name]) < 1e-5, f"{name}: the committed numbers are no longer theirs"
        assert difference(got[name], theirs[name]) < 1e-5, name


def test_the_formats_are_not_each_other(unet, golden, format, tmp_path):
    """The numbers tell the two arithmetics apart: with the other's norms the same weights miss them."""
    other = {"animatediff": "hotshot", "hotshot": "animatediff"}[format]
    channels = {site: width for site, width in unet_channels(unet).items() if site.stage != "mid"}
    right = seeded_file(tmp_path / "a.safetensors", channels, format)
    wrong = MotionModule(MotionConfig(channels, other, LENGTHS[format]))
    wrong.load_state_dict(right.state_dict())
    given = references.unet_inputs()
    site, x = right.sites[0], given["sample"].repeat(1, right.channels[right.sites[0]] // 4, 1, 1)
    with torch.no_grad():
        a, b = right.site(site)(x, references.FRAMES), wrong.site(site)(x, references.FRAMES)
    assert difference(b, a) > 1e-3
