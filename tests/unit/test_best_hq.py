"""DPM++ 2M on Karras sigmas: the mathematics by itself."""

import pytest
import torch

from sdxl_anime_video.schedulers.best_hq import (
    dpmpp_2m_step,
    from_denoised,
    karras_sigmas,
    nearest_timesteps,
    to_denoised,
    training_sigmas,
    vp_scale,
)

SDXL = (0.00085, 0.012, "scaled_linear", 1000)


def solve(denoiser, x, sigmas):
    """Integrate from the first sigma to the last with the step under test."""
    old = None
    for i in range(len(sigmas) - 1):
        denoised = denoiser(x, sigmas[i])
        x = dpmpp_2m_step(denoised, old, x, sigmas[i], sigmas[i + 1], sigmas[i - 1] if i else None)
        old = denoised
    return x


def test_karras_sigmas_have_the_papers_values():
    # Equation 5 by hand for rho 2, sigma 1..9, three steps: roots 3, 2, 1.
    assert karras_sigmas(3, 1.0, 9.0, rho=2.0).tolist() == [9.0, 4.0, 1.0, 0.0]


@pytest.mark.parametrize("n", [1, 2, 28])
def test_karras_sigmas_fall_from_max_to_min_to_zero(n):
    sigmas = karras_sigmas(n, 0.03, 14.6, dtype=torch.float64)
    assert sigmas.shape == (n + 1,) and sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()
    torch.testing.assert_close(sigmas[0].item(), 14.6)
    if n > 1:
        torch.testing.assert_close(sigmas[-2].item(), 0.03)


@pytest.mark.parametrize("bad", [(0, 0.1, 1.0), (4, 0.0, 1.0), (4, 2.0, 1.0), (4, 0.1, float("inf")), (4, -1.0, 1.0)])
def test_karras_sigmas_refuse(bad):
    with pytest.raises(ValueError, match="karras_sigmas"):
        karras_sigmas(*bad)


def test_sdxl_table_ends():
    table = training_sigmas(*SDXL)
    assert table.shape == (1000,) and (table.diff() > 0).all()
    assert abs(table[0].item() - 0.0291672) < 1e-6 and abs(table[-1].item() - 14.614641) < 1e-5


def test_zero_terminal_snr_keeps_the_first_and_silences_the_last():
    plain, rescaled = training_sigmas(*SDXL), training_sigmas(*SDXL, zero_terminal_snr=True)
    assert abs(rescaled[0] - plain[0]) < 1e-9
    assert abs(rescaled[-1].item() - 4096) < 0.01 and (rescaled.diff() > 0).all()


def test_unknown_beta_schedule_is_named():
    with pytest.raises(ValueError, match="'cosine'"):
        training_sigmas(0.1, 0.2, "cosine", 10)


def test_nearest_timesteps_invert_the_table():
    table = training_sigmas(*SDXL)
    wanted = torch.tensor([999, 500, 1, 0])
    assert nearest_timesteps(table[wanted] * 1.0001, table).tolist() == wanted.tolist()
    assert nearest_timesteps(torch.tensor([100.0, 1e-5]), table).tolist() == [999, 0]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("sigma", [0.03, 1.0, 14.6])
def test_predictions_name_the_clean_sample(kind, sigma):
    """Built from the definitions: x = x0 + s n; eps = n; v = alpha n - alpha s x0 with alpha = 1 / sqrt(1 + s^2)."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 4, 5, 5, generator=generator, dtype=torch.float64)
    s = torch.tensor(sigma, dtype=torch.float64)
    alpha = vp_scale(s)
    x = x0 + s * noise
    prediction = {"epsilon": noise, "v_prediction": alpha * noise - alpha * s * x0, "sample": x0}[kind]
    torch.testing.assert_close(to_denoised(prediction, x, s, kind), x0, rtol=0, atol=1e-10)
    torch.testing.assert_close(from_denoised(x0, x, s, kind), prediction, rtol=0, atol=1e-10)


@pytest.mark.parametrize("convert", [to_denoised, from_denoised])
def test_unknown_prediction_is_named(convert):
    x = torch.zeros(1)
    with pytest.raises(ValueError, match="'flow'"):
        convert(x, x, torch.tensor(1.0), "flow")


def test_constant_denoiser_lands_on_it_exactly():
    target = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    x = 14.6 * torch.randn(2, 4, 3, 3, dtype=torch.float64)
    out = solve(lambda x, sigma: target, x, karras_sigmas(7, 0.03, 14.6, dtype=torch.float64))
    torch.testing.assert_close(out, target, rtol=0, atol=1e-12)


def gaussian_error(steps: int, order: int = 2) -> float:
    """Error at sigma 0.03 against the exact ODE solution for data drawn from N(0, 0.5^2), for which
    D(x, s) = x c^2 / (c^2 + s^2) and x(s) is proportional to sqrt(c^2 + s^2)."""
    c2 = 0.25
    sigmas = karras_sigmas(steps + 1, 0.03, 14.6, dtype=torch.float64)[:-1]
    x = torch.full((1, 1, 1, 1), 14.6, dtype=torch.float64)
    exact = x * ((c2 + sigmas[-1] ** 2) / (c2 + sigmas[0] ** 2)).sqrt()

    if order == 1:
        for i in range(steps):
            d = x * c2 / (c2 + sigmas[i] ** 2)
            x = dpmpp_2m_step(d, None, x, sigmas[i], sigmas[i + 1], None)
    else:
        x = solve(lambda x, s: x * c2 / (c2 + s**2), x, sigmas)
    return (x - exact).abs().item()


def test_second_order_convergence():
    """Halving the steps' size divides the error by about 4, and by about 2 for the first order solver."""
    assert 3.3 < gaussian_error(64) / gaussian_error(128) < 4.8
    assert 1.7 < gaussian_error(64, order=1) / gaussian_error(128, order=1) < 2.4
    assert gaussian_error(28) < gaussian_error(28, order=1) / 5


def test_five_dimensions_are_the_same_arithmetic():
    sigmas = karras_sigmas(6, 0.03, 14.6)
    x = torch.randn(2, 3, 4, 5, 5) * 14.6
    out = solve(lambda x, s: x / (1 + s**2), x, sigmas)
    flat = solve(lambda x, s: x / (1 + s**2), x.flatten(0, 1), sigmas)
    assert torch.equal(out.flatten(0, 1), flat)


def test_inputs_are_not_changed():
    denoised, old, x = torch.randn(3, 2, 4, 3, 3)
    kept = [t.clone() for t in (denoised, old, x)]
    dpmpp_2m_step(denoised, old, x, torch.tensor(2.0), torch.tensor(1.0), torch.tensor(4.0))
    assert all(torch.equal(a, b) for a, b in zip((denoised, old, x), kept, strict=True))
