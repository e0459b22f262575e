"""Latents: mean and deviation of the VAE's posterior, unscaled, in half precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...commands.config import VaePrecision
from ...commands.precision import computing_in, vae_arithmetic
from ...temporal.hosts.diffusers.base import Base


@torch.no_grad()
def posterior(base: Base, pictures: np.ndarray, batch: int, precision: VaePrecision) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation fp16 `[F, 4, H/8, W/8]` of uint8 pictures `[F, H, W, 3]`.

    Raises ValueError where the VAE gives values that are no numbers, or too large for fp16.
    """
    means, deviations = [], []
    for some in torch.from_numpy(pictures).split(batch):
        pixels = some.to(base.vae.device).permute(0, 3, 1, 2).to(base.vae.dtype) / 127.5 - 1  # [F, 3, H, W]
        with computing_in(base.vae.device, vae_arithmetic(base.vae.device, precision)):
            found = base.vae.encode(pixels).latent_dist
        means.append(found.mean.half().cpu())
        deviations.append(found.std.half().cpu())
    mean, deviation = torch.cat(means).numpy(), torch.cat(deviations).numpy()
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
        raise ValueError("the VAE gives values that are no numbers; set precision fp32, or take a VAE made for fp16")
    return mean, deviation


def encode_row(base: Base, row: dict[str, Any], batch: int, precision: VaePrecision) -> dict[str, Any]:
    """A row of the store: `pictures` are encoded, `latents` of an .npz clip unscaled; other rows stay as they are."""
    row = dict(row)
    pictures, latents = row.pop("pictures", None), row.pop("latents", None)
    mean, deviation = b"", b""
    if pictures is not None:
        mean, deviation = (part.tobytes() for part in posterior(base, pictures, batch, precision))
    elif latents is not None and not row["reason"]:
        mean = (latents / base.vae.config.scaling_factor).astype(np.float16).tobytes()
        deviation = bytes(len(mean))
    return {"tokens": b"", "pooled": b"", **row, "mean": mean, "deviation": deviation}
