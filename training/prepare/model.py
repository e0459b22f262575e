"""The frozen model that clips are encoded with."""

from __future__ import annotations

import torch

from ...commands.precision import chosen_device
from ...temporal.hosts.diffusers.base import Base, load_base
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
