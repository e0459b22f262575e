"""Sampling clips with a diffusers UNet: one loop for validation and evaluation."""

from __future__ import annotations

from typing import Any

import torch

from .base import Base, Text, time_ids
from .precision import Precision, autocast


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
) -> torch.Tensor:
    """Latents `[F, 4, h, w]` of a clip by BestHQ with classifier-free guidance.

    unet: the base's own, or a TemporalUNet with `temporal` (it is then told the number of frames).
    noise: unit normal `[F, 4, h, w]`. text: rows as `encode_text` gives them, for the empty caption and the caption.
    """
    from ..schedulers.diffusers import SDXLAnime_BestHQScheduler

    scheduler: Any = SDXLAnime_BestHQScheduler.from_config(
        {**base.scheduler_config, "prediction_type": base.prediction}
    )
    scheduler.set_timesteps(steps)
    frames, _, height, width = noise.shape
    tokens, pooled = (rows.repeat_interleave(frames, 0) for rows in text)
    added = {
        "text_embeds": pooled,
        "time_ids": time_ids(height * base.factor, width * base.factor, 2 * frames).to(noise),
    }
    extra = {"num_frames": frames} if temporal else {}
    latents = noise
    for t in scheduler.timesteps:
        with autocast(noise.device, precision):
            both = unet(torch.cat([latents, latents]), t, tokens, added_cond_kwargs=added, **extra).sample.float()
        empty, wanted = both.chunk(2)
        latents = scheduler.step(empty + cfg * (wanted - empty), t, latents).prev_sample
    return latents
