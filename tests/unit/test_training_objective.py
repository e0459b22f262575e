"""The objective's functions against their formulas."""

import math

import pytest
import torch

from sdxl_anime_video.schedulers.best_hq import training_sigmas
from sdxl_anime_video.training.step import loss as objective
from sdxl_anime_video.training.step.optimizers import learning_rate_scale

SIGMAS = training_sigmas(0.00085, 0.012, "scaled_linear", 1000)


def test_min_snr_weight_of_epsilon_is_its_formula():
    alphas_bar = 1 / (1 + SIGMAS**2)
    snr = alphas_bar / (1 - alphas_bar)
    expected = torch.minimum(snr, torch.full_like(snr, 5)) / snr
    torch.testing.assert_close(objective.loss_weight(SIGMAS, "epsilon", 5.0), expected, rtol=1e-9, atol=0)
    assert objective.loss_weight(SIGMAS, "epsilon", 5.0)[-1] == 1  # nearly pure noise: plain error
    assert objective.loss_weight(SIGMAS, "epsilon", 5.0)[0] < 0.01  # nearly clean


def test_min_snr_weight_of_v_is_its_formula():
    snr = SIGMAS**-2
    expected = torch.minimum(snr, torch.full_like(snr, 5)) / (snr + 1)
    torch.testing.assert_close(objective.loss_weight(SIGMAS, "v_prediction", 5.0), expected)


def test_weights_are_the_same_objective_in_either_prediction():
    """The weight times the squared error of the prediction is one weight times that of the clean picture."""
    generator = torch.Generator().manual_seed(0)
    clean, noise, wrong = torch.randn(3, 4, 1, 8, generator=generator, dtype=torch.float64)
    sigma = torch.tensor([0.1, 0.7, 3.0, 14.0], dtype=torch.float64)
    column = sigma[:, None, None]
    noisy = objective.add_noise(clean, noise, sigma)
    losses = []
    for prediction in ("epsilon", "v_prediction"):
        implied_noise = (noisy * (1 + column**2).sqrt() - wrong) / column  # what a model that believes in `wrong` says
        said = objective.training_target(wrong, implied_noise, sigma, prediction)
        error = (said - objective.training_target(clean, noise, sigma, prediction)).square().flatten(1).mean(1)
        losses.append(error * objective.loss_weight(sigma, prediction, 5.0, 0.3))
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], (clean - wrong).square().flatten(1).mean(1) * (sigma**-2).clamp(0.3, 5))


def test_no_gamma_and_no_floor_is_plain_epsilon():
    assert (objective.loss_weight(SIGMAS, "epsilon", None) - 1).abs().max() < 1e-9


def test_truncated_snr_lifts_high_noise():
    weight = objective.loss_weight(SIGMAS, "epsilon", 5.0, 1.0)
    assert weight[-1] == pytest.approx(SIGMAS[-1].item() ** 2)


def test_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="'sample'"):
        objective.loss_weight(SIGMAS, "sample")
    with pytest.raises(ValueError, match="zero SNR"):
        objective.loss_weight(torch.tensor([1.0, math.inf]), "epsilon")


def test_noisy_latents_are_variance_preserving_and_agree_with_diffusers():
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    clean, noise = torch.randn(2, 3, 5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([3, 500, 999])
    noisy = objective.add_noise(clean, noise, SIGMAS[t].float())
    for row, step in enumerate(t.tolist()):
        expected = scheduler.add_noise(clean[row], noise[row], torch.tensor([step] * 5))
        torch.testing.assert_close(noisy[row], expected, rtol=1e-4, atol=1e-4)
        v = scheduler.get_velocity(clean[row], noise[row], torch.tensor([step] * 5))
        ours = objective.training_target(clean, noise, SIGMAS[t].float(), "v_prediction")[row]
        torch.testing.assert_close(ours, v, rtol=1e-4, atol=1e-4)


def test_timesteps_cover_the_range_and_lean_to_noise():
    uniform = torch.rand(20000, generator=torch.Generator().manual_seed(0))
    even, biased = objective.timesteps(uniform, 1000), objective.timesteps(uniform, 1000, 2.0)
    assert even.min() == 0
    assert even.max() == 999
    assert even.double().mean() == pytest.approx(499.5, rel=0.02)
    assert biased.double().mean() == pytest.approx(750, rel=0.02)  # mean of density 3 t^2
    assert objective.timesteps(torch.tensor([0.0, 1.0]), 1000).tolist() == [0, 999]


def test_learning_rate_rises_and_falls():
    scale = learning_rate_scale
    assert scale(0, 10, 0) == 0.1
    assert scale(9, 10, 0) == 1
    assert scale(100, 10, 0.5) == pytest.approx(0.5)
    assert scale(100, 10, 1) == pytest.approx(0)
    assert scale(100, 0, 1.7) == pytest.approx(0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noise_alone_still_asks_for_the_clip(prediction):
    latents, noise = torch.randn(2, 2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1)).unbind()
    sigma = torch.tensor([14.6, 10.0])
    hidden = objective.hide_latents(noise, latents, sigma)
    seen = objective.add_noise(latents, hidden, sigma)
    assert torch.allclose(seen, objective.add_noise(torch.zeros_like(latents), noise, sigma), atol=1e-5)
    target, s = objective.training_target(latents, hidden, sigma, prediction), sigma.view(2, 1, 1, 1, 1)
    alpha = (1 + s**2).rsqrt()
    clean = seen / alpha - s * target if prediction == "epsilon" else alpha * seen - s * alpha * target
    assert torch.allclose(clean, latents, atol=1e-4)
