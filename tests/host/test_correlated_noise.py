"""Noise stays correlated through real samplers, step noise included, and the sampler's seed rules."""

from functools import partial

import comfy.sample
import comfy.samplers
import nodes
import pytest
import torch

from clip_sampling import FRAMES, NEGATIVE, POSITIVE, SIZE, correlated, correlations, empty, ksample, model, sigmas_of
from sdxl_anime_video.temporal.clip.contract import NoiseSettings
from sdxl_anime_video.temporal.clip.noise import correlate, freenoise_sources
from sdxl_anime_video.temporal.hosts.comfy.sampling.sampler_noise import with_step_noise

STOCHASTIC = [
    "euler_ancestral",
    "euler_ancestral_cfg_pp",
    "dpm_2_ancestral",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "dpmpp_sde_gpu",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "ddpm",
    "lcm",
    "res_multistep_ancestral",
    "er_sde",
    "seeds_2",
    "seeds_3",
    "sa_solver",
]
LARGE = torch.zeros(6, 4, 64, 64)  # 16,384 values a frame


def blank(model):
    """The model with a denoised prediction of 0, so that samples are only the noise that samplers add."""
    model = model.clone()
    model.set_model_sampler_calc_cond_batch_function(lambda args: [torch.zeros_like(args["input"])] * 2)
    return model


def noise_left_after(model, sampler, steps=4, latent=LARGE, seed=5) -> torch.Tensor:
    """Samples after `steps` of a 6-step schedule: still noisy."""
    sigmas = sigmas_of(model, 6)[: steps + 1]
    noise = comfy.sample.prepare_noise(latent, seed)
    function = comfy.samplers.sampler_object(sampler)
    return comfy.sample.sample_custom(model, noise, 2.0, function, sigmas, POSITIVE, NEGATIVE, latent, seed=seed)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "ddim", *STOCHASTIC])
def test_correlation_after_sampling_is_what_was_asked_for(sampler):
    r = 0.7
    found = correlations(noise_left_after(correlated(blank(model()), "shared", r), sampler))
    assert (found - torch.eye(6) * (1 - r) - r).abs().max() < 0.05


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_sde", "lcm"])
@pytest.mark.parametrize("mode", ["additive", "progressive", "freenoise"])
def test_modes_after_sampling(sampler, mode):
    r, window = 0.7, {"window": 3, "overlap": 1}
    found = correlations(noise_left_after(correlated(blank(model()), mode, r, **window), sampler))
    frames = torch.arange(6)
    if mode == "additive":
        expected = torch.eye(6) * (1 - r) + r
    elif mode == "progressive":
        expected = r ** (frames[:, None] - frames).abs()
    else:
        expected = torch.eye(6)
        for frame, source in enumerate(freenoise_sources(6, **window, seed=5)):
            if source >= 0:
                assert abs(found[frame, source] - r) < 0.05
                expected[frame, source] = expected[source, frame] = r
        expected = torch.where(expected == 0, found, expected)  # second cousins: tested without a sampler
    assert (found - expected).abs().max() < 0.05


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "ddpm"])
@pytest.mark.parametrize("mode", ["shared", "additive", "progressive"])
def test_step_noise_has_the_strength_the_sampler_expects(sampler, mode):
    plain = blank(model())
    vanilla = noise_left_after(plain, sampler).std()
    assert abs(noise_left_after(correlated(plain, mode, 0.999), sampler).std() / vanilla - 1) < 0.04


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "lcm"])
def test_finished_frames_stay_as_alike_as_their_noise(sampler):
    """On the whole schedule, with a real prediction. Correlated initial noise alone would lose the similarity."""
    plain, r = model(), 0.999
    latent = torch.zeros(4, 4, 16, 16)
    noise = comfy.sample.prepare_noise(latent, 5)
    only_initial = ksample(plain, sampler, latent=latent, steps=6, noise=correlate(noise, "shared", r, seed=5))
    whole = ksample(correlated(plain, "shared", r), sampler, latent=latent, steps=6)
    neighbours = [correlations(clip).diagonal(1).min() for clip in (only_initial, whole)]
    assert neighbours[1] > 0.97 and neighbours[0] < neighbours[1] - 0.02


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_sde", "lcm"])
@pytest.mark.parametrize("mode", ["shared", "progressive", "freenoise"])
def test_a_longer_clip_begins_with_the_same_frames(sampler, mode):
    patched = correlated(model(), mode, 0.8, window=2, overlap=1)
    long, short = ksample(patched, sampler, frames=5, steps=3), ksample(patched, sampler, frames=3, steps=3)
    assert torch.allclose(long[:3], short, atol=1e-5 * float(long.std()))


def test_batch_index_picks_frames_of_the_clip():
    patched = correlated(model(), "shared", 0.8)

    def run(latent):
        return nodes.KSampler().sample(patched, 5, 3, 2.0, "euler", "karras", POSITIVE, NEGATIVE, latent)[0]["samples"]

    clip = run({"samples": empty()})
    picked = run({"samples": empty(2), "batch_index": [1, 3]})
    assert torch.allclose(picked, clip[[1, 3]], atol=1e-5 * float(clip.std()))


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_sde"])
def test_the_seed_of_the_sampler_rules(sampler):
    patched = correlated(model(), "shared", 1.0)
    assert torch.equal(ksample(patched, sampler, seed=5), ksample(patched, sampler, seed=5))
    assert not torch.allclose(ksample(patched, sampler, seed=5), ksample(patched, sampler, seed=6), atol=1e-2)


def test_full_correlation_makes_equal_frames():
    clip = ksample(correlated(model(), "shared", 1.0), "dpmpp_sde")
    assert torch.allclose(clip, clip[:1].expand_as(clip), atol=1e-5 * float(clip.std()))


def test_a_sampler_that_adds_no_noise_gets_none():
    plain = model()
    latent = torch.randn(FRAMES, 4, SIZE, SIZE)
    nothing = torch.zeros_like(latent)
    patched = correlated(plain, "shared", 0.9)
    assert torch.equal(
        ksample(patched, "dpmpp_2m", latent=latent, noise=nothing),
        ksample(plain, "dpmpp_2m", latent=latent, noise=nothing),
    )


def test_noise_without_a_seed_is_still_repeatable():
    patched, noise = correlated(model(), "shared", 0.9), torch.randn(FRAMES, 4, SIZE, SIZE)
    assert torch.equal(ksample(patched, noise=noise, seed=None), ksample(patched, noise=noise, seed=None))


def test_the_sampler_object_stays_as_it_is():
    settings, shape = NoiseSettings("shared", 0.5), torch.Size((4, 8, 8))
    sampler = comfy.samplers.ksampler("euler_ancestral", {"eta": 0.5})
    changed = with_step_noise(sampler, settings, range(3), shape, torch.device("cpu"), 1)
    assert sampler.extra_options == {"eta": 0.5} and changed.extra_options["eta"] == 0.5
    assert changed.extra_options["noise_sampler"](2.0, 1.0).shape == (3, 4, 8, 8)
    for silent in (comfy.samplers.ksampler("dpmpp_2m"), comfy.samplers.KSAMPLER(partial(lambda *args, **kwargs: None))):
        assert with_step_noise(silent, settings, range(3), shape, torch.device("cpu"), 1) is silent
