"""Interpolate Frames in the real ComfyUI: frames kept bit for bit, new frames, and refusals."""

import pytest
import torch

from clips import painted
from node_runs import Interrupted, progress, stop
from sdxl_anime_video.nodes.interpolate import InterpolateFrames


def images(frames=5, height=48, width=64):
    """Values that are no multiples of 1/255: a round trip through 8 bits would show."""
    return torch.from_numpy(painted(frames, height, width)) / 255 * 0.97 + 0.0123


def interpolate(*values):
    return InterpolateFrames.execute(*values).args


@pytest.mark.parametrize("height, width", [(96, 128), (95, 127)])
def test_twice_the_rate(height, width):
    truth = images(9, height, width)
    result, fps = interpolate(truth[::2], 12.0, 24.0)
    assert fps == 24.0 and result.shape == truth.shape and result.dtype == truth.dtype
    assert torch.equal(result[::2], truth[::2]), "the clip's own frames are not touched"
    between = (result[1::2] - truth[1::2]).abs().mean()
    assert between < 0.6 * ((truth[:-2:2] + truth[2::2]) / 2 - truth[1::2]).abs().mean()
    assert result.min() >= 0 and result.max() <= 1


def test_a_rate_that_does_not_divide():
    clip = images(4)
    result, _ = interpolate(clip, 12.0, 30.0)
    assert len(result) == 9  # 3 * 2.5 steps, rounded, and one
    assert torch.equal(result[0], clip[0]) and torch.equal(result[-1], clip[-1])


@pytest.mark.parametrize("fps_in, fps_out", [(12.0, 12.0), (23.976, 23.98), (240.0, 240.0)])
def test_the_same_rate_changes_nothing(fps_in, fps_out):
    clip = images()
    clip[0, 0, 0] = float("nan")
    result, fps = interpolate(clip, fps_in, fps_out)
    assert fps == fps_out and result.shape == clip.shape and torch.equal(result.nan_to_num(7), clip.nan_to_num(7))


def test_a_lower_rate_drops_frames():
    clip = images(9)
    result, fps = interpolate(clip, 24.0, 12.0)
    assert fps == 12.0 and torch.equal(result, clip[::2])


@pytest.mark.parametrize("fps_out", [6.0, 12.0, 24.0])
def test_one_frame_stays_one(fps_out):
    clip = images(1)
    assert torch.equal(interpolate(clip, 12.0, fps_out)[0], clip)


@pytest.mark.parametrize("fps_out", [6.0, 12.0, 24.0])
def test_alpha_is_dropped_and_the_input_stays(fps_out):
    clip = torch.cat([images(), torch.full((5, 48, 64, 1), 0.5)], dim=3)
    before = clip.clone()
    result, _ = interpolate(clip, 12.0, fps_out)
    assert torch.equal(clip, before)
    assert torch.equal(result, interpolate(images(), 12.0, fps_out)[0])


def test_half_precision_stays_half():
    clip = images().half()
    result, _ = interpolate(clip, 12.0, 24.0)
    assert result.dtype == torch.float16 and torch.equal(result[::2], clip)


def test_progress_is_shown():
    with progress() as seen:
        interpolate(images(), 12.0, 24.0)
    assert seen[0] == (1, 9) and seen[-1] == (9, 9) and seen == sorted(seen)


def test_interrupt():
    with progress(stop) as seen, pytest.raises(Interrupted):
        interpolate(images(), 12.0, 24.0)
    assert seen == [(1, 9)]


def broken():
    clip = images()
    clip[2, 0, 0, 0] = float("nan")
    return clip


@pytest.mark.parametrize(
    "values, words",
    [
        ((broken(), 12.0, 24.0), "Interpolate Frames: frame 2 holds NaN"),
        ((images(0), 12.0, 24.0), "Interpolate Frames: images has shape.*at least one picture"),
        ((images()[0], 12.0, 24.0), "Interpolate Frames: images has shape"),
        ((images()[..., :1], 12.0, 24.0), "Interpolate Frames: images has shape"),
        ((images(), 0.0, 24.0), "Interpolate Frames: fps_in must be a number above 0, got 0"),
        ((images(), 12.0, float("inf")), "Interpolate Frames: fps_out must be a number above 0, got inf"),
        (
            (torch.zeros(1, 1, 1, 3).expand(40, 4096, 4096, 3), 0.01, 240.0),
            r"Interpolate Frames: 40 frames from 0\.01 to 240 fps are 936,001 frames of 4096x4096 px.* GB.*fps_out",
        ),
    ],
)
def test_refused(values, words):
    with pytest.raises(ValueError, match=words):
        interpolate(*values)
