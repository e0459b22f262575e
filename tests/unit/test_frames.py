"""Frames of a batch, positions in a clip, smoothing and anchoring."""

import copy
from types import SimpleNamespace

import pytest
import torch

from sdxl_anime_video.temporal.clip.frames import (
    FrameInfo,
    low_band,
    parse_positions,
    pull_to_reference,
    require_equal_frames,
    resolve_positions,
    smooth_frames,
)
from sdxl_anime_video.temporal.hosts.comfy.published import FRAMES_KEY, frames_of


def published(length: int = 8) -> FrameInfo:
    return FrameInfo(torch.arange(length) + 20, 40, torch.arange(length) == 3, step=5)


@pytest.mark.parametrize("chunks, batch, frames", [([0], 6, 6), ([1, 0], 12, 6), ([0, 1, 1], 12, 4), ([0], 1, 1)])
def test_without_a_contract_frames_are_counted(chunks, batch, frames):
    info = frames_of({"cond_or_uncond": chunks}, batch)
    assert info.index.tolist() == list(range(frames))
    assert info.length == frames and info.step == 0 and not info.known.any()


def test_a_batch_that_is_no_whole_number_of_passes_is_an_error():
    with pytest.raises(ValueError, match="7 rows cannot hold 2 passes"):
        frames_of({"cond_or_uncond": [0, 1]}, 7)


def test_published_frames_are_handed_on():
    info = published()
    assert frames_of({"cond_or_uncond": [1, 0], FRAMES_KEY: info}, 16) is info


def test_context_windows_take_their_rows():
    window = SimpleNamespace(index_list=[2, 3, 7])
    info = frames_of({"cond_or_uncond": [1, 0], FRAMES_KEY: published(), "context_window": window}, 6)
    assert info.index.tolist() == [22, 23, 27] and info.known.tolist() == [False, True, False]
    assert info.length == 40 and info.step == 5
    window.causal_anchor_index = 1  # newer ComfyUI: one frame more, in front
    info = frames_of({"cond_or_uncond": [1], FRAMES_KEY: published(), "context_window": window}, 4)
    assert info.index.tolist() == [21, 22, 23, 27]


def test_a_batch_cut_by_strangers_is_counted_from_zero():
    info = frames_of({"cond_or_uncond": [0], FRAMES_KEY: published()}, 3)
    assert info.index.tolist() == [0, 1, 2] and info.length == 3 and info.step == 5


def test_frame_info_survives_deep_copies_of_model_options():
    info = published()
    assert copy.deepcopy({"transformer_options": {FRAMES_KEY: info}})["transformer_options"][FRAMES_KEY] is info


def test_frame_counts_that_disagree_name_both_sides():
    require_equal_frames("the clip", 4, "hints", 4)
    with pytest.raises(ValueError, match=r"the clip has 16 .* hints has 12"):
        require_equal_frames("the clip", 16, "hints", 12)


@pytest.mark.parametrize(
    "text, length, rows",
    [
        ("0, 8, -1", 16, [0, 8, 15]),
        ("0,25%,50%,75%,100%", 17, [0, 4, 8, 12, 16]),
        ("0%; 50 %  100%", 16, [0, 8, 15]),
        ("12.5%", 9, [1]),
        ("", 16, []),
        ("-16", 16, [0]),
        ("+3", 16, [3]),
    ],
)
def test_positions(text, length, rows):
    assert resolve_positions(parse_positions(text), length) == rows


@pytest.mark.parametrize("text", ["a", "1.5", "101%", "-5%", "1-3", "0,,x", "%", "1 2%%"])
def test_unreadable_positions(text):
    with pytest.raises(ValueError, match=r"^cannot read position"):
        parse_positions(text)


