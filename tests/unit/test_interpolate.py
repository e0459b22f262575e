"""Frames between frames: how many, where they lie, whose they are, and how near the truth they come."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from clips import PALETTE, painted
from sdxl_anime_video.media.interpolation import frame_count, frame_positions, iter_between


def places(*numbers):
    return [Fraction(number) for number in numbers]


def error(frames, truth):
    return np.abs(frames.astype(int) - truth).mean()


@pytest.mark.parametrize(
    "frames, fps_in, fps_out, expected",
    [
        (3, 12, 24, places(0, 0.5, 1, 1.5, 2)),
        (3, 8, 24, places(0, "1/3", "2/3", 1, "4/3", "5/3", 2)),
        (3, 12, 12, places(0, 1, 2)),
        (3, 23.976, 23.98, places(0, 1, 2)),
        (4, 12, 30, places(0, "3/8", "3/4", "9/8", "3/2", "15/8", "9/4", "21/8", 3)),  # 7.5 steps become 8
        (7, 24, 12, places(0, 2, 4, 6)),
        (8, 24, 12, places(0, 2, 4, 6)),
        (7, 24, 16, places(0, 2, 3, 5, 6)),  # 1.5 is as near to 2 as to 1
        (7, 24, 23.976, places(*range(7))),
        (2, 24, 1, places(0)),
        (1, 12, 24, places(0)),
        (1, 24, 12, places(0)),
    ],
)
def test_places(frames, fps_in, fps_out, expected):
    assert frame_positions(frames, fps_in, fps_out) == expected
    assert frame_count(frames, fps_in, fps_out) == len(expected)


@pytest.mark.parametrize("fps_in, fps_out", [(12, 24), (12, 60), (12, 30), (8.5, 23.976), (23.976, 24), (7, 240)])
@pytest.mark.parametrize("frames", [2, 3, 16, 97])
def test_a_higher_rate_keeps_both_ends_and_even_steps(frames, fps_in, fps_out):
    found = frame_positions(frames, fps_in, fps_out)
    assert found[0] == 0 and found[-1] == frames - 1
    assert len({b - a for a, b in pairwise(found)}) == 1
    assert abs(len(found) - 1 - (frames - 1) * fps_out / fps_in) < 0.51


@pytest.mark.parametrize("fps_out", [1, 5, 11.988, 12, 16, 23])
def test_a_lower_rate_takes_the_nearest_frame_of_the_clip(fps_out):
    found = frame_positions(48, 24, fps_out)
    assert all(abs(place - index * 24 / fps_out) < 0.51 and place <= 47 for index, place in enumerate(found))
    assert math.isclose(len(found) / fps_out, 2, abs_tol=0.6 / fps_out), "it lasts as long as before"


@pytest.mark.parametrize(
    "values, words",
    [
        ((0, 12, 24), "at least one frame"),
        ((2, 0, 24), "fps_in must be"),
        ((2, 12, float("nan")), "fps_out must be"),
        ((2, 12, -1), "fps_out must be"),
    ],
)
def test_refused(values, words):
    with pytest.raises(ValueError, match=words):
        frame_positions(*values)


@pytest.mark.parametrize("height, width", [(1, 1), (15, 17), (31, 160), (96, 128), (97, 131), (384, 400)])
@pytest.mark.parametrize("frames, rate", [(2, Fraction(2)), (5, Fraction(2)), (4, Fraction(8, 3)), (3, Fraction(7, 2))])
def test_each_place_gets_its_frame_at_any_size(height, width, frames, rate):
    clip = painted(frames, height, width)
    found = list(iter_between(iter(clip), rate))
    assert len(found) == (frames - 1) * rate + 1
    for index, frame in enumerate(found):
        assert frame.shape == (height, width, 3) and frame.dtype == np.uint8
        if (index / rate).denominator == 1:
            assert np.array_equal(frame, clip[int(index / rate)])


def test_a_single_frame_has_nothing_between():
    assert list(iter_between(painted(1), Fraction(2))) == [] == list(iter_between([], Fraction(2)))


def test_still_colours_stay_to_the_bit():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (40, 56, 3), np.uint8)
    picture[:8, : 8 * len(PALETTE)] = np.repeat(np.array(PALETTE, np.uint8), 8, axis=0)
    for frame in iter_between([picture] * 4, Fraction(3)):
        assert np.array_equal(frame, picture)


@pytest.mark.parametrize("height, width", [(96, 128), (400, 512)])
def test_motion_is_followed(height, width):
    """Every other frame left out and found again: nearer the truth than repeating or mixing the neighbours."""
    truth = painted(13, height, width)
    half = truth[::2]
    found = np.stack(list(iter_between(half, Fraction(2))))[1::2]
    mixed = (half[:-1].astype(int) + half[1:]) // 2
    assert error(found, truth[1::2]) < 0.5 * error(mixed, truth[1::2])
    assert error(found, truth[1::2]) < 0.5 * error(half[:-1], truth[1::2])


def test_each_channel_moves():
    """Pictures that differ in one channel alone: none is taken for another."""
    for channel in range(3):
        truth = np.full((7, 64, 96, 3), 128, np.uint8)
        for index, picture in enumerate(truth):
            picture[20:44, 10 + 6 * index : 34 + 6 * index, channel] = 250
        found = np.stack(list(iter_between(truth[::2], Fraction(2))))
        others = [c for c in range(3) if c != channel]
        assert (found[..., others] == 128).all()
        assert np.array_equal(found[::2], truth[::2])


def test_nothing_is_mixed_across_a_cut():
    day = painted(6)
    night = 255 - painted(6)[:, ::-1, ::-1]
    clip = np.concatenate([day[:3], night[3:]])
    found = list(iter_between(clip, Fraction(4)))
    for frame in found[9:12]:
        assert np.array_equal(frame, clip[2]) or np.array_equal(frame, clip[3])
    assert not np.array_equal(found[6], clip[1]) and not np.array_equal(found[6], clip[2]), "elsewhere motion goes on"


def test_frames_of_different_sizes_are_named():
    with pytest.raises(ValueError, match="frame 2 has shape"):
        list(iter_between([*painted(2), painted(1, 32, 32)[0]], Fraction(2)))


def test_frames_are_taken_as_they_are_needed():
    taken = 0

    def frames():
        nonlocal taken
        for taken, picture in enumerate(painted(20, 32, 32), start=1):  # noqa: B007
            yield picture

    for index, _ in enumerate(iter_between(frames(), Fraction(2))):
        assert taken <= index // 2 + 4
    assert taken == 20
