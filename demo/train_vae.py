"""Trains the tiny SDXL's autoencoder on painted frames."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..training.precision import autocast
from .model import SCALE, new_vae

Say = Callable[[str], None]


class Average:
    """Exponential moving average of a module's parameters, with a warm-up."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.values = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, p in module.named_parameters():
            self.values[name].lerp_(p, 1 - decay)

    def copy_to(self, module: nn.Module) -> None:
        module.load_state_dict(self.values, strict=False)


class Clock:
    """Progress from 0 to 1 by steps or by minutes, whichever comes first; learning rate by cosine."""

    def __init__(self, steps: int, minutes: float | None, warmup: int = 100) -> None:
        self.steps, self.seconds, self.warmup = steps, (minutes or math.inf) * 60, warmup
        self.step, self.spent, self._start = 0, 0.0, time.monotonic()

    @property
    def elapsed(self) -> float:
        return self.spent + time.monotonic() - self._start

    @property
    def progress(self) -> float:
        return min(1.0, max(self.step / self.steps, self.elapsed / self.seconds))

    def rate(self, peak: float) -> float:
        return (
            peak * min(1.0, (self.step + 1) / self.warmup) * (0.02 + 0.98 * (1 + math.cos(math.pi * self.progress)) / 2)
        )


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
    optimizer = torch.optim.AdamW(vae.parameters(), peak, betas=(0.9, 0.99), weight_decay=1e-4)
    average, clock = Average(vae, 0.998), Clock(steps, minutes)
    random = np.random.default_rng(seed)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.values, average.steps = state["average"], state["step"]
        clock.step, clock.spent = state["step"], state["seconds"]
        random = np.random.default_rng((seed, clock.step))
    while clock.progress < 1:
        chosen = random.integers(0, len(frames) - 256, batch)
        target = as_pictures(frames[chosen])
        weight = 1 + torch.from_numpy(importance[chosen]).float().unsqueeze(1)
        with autocast("cpu"):
            posterior = vae.encode(target).latent_dist
            output = vae.decode(posterior.sample()).sample
        loss = picture_loss(output.float(), target, weight) + 1e-4 / posterior.mean[0].numel() * posterior.kl().mean()
        optimizer.param_groups[0]["lr"] = clock.rate(peak)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        average.update(vae)
        clock.step += 1
        if clock.step % 50 == 0:
            plain = float((output.detach().float() - target).abs().mean())
            done = f"{clock.progress:.0%}, {clock.elapsed:.0f} s"
            say(f"vae step {clock.step} ({done}): loss {loss:.4f}, error {plain:.4f}")
        if clock.step % 200 == 0 or clock.progress >= 1:
            state = {"model": vae.state_dict(), "optimizer": optimizer.state_dict(), "average": average.values}
            torch.save(state | {"step": clock.step, "seconds": clock.elapsed}, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)
    average.copy_to(vae)
    normalise_latents(vae, frames[: len(frames) - 256][:1024])
    error = mean_error(vae, frames[-256:])
    say(f"vae: mean absolute error {error:.4f} (pictures in -1..1) on 256 frames not trained on")
    return vae, {"vae_steps": str(clock.step), "vae_seed": str(seed), "vae_error": f"{error:.4f}"}