@pytest.mark.parametrize(
    "text, message",
    [
        ("0, 16", "position 16 is outside the clip of 16"),
        ("-17", "position -17 is outside"),
        ("-1, 100%", "positions -1 and 100% are both frame 15"),
    ],
)
def test_positions_that_do_not_fit(text, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        resolve_positions(parse_positions(text), 16)


@pytest.mark.parametrize("shape", [(6, 4, 8, 8), (2, 6, 4, 8, 8)])
def test_smoothing_uses_the_frames_before_smoothing(shape):
    x = torch.randn(shape)
    before = x.clone()
    frames = x if len(shape) == 4 else x.transpose(0, 1)
    expected = torch.stack([frames[0], *(0.7 * frames[t] + 0.3 * frames[t - 1] for t in range(1, 6))])
    result = smooth_frames(x, 0.3)
    assert torch.allclose(result if len(shape) == 4 else result.transpose(0, 1), expected, atol=1e-6)
    assert torch.equal(x, before)


def test_smoothing_spreads_a_lone_frame_to_the_next_only():
    x = torch.zeros(5, 1, 1, 1)
    x[1] = 1
    assert torch.allclose(smooth_frames(x, 0.25).flatten(), torch.tensor([0, 0.75, 0.25, 0, 0]))


def test_neutral_smoothing_returns_its_input():
    x = torch.randn(4, 4, 8, 8)
    assert smooth_frames(x, 0.0) is x
    assert smooth_frames(x[:1], 0.5).equal(x[:1])
    with pytest.raises(ValueError, match="not \\[4, 8, 8\\]"):
        smooth_frames(x[0], 0.5)


def test_low_band_is_an_orthogonal_projection():
    x, y = torch.randn(2, 3, 4, 16, 24).double()
    assert torch.allclose(low_band(low_band(x)), low_band(x), atol=1e-12)
    assert torch.allclose((low_band(x) * y).sum(), (x * low_band(y)).sum(), atol=1e-9)
    assert low_band(x - low_band(x)).abs().max() < 1e-12
    assert torch.allclose(low_band(torch.ones_like(x)), torch.ones_like(x))


@pytest.mark.parametrize("size", [16, 96])
@pytest.mark.parametrize("half_waves, kept", [(0, True), (3, True), (4, False), (9, False)])
def test_low_band_counts_waves_over_the_picture(size, half_waves, kept):
    wave = torch.cos(torch.pi * half_waves * (torch.arange(size) + 0.5) / size).expand(1, size, size)
    assert torch.allclose(low_band(wave), wave if kept else torch.zeros_like(wave), atol=1e-5)


def test_pull_moves_only_the_named_frames():
    x = torch.randn(6, 4, 16, 16)
    rows = torch.tensor([2, 4])
    others = [0, 1, 3, 5]
    whole = pull_to_reference(x, rows, x[0], 0.25, "all")
    assert torch.allclose(whole[rows], 0.75 * x[rows] + 0.25 * x[0], atol=1e-6)
    low = pull_to_reference(x, rows, x[0], 1.0, "low")
    assert torch.allclose(low_band(low[2]), low_band(x[0]), atol=1e-5)
    assert torch.allclose(low[2] - low_band(low[2]), x[2] - low_band(x[2]), atol=1e-5)
    assert torch.equal(whole[others], x[others]) and torch.equal(low[others], x[others])


def test_full_pull_in_all_bands_repeats_the_reference():
    x = torch.randn(3, 4, 16, 16)
    assert torch.allclose(pull_to_reference(x, torch.tensor([2]), x[0], 1.0, "all")[2], x[0], atol=1e-6)


def test_neutral_pull_returns_its_input():
    x = torch.randn(3, 4, 8, 8)
    assert pull_to_reference(x, torch.tensor([1]), x[0], 0.0, "all") is x
    assert pull_to_reference(x, torch.tensor([], dtype=torch.long), x[0], 1.0, "low") is x
    with pytest.raises(ValueError, match="band must be 'low' or 'all', not 'mid'"):
        pull_to_reference(x, torch.tensor([1]), x[0], 1.0, "mid")
