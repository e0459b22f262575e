"""Pictures from the tiny SDXL without ComfyUI: DPM++ 2M on Karras sigmas with classifier-free guidance."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...commands.precision import autocast
from ...demo.model import SCALE, TextStack, size_ids


@torch.no_grad()
def sample_latents(
    unet: Any, text: TextStack, captions: list[str], seed: int, steps: int = 28, cfg: float = 5.0
) -> Tensor:
    """Latents `[B,4,16,16]` as the autoencoder takes them (divided by SDXL's scale)."""
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        use_karras_sigmas=True,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(steps)
    context, pooled = text([*captions, *[""] * len(captions)])
    added = {"text_embeds": pooled, "time_ids": size_ids(2 * len(captions))}
    x = (
        torch.randn(len(captions), 4, 16, 16, generator=torch.Generator().manual_seed(seed))
        * scheduler.init_noise_sigma
    )
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, timestep)
        with autocast("cpu"):
            wanted, empty = (
                unet(torch.cat([scaled, scaled]), timestep, context, added_cond_kwargs=added).sample.float().chunk(2)
            )
        x = scheduler.step(empty + cfg * (wanted - empty), timestep, x).prev_sample
    return x / SCALE


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> np.ndarray:
    """uint8 `[B,H,W,3]`."""
    pictures = torch.cat([vae.decode(part).sample for part in latents.split(8)])
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def grid(pictures: np.ndarray, columns: int) -> np.ndarray:
    """Pictures `[B,H,W,3]` in rows of `columns`."""
    return np.concatenate(
        [np.concatenate(list(pictures[i : i + columns]), 1) for i in range(0, len(pictures), columns)], 0
    )
