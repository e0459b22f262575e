"""BestHQ nodes in the real ComfyUI: equal to core's dpmpp_2m on karras sigmas, bit for bit."""

from functools import partial

import comfy.model_management
import comfy.samplers
import nodes
import pytest
import torch
from comfy_extras.nodes_custom_sampler import BasicScheduler

import clip_sampling
from clip_sampling import NEGATIVE, POSITIVE, SIZE, empty, sample_custom
from sdxl_anime_video.nodes.best_hq import BestHQSampler, BestHQSigmas
from sdxl_anime_video.schedulers.best_hq import vp_scale
from sdxl_anime_video.schedulers.comfy import sample_best_hq
from sdxl_anime_video.schedulers.diffusers import SDXLAnime_BestHQScheduler
from sdxl_anime_video.temporal.clip.frames import smooth_frames


@pytest.fixture(scope="module")
def model():
    return clip_sampling.model()


render = partial(sample_custom, frames=3, cfg=4.0)


def best_hq(smoothing=0.0):
    return BestHQSampler.execute(smoothing).args[0]


@pytest.mark.parametrize("denoise", [1.0, 0.99, 0.6, 0.25, 0.0])
@pytest.mark.parametrize("steps", [1, 7, 28])
def test_sigmas_equal_core_karras(model, steps, denoise):
    expected = BasicScheduler.execute(model, "karras", steps, denoise).args[0]
    got = BestHQSigmas.execute(model, steps, denoise).args[0]
    assert got.shape == expected.shape and got.dtype == expected.dtype
    assert torch.equal(got, expected)


def test_sigmas_span_sdxl(model):
    sigmas = BestHQSigmas.execute(model, 28).args[0]
    assert abs(sigmas[0] - 14.6146) < 1e-3 and abs(sigmas[-2] - 0.0292) < 1e-4 and sigmas[-1] == 0


@pytest.mark.parametrize(
    "steps, denoise, words",
    [
        (0, 1.0, "steps is 0; it must be 1 or more"),
        (-1, 0.5, "steps is -1"),
        (3, float("nan"), "denoise is nan; it must lie between 0 and 1"),
        (3, 1.1, "denoise is 1.1"),
        (3, -0.1, "denoise is -0.1"),
        (3, 1e-9, "3 steps at denoise 1e-09 .* 3,000,000,000 levels.*raise denoise or lower steps"),
        (3, 5e-324, "3 steps at denoise .* levels"),
        (10**9, 1.0, "1000000000 steps at denoise 1 .* levels"),
    ],
)
def test_settings_that_cannot_be_are_named(model, steps, denoise, words):
    with pytest.raises(ValueError, match=f"^BestHQ Sigmas: {words}"):
        BestHQSigmas.execute(model, steps, denoise)


@pytest.mark.parametrize("steps, denoise", [(1, 1.0), (2, 1.0), (6, 1.0), (4, 0.5)])
def test_sampler_equals_core_dpmpp_2m(model, steps, denoise):
    sigmas = BestHQSigmas.execute(model, steps, denoise).args[0]
    expected = render(model, comfy.samplers.sampler_object("dpmpp_2m"), sigmas)
    assert expected.std() > 0.01
    assert torch.equal(render(model, best_hq(), sigmas), expected)


def test_equals_the_plain_ksampler(model):
    latent = {"samples": empty(2)}
    (expected,) = nodes.KSampler().sample(model, 5, 5, 4.0, "dpmpp_2m", "karras", POSITIVE, NEGATIVE, latent)
    got = render(model, best_hq(), BestHQSigmas.execute(model, 5).args[0], frames=2)
    assert torch.equal(got, expected["samples"])


@pytest.mark.parametrize("steps", [1, 5, 12])
def test_diffusers_scheduler_equals_core(model, steps):
    """The diffusers scheduler, driven by ComfyUI's own guided model, gives core's result."""

    def through_diffusers(denoise, x, sigmas, extra_args, callback, disable):
        scheduler = SDXLAnime_BestHQScheduler()
        scheduler.set_timesteps(len(sigmas) - 1)
        sample = x * vp_scale(sigmas[0])
        for t, sigma in zip(scheduler.timesteps, scheduler.sigmas[:-1], strict=True):
            exploding = sample / vp_scale(sigma)
            denoised = denoise(exploding, sigma * x.new_ones(len(x)), **extra_args)
            sample = scheduler.step((exploding - denoised) / sigma, t, sample).prev_sample
        return sample

    sigmas = BestHQSigmas.execute(model, steps).args[0]
    expected = render(model, comfy.samplers.sampler_object("dpmpp_2m"), sigmas)
    got = render(model, comfy.samplers.KSAMPLER(through_diffusers), sigmas)
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


def test_smoothing_draws_the_noisy_frames_together():
    """Against the formulas written out: x_t <- (1 - a) x_t + a x_{t-1} before each evaluation of a linear denoiser."""
    amount = 0.2
    sigmas = torch.tensor([10.0, 4.0, 1.0, 0.3, 0.0], dtype=torch.float64)
    x = start = 10 * torch.randn(5, 4, 3, 3, dtype=torch.float64)
    got = sample_best_hq(
        lambda x, s: x / (1 + s[0]), x, sigmas, disable=True, before=partial(smooth_frames, amount=amount)
    )

    before = None
    for i, (s, s_next) in enumerate(zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True)):
        x = torch.stack([x[0], *((1 - amount) * x[t] + amount * x[t - 1] for t in range(1, 5))])
        denoised = x / (1 + s)
        direction = denoised
        if before is not None and s_next > 0:
            h, h_before = torch.log(torch.tensor([s / s_next, sigmas[i - 1] / s], dtype=torch.float64))
            direction = denoised + h / (2 * h_before) * (denoised - before)
        x, before = s_next / s * x + (1 - s_next / s) * direction, denoised
    torch.testing.assert_close(got, x, rtol=0, atol=1e-12)
    plain = sample_best_hq(lambda x, s: x / (1 + s[0]), start, sigmas, disable=True)
    assert torch.allclose(got[0], plain[0], rtol=0, atol=1e-12), "the first frame has no predecessor"
    assert got.diff(dim=0).square().mean() < 0.6 * plain.diff(dim=0).square().mean()


def test_smoothing_through_the_node(model):
    sigmas = BestHQSigmas.execute(model, 4).args[0]
    plain, smooth = render(model, best_hq(), sigmas), render(model, best_hq(0.3), sigmas)
    assert torch.allclose(smooth[0], plain[0], rtol=0, atol=1e-4)
    assert (smooth[1:] - plain[1:]).abs().max() > 0.01
    assert torch.equal(render(model, best_hq(0.3), sigmas), smooth)
    one = render(model, best_hq(0.3), sigmas, frames=1)
    assert torch.equal(one, render(model, best_hq(), sigmas, frames=1)), "one frame has no neighbour"


def test_reports_each_step_and_can_be_interrupted(model):
    sigmas = BestHQSigmas.execute(model, 4).args[0]
    steps = []
    render(model, best_hq(0.1), sigmas, callback=lambda step, x0, x, total: steps.append((step, total, x0.shape)))
    assert steps == [(i, 4, (3, 4, SIZE, SIZE)) for i in range(4)]

    def stop(step, x0, x, total):
        if step == 1:
            raise comfy.model_management.InterruptProcessingException

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        render(model, best_hq(0.1), sigmas, callback=stop)
