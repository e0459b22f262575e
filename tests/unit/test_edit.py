"""The frame contract at one step, and the segments of a chain: the rules that every host follows."""

import pytest
import torch

from sdxl_anime_video.temporal.clip.contract import Chain, FrameContract, Pull, Smoothing
from sdxl_anime_video.temporal.clip.edit import anchored_rows, edit, hold, in_range
from sdxl_anime_video.temporal.clip.frames import FrameInfo, Places, Position, pull_to_reference, smooth_frames

CONTRACT = FrameContract(smoothings=(Smoothing(0.3, 0.0, 0.5),), pulls=(Pull(Places(2), 0.6, "all", 0.5, 1.0),))


@pytest.fixture
def clip():
    return torch.randn(4, 3, 2, 2)


@pytest.mark.parametrize("sigma, inside", [(9.0, False), (8.0, True), (5.0, True), (2.0, True), (1.9, False)])
def test_both_ends_of_a_range_count(sigma, inside):
    assert in_range(Smoothing(0.1, 0.2, 0.8), sigma, lambda percent: 10 * (1 - percent)) == inside


def test_only_settings_in_force_edit_the_frames(clip):
    rows = anchored_rows(CONTRACT, FrameInfo.whole(4))
    (smoothing,), (pull,) = CONTRACT.smoothings, CONTRACT.pulls
    assert edit(clip, CONTRACT, rows, lambda setting: False) is clip
    assert torch.equal(edit(clip, CONTRACT, rows, lambda setting: setting is smoothing), smooth_frames(clip, 0.3))
    pulled = pull_to_reference(clip, torch.tensor([2]), clip[0], 0.6, "all")
    assert torch.equal(edit(clip, CONTRACT, rows, lambda setting: setting is pull), pulled)


def test_frames_are_smoothed_before_they_are_anchored(clip):
    rows = anchored_rows(CONTRACT, FrameInfo.whole(4))
    smooth = smooth_frames(clip, 0.3)
    expected = pull_to_reference(smooth, torch.tensor([2]), smooth[0], 0.6, "all")
    assert torch.equal(edit(clip, CONTRACT, rows, lambda setting: True), expected)


def test_a_later_segment_is_anchored_to_the_first_frame_of_the_clip(clip):
    later = FrameInfo(torch.arange(3, 7), 8, torch.zeros(4, dtype=torch.bool))
    (rows,) = anchored_rows(CONTRACT, later)
    assert rows.tolist() == [1, 3]  # frames 4 and 6
    first = torch.ones(3, 2, 2)
    found = edit(clip, CONTRACT, [rows], lambda setting: isinstance(setting, Pull), first)
    assert torch.equal(found, pull_to_reference(clip, rows, first, 0.6, "all"))


def test_a_place_outside_the_clip_is_refused():
    contract = FrameContract(pulls=(Pull(Places(1, (Position(9),)), 1.0, "low"),))
    with pytest.raises(ValueError, match="position 9 is outside the clip of 4"):
        anchored_rows(contract, FrameInfo.whole(4))


def test_finished_frames_are_held_at_a_noise_level(clip):
    noise, known = torch.randn(4, 3, 2, 2), torch.randn(2, 3, 2, 2)
    held = hold(clip, known, noise, 0.5)
    assert torch.equal(held[:2], known + 0.5 * noise[:2]) and torch.equal(held[2:], clip[2:])
    assert hold(clip, known[:0], noise, 0.5) is clip


def test_a_chain_by_overlap():
    chain = Chain(4, 1, "overlap", 0.5)
    first, second = chain.segments(7)
    assert (second.start, second.finished, second.new) == (3, slice(3, 4), slice(4, 7))
    assert chain.start_of(second, torch.zeros(7, 1)) is None
    assert [chain.steps_of(segment, 10) for segment in (first, second)] == [10, 10]


def test_a_chain_by_its_last_frame():
    chain, clean = Chain(4, 1, "last_frame", 0.5), torch.arange(7.0)[:, None]
    first, second = chain.segments(7)
    assert (second.start, second.finished, second.new) == (4, slice(4, 4), slice(4, 7))
    assert chain.start_of(first, clean) is None and chain.start_of(second, clean) == 3
    assert [chain.steps_of(segment, 10) for segment in (first, second)] == [10, 5]
    assert chain.steps_of(second, 1) == 1
