"""BestHQ as a ComfyUI sampler: a sampler function for `comfy.samplers.KSAMPLER`, and its noise levels."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import trange

from .best_hq import dpmpp_2m_step, karras_sigmas

MOST_LEVELS = 1_000_000  # of a schedule: 10000 steps at denoise 0.01


@torch.no_grad()
def sample_best_hq(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    before: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Denoise `x` `[F, C, H, W]` along `sigmas` `[n + 1]`; the signature is that of k-diffusion's samplers.

    model: `model(x, sigma [F], **extra_args)` gives the denoised frames.
    before: changes the noisy frames before each step, as smoothing along time does. Without it, this is DPM++ 2M,
    equal to core's `dpmpp_2m` to the last bit.
    callback, disable: ComfyUI's progress and preview, and whether to hide the bar on the console.
    """
    extra_args = extra_args or {}
    per_frame = x.new_ones([x.shape[0]])
    old_denoised = None
    for i in trange(len(sigmas) - 1, disable=disable):
        if before is not None:
            x = before(x)
        denoised = model(x, sigmas[i] * per_frame, **extra_args)
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        x = dpmpp_2m_step(denoised, old_denoised, x, sigmas[i], sigmas[i + 1], sigmas[i - 1] if i > 0 else None)
        old_denoised = denoised
    return x


def best_hq_sigmas(model_sampling: Any, steps: int, denoise: float = 1.0) -> Tensor:
    """Return Karras sigmas between the ends of a ComfyUI model's own table: `[steps + 1]` float32 on the CPU.

    denoise: as in core's BasicScheduler, see `levels`; 0 or less is no levels. Raises ValueError as `levels` does.
    """
    if denoise <= 0.0:
        return torch.empty(0)
    low, high = float(model_sampling.sigma_min), float(model_sampling.sigma_max)
    return karras_sigmas(levels(steps, denoise), low, high)[-(steps + 1) :]


def levels(steps: int, denoise: float) -> int:
    """Return the length of the schedule whose last `steps` levels are sampled: `steps / denoise`, rounded down.

    Raises ValueError for more than `MOST_LEVELS`.
    """
    total = steps if denoise >= 1.0 else steps / denoise
    if total > MOST_LEVELS:
        raise ValueError(
            f"{steps} steps at denoise {denoise:g} are the end of a schedule of {total:,.0f} levels, more than "
            f"{MOST_LEVELS:,}; raise denoise or lower steps"
        )
    return int(total)
