"""Correlated noise has the covariance its docstring states, whatever the clip's length."""

import math

import pytest
import torch

from sdxl_anime_video.temporal.clip.noise import (
    BASE,
    MODES,
    brownian_stream,
    check_settings,
    correlate,
    freenoise_sources,
    generator_for,
    normal_stream,
    seed_from,
    step_noise,
)

SHAPE = (4, 64, 64)  # 16,384 values a frame: sample covariances are within 0.008 (one sigma) of the truth
WINDOW = {"window": 4, "overlap": 1}


def own_noise(frames: int, shape=SHAPE, seed: int = 3) -> torch.Tensor:
    """Noise as a sampler makes it: one generator for all frames, one frame after another."""
    return torch.randn(frames, *shape, generator=torch.Generator().manual_seed(seed))


def covariance(noise: torch.Tensor) -> torch.Tensor:
    flat = noise.flatten(1)
    return flat @ flat.T / flat.shape[1]


def expected(mode: str, r: float, frames: int, seed: int) -> torch.Tensor:
    distance = (torch.arange(frames)[:, None] - torch.arange(frames)).abs()
    if mode == "shared":
        return torch.where(distance == 0, 1.0, r)
    if mode == "additive":
        return torch.where(distance == 0, 1 / r, 1.0)
    if mode == "progressive":
        return r**distance
    result = torch.eye(frames)
    chain = freenoise_sources(frames, **WINDOW, seed=seed)
    for frame in range(frames):
        source, weight = chain[frame], r
        while source >= 0:
            result[frame, source] = result[source, frame] = weight
            source, weight = chain[source], weight * r
    for a in range(frames):  # two frames that repeat the same one
        for b in range(frames):
            if a != b and chain[a] == chain[b] >= 0:
                result[a, b] = r * r
    return result


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("r", [0.3, 0.9, 0.9991])
def test_covariance(mode, r):
    noise = correlate(own_noise(9), mode, r, seed=11, **WINDOW)
    truth = expected(mode, r, 9, 11)
    assert (covariance(noise) - truth).abs().max() < 0.04 * truth.max()
    assert (noise.mean(dim=(1, 2, 3)).abs() < 0.04 * math.sqrt(truth.max())).all()


@pytest.mark.parametrize("mode", MODES)
def test_places_in_the_picture_stay_independent(mode):
    noise = correlate(own_noise(9), mode, 0.9, seed=11, **WINDOW)
    shifted = torch.roll(noise, shifts=1, dims=-1)
    assert (noise * shifted).mean(dim=(1, 2, 3)).abs().max() < 0.04


@pytest.mark.parametrize("mode", MODES)
def test_frames_do_not_depend_on_the_length_of_the_clip(mode):
    long = correlate(own_noise(13), mode, 0.8, seed=11, **WINDOW)
    for frames in (2, 5, 8):
        assert torch.equal(correlate(own_noise(13)[:frames], mode, 0.8, seed=11, **WINDOW), long[:frames])


@pytest.mark.parametrize("mode", MODES)
def test_neutral_inputs_come_back_untouched(mode):
    noise = own_noise(4)
    assert correlate(noise, mode, 0.0, seed=1) is noise
    assert correlate(noise[:1], mode, 0.7, seed=1).equal(noise[:1])
    zeros = torch.zeros(4, *SHAPE)
    assert correlate(zeros, mode, 0.7, seed=1) is zeros


def test_base_is_independent_of_the_frames_own_noise():
    own = own_noise(6, seed=7)
    base = correlate(own, "shared", 1.0, seed=7)  # the seed of the sampler and of the base are the same
    assert torch.equal(base[0], base[5])
    assert (base[0].flatten() @ own.flatten(1).T / own[0].numel()).abs().max() < 0.04


def test_the_seed_rules():
    own = own_noise(3)
    assert torch.equal(correlate(own, "shared", 0.9, seed=1), correlate(own, "shared", 0.9, seed=1))
    assert not torch.equal(correlate(own, "shared", 0.9, seed=1), correlate(own, "shared", 0.9, seed=2))
    assert seed_from(own) == seed_from(own.clone()) != seed_from(own_noise(3, seed=4))


