"""Sampling clips with a diffusers UNet: one loop for validation, evaluation and rendering."""

from typing import Any

import torch

from ....commands.config import Precision
from ....commands.precision import autocast
from .base import Base, Text, time_ids

ZERO_SNR_SIGMA = ((1 - 4.8973451890853435e-08) / 4.8973451890853435e-08) ** 0.5
"""ComfyUI's first noise level for a model of zero terminal SNR, whose own is infinite; diffusers takes 4096."""


class Hooks:
    """Called around each evaluation of the UNet; these do nothing.

    Frames `[F, 4, h, w]` are variance exploding, x = x0 + sigma noise, as in ComfyUI's samplers.
    """

    def before(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """Return the noisy frames for the UNet and for the step."""
        return x

    def denoised(self, x0: torch.Tensor, sigma: float) -> torch.Tensor:
        """Return the clean prediction for the step; it comes after guidance."""
        return x0

    def stepped(self) -> None:
        """Called after every step."""


@torch.no_grad()
def sample_clip(
    base: Base,
    unet: Any,
    noise: torch.Tensor,
    text: Text,
    *,
    steps: int = 28,
    cfg: float = 5.0,
    temporal: bool = True,
    precision: Precision = "fp32",
    hooks: Hooks | None = None,
    start: torch.Tensor | None = None,
    begin: int = 0,
) -> torch.Tensor:
    """Return latents `[F, 4, h, w]` fp32 of a clip by BestHQ, with classifier-free guidance unless `cfg` is 1.

    unet: the base's own, or a TemporalUNet with `temporal` (it is then told the number of frames).
    noise: unit normal `[F, 4, h, w]` on the UNet's device.
    text: rows of `encode_text` for the empty caption and for the caption, one or F rows each.
    start: latents `[F, 4, h, w]` to begin with instead of pure noise. begin: the first of the steps to take.
    """
    from ....schedulers.best_hq import vp_scale

    scheduler = best_hq(base)
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(begin)
    frames, _, height, width = noise.shape
    where = {"device": noise.device, "dtype": base.unet.dtype}
    guided = cfg != 1
    first = 0 if guided else len(text[0]) // 2
    tokens, pooled = (rows[first:].repeat_interleave(2 * frames // len(rows), 0).to(**where) for rows in text)
    sizes = time_ids(height * base.factor, width * base.factor, len(tokens))
    added = {"text_embeds": pooled, "time_ids": sizes.to(noise.device)}
    extra = {"num_frames": frames} if temporal else {}
    if hooks:
        scheduler.hook_before_step = _on_denoised(scheduler, hooks)
    latents = noise
    if start is not None:
        scale = vp_scale(scheduler.sigmas[begin]).to(noise)
        # As in ComfyUI: noise at the first level has variance 1, as if it were the whole sample.
        latents = start * scale + noise * (scheduler.sigmas[begin].to(noise) * scale if begin else 1)
    for t, sigma in zip(scheduler.timesteps[begin:], scheduler.sigmas[begin:], strict=False):  # the last sigma is 0
        if hooks:
            scale = vp_scale(sigma).to(latents)
            latents = hooks.before(latents / scale, float(sigma)) * scale
        inputs = latents.to(where["dtype"]).repeat(2 if guided else 1, 1, 1, 1)
        with autocast(noise.device, precision):
            found = unet(inputs, t, tokens, added_cond_kwargs=added, **extra).sample.float()
        if guided:
            empty, wanted = found.chunk(2)
            found = empty + cfg * (wanted - empty)
        latents = scheduler.step(found, t, latents).prev_sample
        if hooks:
            hooks.stepped()
    return latents


def best_hq(base: Base) -> Any:
    """Return the BestHQ scheduler for the base's prediction type."""
    from ....schedulers.diffusers import SDXLAnime_BestHQScheduler

    config = {**base.scheduler_config, "prediction_type": base.prediction}
    if config.get("rescale_betas_zero_snr"):
        config["sigma_max"] = ZERO_SNR_SIGMA
    return SDXLAnime_BestHQScheduler.from_config(config)


def _on_denoised(scheduler: Any, hooks: Hooks) -> Any:
    """Return the scheduler's hook before a step, in terms of the clean prediction."""
    from ....schedulers.best_hq import from_denoised, to_denoised, vp_scale

    def hook(output: torch.Tensor, timestep: Any, sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sigma = scheduler.sigmas[scheduler.step_index or 0]
        kind = scheduler.config.prediction_type
        exploding = sample / vp_scale(sigma).to(sample)
        denoised = hooks.denoised(to_denoised(output, exploding, sigma, kind), float(sigma))
        return from_denoised(denoised, exploding, sigma, kind), sample

    return hook
