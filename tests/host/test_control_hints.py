"""Control Hints in the real ComfyUI: rules for every kind, and canny. `test_hint_detectors.py`: other kinds."""

import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

import clips
from node_runs import Interrupted, progress, stop
from sdxl_anime_video.media.hints import canny, hint_size, resized
from sdxl_anime_video.media.reader import iter_clip
from sdxl_anime_video.nodes.control_hints import ControlHints


def images(frames=5):
    return torch.from_numpy(clips.painted(frames)).float() / 255


def hints(pictures, kind="canny", resolution=0, **settings):
    return ControlHints.execute(pictures, kind, resolution, **settings).args[0]


def test_one_hint_a_frame():
    found = hints(images(), low=80, high=150)
    expected = np.stack([canny(picture, 80, 150) for picture in clips.painted(5)])
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.from_numpy(expected) / 255)
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("name", ["big_buck_bunny.mp4", "animatediff_model_01_01.gif"])
def test_clips_that_others_made(name):
    """Edges of real pictures: thin, few, in every frame, and from frame to frame more alike than far apart."""
    file = Path(os.environ.get("SAV_TEST_MEDIA", "")) / name
    if not file.is_file():
        pytest.skip(f"SAV_TEST_MEDIA names no folder with {name}")
    frames = torch.from_numpy(np.stack(list(islice(iter_clip(file), 12)))).float() / 255
    found = hints(frames, resolution=256, keyframes="0, 1, 100%")
    assert found.shape[1:3] == hint_size(*frames.shape[1:3], 256)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert ((found.mean((1, 2, 3)) > 0.01) & (found.mean((1, 2, 3)) < 0.3)).all()
    near, far = ((found[0] != found[i]).float().mean() for i in (1, 2))
    assert near <= far


def test_resolution():
    found = hints(images(2), resolution=192)
    assert found.shape == (2, 192, 256, 3)
    assert torch.equal(found[1], torch.from_numpy(canny(resized(clips.painted(2)[1], 192, 256), 100, 200)) / 255)


def test_only_keyframes_are_worked_on():
    whole = hints(images())
    broken = images()
    broken[2] = float("nan")  # not one of the keyframes
    assert torch.equal(hints(broken, keyframes="0, 25%, -1"), whole[[0, 1, 4]])
    with pytest.raises(ValueError, match="Control Hints: frame 2 holds NaN"):
        hints(broken)


def test_alpha_is_dropped_and_inputs_stay():
    pictures = torch.cat([images(1), torch.zeros(1, 96, 128, 1)], -1)
    before = pictures.clone()
    assert torch.equal(hints(pictures), hints(images(1)))
    assert torch.equal(pictures, before)


def test_progress_and_interrupt():
    with progress() as seen:
        hints(images(3))
    assert seen[0] == (1, 3) and seen[-1] == (3, 3)  # newer versions of ComfyUI omit some in between
    with progress() as seen, pytest.raises(Interrupted):
        stop()
        hints(images(3))
    assert not seen


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "sketch"}, "kind is 'sketch'; choose one of openpose, depth, .*canny"),
        ({"low": 300}, "low is 300 and high 200; low must lie between 0 and high"),
        ({"low": -1}, "low is -1"),
        ({"resolution": -64}, "resolution is -64"),
        ({"keyframes": "9"}, "position 9 is outside the clip of 2"),
        ({"keyframes": "0, -2"}, "positions 0 and -2 are both frame 0"),
        ({"keyframes": "x"}, "cannot read position 'x'"),
    ],
)
def test_settings_that_cannot_be_are_named(settings, words):
    with pytest.raises(ValueError, match=f"^Control Hints: {words}"):
        hints(images(2), **settings)


def test_no_frames_is_an_error():
    with pytest.raises(ValueError, match=r"Control Hints: images has shape \[0, 8, 8, 3\]"):
        hints(torch.zeros(0, 8, 8, 3))