@pytest.mark.parametrize("j, r", [(0.03, 0.9991), (0.05, 0.9975)])
def test_additive_is_base_plus_j_times_own(j, r):
    own = own_noise(4)
    base = correlate(own, "additive", 1.0, seed=5)
    assert torch.allclose(correlate(own, "additive", r, seed=5), base + j * own, atol=1e-3)


def test_freenoise_with_full_correlation_repeats_frames():
    own = own_noise(11, shape=(4, 8, 8))
    noise = correlate(own, "freenoise", 1.0, seed=2, **WINDOW)
    assert torch.equal(noise[:4], own[:4])
    for frame, source in enumerate(freenoise_sources(11, **WINDOW, seed=2)):
        assert source < 0 or torch.equal(noise[frame], noise[source])


def test_freenoise_runs_are_permutations_of_the_frames_a_window_earlier():
    sources = freenoise_sources(40, window=16, overlap=4, seed=0)
    assert sources[:16] == [-1] * 16
    for start in (16, 28):
        assert sorted(sources[start : start + 12]) == list(range(start - 16, start - 4))
    assert any(s != f - 16 for f, s in enumerate(sources[16:], 16))


@pytest.mark.parametrize(
    "settings, message",
    [
        (("pink", 0.5, 16, 4), "mode is 'pink'"),
        (("shared", 1.01, 16, 4), "correlation is 1.01"),
        (("shared", float("nan"), 16, 4), "correlation is nan"),
        (("freenoise", 0.5, 4, 4), "overlap is 4 and window 4"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        check_settings(*settings)


def open_stream(kind, shape=SHAPE, seed: int = 9):
    return lambda frame: kind(seed, frame, shape)


@pytest.mark.parametrize("kind", [normal_stream, brownian_stream])
@pytest.mark.parametrize("mode", MODES)
def test_step_noise_covariance(mode, kind):
    r = 0.7
    draw = step_noise(range(7), mode, r, open_stream(kind), seed=9, **WINDOW)
    first, second = draw(10.0, 6.0), draw(6.0, 3.0)
    truth = expected("shared" if mode == "additive" else mode, r, 7, 9)
    for noise in (first, second):
        assert (covariance(noise) - truth).abs().max() < 0.04
    assert (first * second).mean(dim=(1, 2, 3)).abs().max() < 0.04


@pytest.mark.parametrize("mode", MODES)
def test_step_noise_belongs_to_the_place_in_the_clip(mode):
    whole = step_noise(range(10), mode, 0.7, open_stream(normal_stream, (4, 8, 8)), seed=9, **WINDOW)
    piece = step_noise([5, 6, 7], mode, 0.7, open_stream(normal_stream, (4, 8, 8)), seed=9, **WINDOW)
    for sigmas in ((10.0, 6.0), (6.0, 3.0)):
        assert torch.equal(whole(*sigmas)[5:8], piece(*sigmas))


def test_step_noise_is_independent_of_initial_noise():
    step = normal_stream(3, BASE, SHAPE)(1.0, 0.5)
    initial = torch.randn(SHAPE, generator=generator_for(3, "initial", BASE))
    assert (step * initial).mean().abs() < 0.04


def test_brownian_increments_add_up():
    draw = brownian_stream(1, 0, SHAPE)
    upper, whole, lower = draw(14.0, 9.0), draw(14.0, 5.0), draw(9.0, 5.0)
    assert torch.allclose(math.sqrt(5) * upper + math.sqrt(4) * lower, 3 * whole, atol=1e-5)


@pytest.mark.parametrize("bridge", [False, True])
def test_brownian_midpoint(bridge):
    """Unit variance, and the correlation sqrt(part / whole) of a part of a step with the step, in either order."""
    draw = brownian_stream(1, 0, SHAPE)
    if bridge:
        whole, part = draw(14.0, 5.0), draw(14.0, 9.0)
    else:
        part, whole = draw(14.0, 9.0), draw(14.0, 5.0)
    assert abs(part.var() - 1) < 0.04 and abs(whole.var() - 1) < 0.04
    assert abs((part * whole).mean() - math.sqrt(5 / 9)) < 0.04
    following = draw(5.0, 2.0)
    assert (following * whole).mean().abs() < 0.04 and abs(following.var() - 1) < 0.04
