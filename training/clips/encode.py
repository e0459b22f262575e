"""Latents as a cache stores them: mean and deviation of the VAE's posterior, unscaled, in half precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...commands.config import VaePrecision
from ...temporal.hosts.diffusers.base import Base


def half_posterior(
    base: Base, pictures: np.ndarray, batch: int, precision: VaePrecision
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation fp16 `[F, 4, H/8, W/8]` of uint8 pictures `[F, H, W, 3]`.

    Raises ValueError if the VAE returns values that are not finite in fp16.
    """
    mean, deviation = (part.half().numpy() for part in base.posterior(torch.from_numpy(pictures), batch, precision))
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
        raise ValueError("the VAE returns NaN or infinite values; set precision fp32, or use a VAE made for fp16")
    return mean, deviation


def encode_row(base: Base, row: dict[str, Any], batch: int, precision: VaePrecision) -> dict[str, Any]:
    """Return a row of the store: `pictures` are encoded, `latents` of an .npz clip unscaled, other rows unchanged."""
    row = dict(row)
    pictures, latents = row.pop("pictures", None), row.pop("latents", None)
    mean, deviation = b"", b""
    if pictures is not None:
        mean, deviation = (part.tobytes() for part in half_posterior(base, pictures, batch, precision))
    elif latents is not None and not row["reason"]:
        mean = (latents / base.vae.config.scaling_factor).astype(np.float16).tobytes()
        deviation = bytes(len(mean))
    return {"tokens": b"", "pooled": b"", **row, "mean": mean, "deviation": deviation}
