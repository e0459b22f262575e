"""How a clip is cut: everything is covered, nothing twice where it must not be."""

import itertools

import pytest
import torch

from sdxl_anime_video.temporal.clip.segments import (
    CARRIES,
    FUSES,
    SCHEDULES,
    Segment,
    plan_segments,
    plan_windows,
    window_weights,
)

CASES = [(f, n, o) for f, n, o in itertools.product(range(1, 40), (1, 2, 5, 8, 16), (0, 1, 2, 4, 7)) if o < n]


def test_segments_by_hand():
    assert plan_segments(16, 16, 4) == [Segment(0, 16)]
    assert plan_segments(28, 16, 4) == [Segment(0, 16), Segment(12, 28, 4)]
    assert plan_segments(20, 16, 4) == [Segment(0, 16), Segment(4, 20, 12)]
    assert plan_segments(20, 16, 0) == [Segment(0, 16), Segment(16, 20)]
    assert CARRIES == ("overlap", "last_frame")


def test_segments_make_every_frame_once():
    for case in CASES:
        check_segments(*case)


def check_segments(frames, length, overlap):
    segments = plan_segments(frames, length, overlap)
    made = [frame for segment in segments for frame in range(frames)[segment.new]]
    assert made == list(range(frames))
    for segment in segments:
        assert segment.stop - segment.start <= length
        assert segment.known >= (overlap if segment.start else 0)
        if overlap:
            assert segment.stop - segment.start == min(length, frames)


@pytest.mark.parametrize("settings", [(0, 4, 1), (8, 0, 0), (8, 4, 4), (8, 4, 5), (8, 4, -1)])
def test_segments_that_cannot_be(settings):
    with pytest.raises(ValueError, match="the overlap must be smaller"):
        plan_segments(*settings)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_windows_cover_the_clip(schedule):
    for (frames, length, overlap), step in itertools.product(CASES, (0, 1, 2, 7)):
        windows = plan_windows(frames, length, overlap, schedule, step)
        assert {frame for window in windows for frame in window} == set(range(frames))
        assert len({tuple(window) for window in windows}) == len(windows)
        for window in windows:
            assert len(window) == min(length, frames)
            turns = sum(later != before + 1 for before, later in itertools.pairwise(window))
            assert turns <= (schedule == "looped")
            assert len(set(window)) == len(window)


@pytest.mark.parametrize("schedule", ["static", "uniform"])
def test_neighbouring_windows_share_at_least_the_overlap(schedule):
    for step in range(6):
        windows = sorted(plan_windows(37, 8, 3, schedule, step))
        assert all(len(set(a) & set(b)) >= 3 for a, b in itertools.pairwise(windows))


def test_windows_by_hand():
    assert plan_windows(8, 4, 0, "static", 5) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert plan_windows(7, 4, 1, "static") == [[0, 1, 2, 3], [3, 4, 5, 6]]
    assert plan_windows(9, 4, 1, "static") == [[0, 1, 2, 3], [3, 4, 5, 6], [5, 6, 7, 8]]
    assert plan_windows(6, 4, 1, "looped") == [[0, 1, 2, 3], [3, 4, 5, 0]]


def test_moving_borders_visit_every_place():
    borders = {window[0] for step in range(20) for window in plan_windows(64, 16, 4, "uniform", step)}
    assert set(range(1, 48)) <= borders
    assert len({window[0] for step in range(20) for window in plan_windows(64, 16, 4, "static", step)}) == 5


def test_weights():
    assert window_weights(5, 2, "flat").tolist() == [1] * 5
    assert window_weights(5, 2, "pyramid").tolist() == pytest.approx([1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])
    assert window_weights(6, 2, "overlap_linear").tolist() == pytest.approx([1 / 3, 2 / 3, 1, 1, 2 / 3, 1 / 3])
    for fuse in FUSES:
        assert (window_weights(1, 0, fuse) == torch.ones(1)).all()
        assert (window_weights(9, 4, fuse) > 0).all()


def test_linear_weights_cross_fade():
    """Where two windows overlap by just `overlap` frames, their weights add up to 1."""
    weights = window_weights(8, 3, "overlap_linear")
    assert torch.allclose(weights[-3:] + weights[:3], torch.ones(3))


def test_unknown_names():
    with pytest.raises(ValueError, match="schedule is 'round'; choose one of uniform, static, looped"):
        plan_windows(8, 4, 1, "round")
    with pytest.raises(ValueError, match="fuse is 'soft'; choose one of pyramid, overlap_linear, flat"):
        window_weights(4, 1, "soft")
