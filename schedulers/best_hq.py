"""BestHQ: DPM-Solver++(2M) on Karras noise levels, as pure functions.

Two papers are cited by equation number below:

* [K] Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", arXiv:2206.00364.
* [L] Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", arXiv:2211.01095.

A *sample* here is variance exploding, `x = x0 + sigma * noise`, as in ComfyUI and k-diffusion. diffusers
schedulers of the DDPM family keep the variance preserving `alpha * x`; `vp_scale` is the factor between them.
Every function is elementwise in the sample, so `[F, C, H, W]` and `[B, F, C, H, W]` work alike. A *sigma* is a
0-d tensor on any device.
"""

import torch
from torch import Tensor

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
BETA_SCHEDULES = ("scaled_linear", "linear")


def karras_sigmas(
    n: int, sigma_min: float, sigma_max: float, rho: float = 7.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return `n` noise levels falling from sigma_max to sigma_min, then 0: `[n + 1]` on the CPU ([K] eq. 5).

    Raises ValueError for less than one step, and unless 0 < sigma_min <= sigma_max < inf.
    """
    if n < 1:
        raise ValueError(f"karras_sigmas needs at least 1 step, got {n}")
    if not 0 < sigma_min <= sigma_max < float("inf"):
        raise ValueError(f"karras_sigmas needs 0 < sigma_min <= sigma_max < inf, got {sigma_min} and {sigma_max}")
    start, end = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    ramp = torch.linspace(0, 1, n, dtype=dtype)
    return torch.cat([(start + ramp * (end - start)) ** rho, ramp.new_zeros(1)])


def training_sigmas(
    beta_start: float, beta_end: float, schedule: str, steps: int, zero_terminal_snr: bool = False
) -> Tensor:
    """Return the noise level of every training timestep, `[steps]` float64, rising.

    From the betas of DDPM: sigma^2 = (1 - abar) / abar with abar the running product of 1 - beta ([K] table 1, "VP").
    `zero_terminal_snr` rescales sqrt(abar) so that the last timestep is pure noise (Lin et al., arXiv:2305.08891,
    algorithm 1); its abar is then held at 2**-24, as diffusers does, to keep sigma finite.

    Raises ValueError for an unknown schedule name.
    """
    if schedule == "scaled_linear":
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2
    elif schedule == "linear":
        betas = torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)
    else:
        raise ValueError(f"beta_schedule {schedule!r} is unknown; use one of {', '.join(BETA_SCHEDULES)}")
    alphas_bar = (1 - betas).cumprod(0)
    if zero_terminal_snr:
        root = alphas_bar.sqrt()
        first, last = root[0], root[-1]
        alphas_bar = ((root - last) * first / (first - last)) ** 2
        alphas_bar[-1] = 2.0**-24
    return ((1 - alphas_bar) / alphas_bar).sqrt()


def nearest_timesteps(sigmas: Tensor, table: Tensor) -> Tensor:
    """Return the training timesteps whose log sigmas are nearest to those of `sigmas`: `[n]` int64.

    A discrete model was trained on whole timesteps alone; ComfyUI and diffusers round in the same way.
    """
    distance = (sigmas.double().log()[:, None] - table.double().log()[None, :]).abs()  # [n, steps]
    return distance.argmin(dim=1)


def percent_to_sigma(percent: float, table: Tensor) -> float:
    """Return the noise level at a share of the training timesteps, counted from pure noise: 0 is the start, 1 the end.

    table: noise levels of training, rising; between timesteps log sigma is interpolated. As in ComfyUI's ranges, 0 and
    less is above every level, and 1 and more is level 0.
    """
    if percent <= 0:
        return float("inf")
    if percent >= 1:
        return 0.0
    place = (1 - percent) * (len(table) - 1)
    low = int(place)
    logs = table[low : low + 2].double().log()
    return float(torch.lerp(logs[0], logs[-1], place - low).exp())


def vp_scale(sigma: Tensor) -> Tensor:
    """Return alpha = 1 / sqrt(1 + sigma^2), the factor from a variance exploding to a variance preserving sample."""
    return 1 / (1 + sigma**2).sqrt()


def to_denoised(prediction: Tensor, sample: Tensor, sigma: Tensor, prediction_type: str) -> Tensor:
    """Return the clean sample that a network's `prediction` at `sample` implies.

    epsilon: x0 = x - sigma eps. v_prediction (Salimans and Ho, arXiv:2202.00512, appendix D, in variance exploding
    units): x0 = alpha^2 x - alpha sigma v with alpha = `vp_scale(sigma)`. sample: the prediction itself.

    Raises ValueError for any other prediction type.
    """
    if prediction_type == "epsilon":
        return sample - sigma * prediction
    if prediction_type == "v_prediction":
        alpha = vp_scale(sigma)
        return alpha**2 * sample - alpha * sigma * prediction
    if prediction_type == "sample":
        return prediction
    raise ValueError(f"prediction_type {prediction_type!r} is unknown; use one of {', '.join(PREDICTION_TYPES)}")


def from_denoised(denoised: Tensor, sample: Tensor, sigma: Tensor, prediction_type: str) -> Tensor:
    """Return the prediction at `sample` that implies `denoised`: the inverse of `to_denoised`."""
    if prediction_type == "epsilon":
        return (sample - denoised) / sigma
    if prediction_type == "v_prediction":
        alpha = vp_scale(sigma)
        return (alpha**2 * sample - denoised) / (alpha * sigma)
    if prediction_type == "sample":
        return denoised
    raise ValueError(f"prediction_type {prediction_type!r} is unknown; use one of {', '.join(PREDICTION_TYPES)}")


def dpmpp_2m_step(
    denoised: Tensor,
    old_denoised: Tensor | None,
    sample: Tensor,
    sigma: Tensor,
    sigma_next: Tensor,
    sigma_prev: Tensor | None,
) -> Tensor:
    """Return the sample after one step of DPM-Solver++(2M), `sigma` to `sigma_next` ([L] algorithm 2, alpha = 1).

    With lambda = -log sigma, h = lambda_next - lambda and r = (lambda - lambda_prev) / h,

        D = (1 + 1/(2r)) denoised - 1/(2r) old_denoised
        x_next = sigma_next / sigma * x - (exp(-h) - 1) D                       [L] eq. 13 and 14

    The first step has no predecessor and the step to sigma 0 has infinite h: both take D = denoised, the first
    order solver ([L] eq. 9), which at sigma 0 returns `denoised` itself.

    denoised, old_denoised: the clean predictions of this step and the one before (None on the first).
    sigma_prev: the noise level of the step before, ignored when `old_denoised` is None.
    """
    # The ratio of sigmas is formed from the lambdas because k-diffusion rounds so: the ComfyUI sampler equals core's to
    # the last bit.
    lam, lam_next = -sigma.log(), -sigma_next.log()
    h = lam_next - lam
    direction = denoised
    if old_denoised is not None and sigma_prev is not None and sigma_next > 0:
        r = (lam + sigma_prev.log()) / h
        weight = 1 / (2 * r)
        direction = (1 + weight) * denoised - weight * old_denoised
    return (-lam_next).exp() / (-lam).exp() * sample - torch.expm1(-h) * direction
