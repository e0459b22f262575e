"""Trains the tiny SDXL's autoencoder on painted frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...commands.precision import autocast
from ...demo.model import SCALE, new_vae
from .optimise import Clock, Optimisation

Say = Callable[[str], None]


def picture_loss(output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """L1, edges and local mean colour of pictures `[B,3,H,W]`; `weight` `[B,1,H,W]` says what must survive."""
    error = (output - target) * weight
    across = (error[..., 1:] - error[..., :-1]).abs().mean()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return error.abs().mean() + 0.5 * (across + down) + F.avg_pool2d(error, 4).abs().mean()


def as_pictures(frames: np.ndarray) -> Tensor:
    """uint8 `[B,H,W,3]` -> float `[B,3,H,W]` in -1..1, channels last."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float().div(127.5).sub(1)


@torch.no_grad()
def encode(vae: Any, frames: np.ndarray, batch: int = 32) -> Tensor:
    """Mean latents `[N,4,h,w]` (before SDXL's scale factor)."""
    with autocast("cpu"):
        parts = [vae.encode(as_pictures(frames[i : i + batch])).latent_dist.mean for i in range(0, len(frames), batch)]
    return torch.cat(parts).float()


@torch.no_grad()
def mean_error(vae: Any, frames: np.ndarray) -> float:
    """Mean absolute error of reconstructions, pictures in -1..1."""
    output = vae.decode(vae.encode(as_pictures(frames)).latent_dist.mean).sample
    return float((output.clamp(-1, 1) - as_pictures(frames)).abs().mean())


@torch.no_grad()
def normalise_latents(vae: Any, frames: np.ndarray) -> None:
    """Fold mean and scale into quant_conv and post_quant_conv, so that latents have mean 0 and deviation 1 / 0.13025
    per channel, as SDXL's latent format expects. The autoencoder's pictures stay what they were."""
    latents = encode(vae, frames).transpose(0, 1).flatten(1)
    mean, gain = latents.mean(1), 1 / (SCALE * latents.std(1))
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:4] *= gain.view(4, 1, 1, 1)
    quant.bias[:4] = (quant.bias[:4] - mean) * gain
    quant.bias[4:] += 2 * gain.log()
    post.bias += (post.weight[:, :, 0, 0] * mean).sum(1)
    post.weight /= gain.view(1, 4, 1, 1)


def train_vae(
    data: tuple[np.ndarray, np.ndarray],
    checkpoint: Path,
    *,
    seed: int,
    steps: int,
    minutes: float | None,
    say: Say,
    batch: int = 8,
    peak: float = 1.5e-3,
) -> tuple[Any, dict[str, str]]:
    """Train (or resume from `checkpoint`); returns the averaged autoencoder with SDXL's latent statistics, and
    metadata. `data`: frames uint8 `[N,H,W,3]`, importance `[N,H,W]`; the last 256 frames are kept for validation."""
    frames, importance = data
    torch.manual_seed(seed)
    vae: Any = new_vae()
    vae = vae.to(memory_format=torch.channels_last)
    clock = Clock(steps, minutes)
    run = Optimisation(vae, checkpoint, clock, peak=peak, weight_decay=1e-4, seed=seed)
    while clock.progress < 1:
        chosen = run.random.integers(0, len(frames) - 256, batch)
        target = as_pictures(frames[chosen])
        weight = 1 + torch.from_numpy(importance[chosen]).float().unsqueeze(1)
        with autocast("cpu"):
            posterior = vae.encode(target).latent_dist
            output = vae.decode(posterior.sample()).sample
        loss = picture_loss(output.float(), target, weight) + 1e-4 / posterior.mean[0].numel() * posterior.kl().mean()
        run.step(loss)
        if clock.step % 50 == 0:
            plain = float((output.detach().float() - target).abs().mean())
            done = f"{clock.progress:.0%}, {clock.elapsed:.0f} s"
            say(f"vae step {clock.step} ({done}): loss {loss:.4f}, error {plain:.4f}")
        if clock.step % 200 == 0 or clock.progress >= 1:
            run.save()
    vae.load_state_dict(run.average.values)
    normalise_latents(vae, frames[: len(frames) - 256][:1024])
    error = mean_error(vae, frames[-256:])
    say(f"vae: mean absolute error {error:.4f} (pictures in -1..1) on 256 frames not trained on")
    return vae, {"vae_steps": str(clock.step), "vae_seed": str(seed), "vae_error": f"{error:.4f}"}
