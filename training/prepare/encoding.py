"""The frozen model that clips are encoded with, and rows as a cache stores them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...commands.config import VaePrecision
from ...commands.precision import chosen_device
from ...temporal.hosts.diffusers.base import Base, load_base
from ..clips.identity import half_posterior
from .options import PrepareConfig


def open_model(config: PrepareConfig) -> tuple[Base, int]:
    """Return the frozen VAE and text encoders, and the number of pixels that picture sides must be multiples of."""
    if config.threads:
        torch.set_num_threads(config.threads)
    base = load_base(config.checkpoint, torch.bfloat16)  # of the UNet, of which only the shape is used
    multiple = base.factor * 2 ** (len(base.unet.config.block_out_channels) - 1)
    base.unet = None
    base.vae.to(chosen_device(config.device))
    return base, multiple


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
