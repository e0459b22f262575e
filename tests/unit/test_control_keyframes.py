"""Keyframes of a ControlNet: which frames, how strongly, by which picture."""

import pytest
import torch

from sdxl_anime_video.temporal.clip.keyframes import (
    FALLOFFS,
    keyframe_rows,
    parse_layer_weights,
    picture_of_frame,
    strength_curve,
)


@pytest.mark.parametrize(
    ("text", "frames", "rows"),
    [
        ("0,25%,50%,75%,100%", 16, [0, 4, 8, 11, 15]),
        ("0, 25%, 8, -1", 17, [0, 4, 8, 16]),
        ("-1, 0", 5, [4, 0]),
        (" ALL ", 3, [0, 1, 2]),
        ("100%", 1, [0]),
    ],
)
def test_keyframes(text, frames, rows):
    assert keyframe_rows(text, frames) == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "keyframes is empty; write"),
        (" , ", "keyframes is empty"),
        ("0, 8", "position 8 is outside the clip of 8 frame"),
        ("-9", "position -9 is outside"),
        ("0, 3, -5", "positions 3 and -5 are both frame 3"),
        ("0, 7, 100%", "positions 7 and 100% are both frame 7"),
        ("0, half", "cannot read position 'half'"),
        ("0, 120%", "cannot read position '120%'"),
        ("all, 3", "cannot read position 'all'"),
    ],
)
def test_keyframes_refused(text, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        keyframe_rows(text, 8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("falloff", FALLOFFS)
def test_every_frame_a_keyframe_is_exactly_one(falloff):
    assert torch.equal(strength_curve(range(7), 7, falloff, 3), torch.ones(7))


def test_falloff_shapes():
    assert strength_curve([0, 6], 8, "none", 4).tolist() == [1, 0, 0, 0, 0, 0, 1, 0]
    linear = strength_curve([0, 6], 8, "linear", 4)
    assert linear.tolist() == [1, 0.75, 0.5, 0.25, 0.5, 0.75, 1, 0.75]
    smooth = strength_curve([0, 6], 8, "smooth", 4)
    assert torch.allclose(smooth, (1 - torch.cos(torch.pi * linear)) / 2)
    assert smooth[0] == smooth[6] == 1
    assert strength_curve([2], 8, "smooth", 2).tolist()[4:] == [0, 0, 0, 0]  # nothing left, exactly
    assert strength_curve([2], 4, "linear", 1).tolist() == [0, 0, 1, 0]


def test_falloff_refused():
    with pytest.raises(ValueError, match="falloff is 'cosine'; choose one of none, linear, smooth"):
        strength_curve([0], 4, "cosine", 4)
    with pytest.raises(ValueError, match="falloff_frames is 0; it must be 1 or more"):
        strength_curve([0], 4, "linear", 0)


def test_pictures():
    assert picture_of_frame([0, 4], 5, 5) == [0, 1, 2, 3, 4]
    assert picture_of_frame([0, 4], 5, 2) == [0, 0, 0, 1, 1]
    assert picture_of_frame([4, 0], 5, 2) == [1, 1, 0, 0, 0]  # in the order written
    assert picture_of_frame([0, 4], 5, 1) == [0] * 5
    with pytest.raises(ValueError, match=r"^3 hint picture\(s\) for 5 frames and 2 keyframe\(s\); give one"):
        picture_of_frame([0, 4], 5, 3)


def test_layer_weights():
    assert parse_layer_weights("") == ()
    assert parse_layer_weights("1, 0.5;  0 -1e-1") == (1, 0.5, 0, -0.1)
    for bad in ("1, half", "nan", "1, inf"):
        with pytest.raises(ValueError, match=r"^layer_weights has '.*', which is not a number"):
            parse_layer_weights(bad)
