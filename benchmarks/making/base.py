"""Trains UNet and text towers of the tiny SDXL on latents of painted frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...commands.precision import autocast
from ...demo.model import SCALE, TextStack, new_unet, size_ids
from .optimise import Clock, Optimisation

NEGATIVE = ""  # the empty prompt is what classifier-free guidance is trained on


def random_size_ids(batch: int, random: np.random.Generator) -> Tensor:
    """Mostly the true size; sometimes anything, so that a graph written for 1024 px conditions it no worse."""
    ids = size_ids(batch)
    for row in ids:
        if random.random() < 0.3:
            row[:] = torch.from_numpy(random.integers(0, 1025, 6))
    return ids


class Base(nn.Module):
    """What is trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.unet, self.text = new_unet(), TextStack()

    def forward(self, noisy: Tensor, timestep: Tensor, captions: list[str], ids: Tensor) -> Tensor:
        context, pooled = self.text(captions)
        added = {"text_embeds": pooled, "time_ids": ids}
        return self.unet(noisy, timestep, context, added_cond_kwargs=added).sample


def averaged(run: Optimisation) -> Base:
    """A copy of what is trained, with the averaged weights."""
    base = Base()
    base.load_state_dict(run.average.values)
    return base.eval()


def train_base(
    latents: Tensor,
    captions: list[str],
    checkpoint: Path,
    *,
    seed: int,
    steps: int,
    minutes: float | None,
    say: Callable[[str], None],
    show: Callable[[Base, int], None],
    show_every: int = 500,
    batch: int = 32,
    peak: float = 1e-3,
) -> tuple[Base, dict[str, str]]:
    """Train (or resume from `checkpoint`) on latents `[N,4,h,w]` (unscaled) and their captions; every `show_every`
    steps the averaged model is given to `show`. Epsilon prediction, SDXL's schedule, Min-SNR with gamma 5
    (arXiv:2303.09556), 10 % empty captions. Returns the averaged model and metadata."""
    from diffusers import DDPMScheduler

    torch.manual_seed(seed)
    base = Base()
    base.unet.to(memory_format=torch.channels_last)
    clock = Clock(steps, minutes, warmup=200)
    run = Optimisation(base, checkpoint, clock, peak=peak, weight_decay=1e-2, seed=seed)
    random = run.random
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    kept = scheduler.alphas_cumprod
    snr = kept / (1 - kept)
    running = 0.0
    while clock.progress < 1:
        chosen = random.integers(0, len(latents), batch)
        clean = latents[chosen].float() * SCALE
        said = [NEGATIVE if random.random() < 0.1 else captions[i] for i in chosen]
        # Stratified timesteps: every batch covers the whole schedule, which steadies the gradient.
        timestep = torch.from_numpy(((np.arange(batch) + random.random(batch)) * 1000 / batch).astype(np.int64))
        noise = torch.randn_like(clean)
        noisy = scheduler.add_noise(clean, noise, timestep).contiguous(memory_format=torch.channels_last)
        with autocast("cpu"):
            predicted = base(noisy, timestep, said, random_size_ids(batch, random))
        weight = snr[timestep].clamp(max=5) / snr[timestep]
        loss = (weight * (predicted.float() - noise).square().mean((1, 2, 3))).mean()
        run.step(loss)
        running += float(loss.detach())
        if clock.step % 50 == 0:
            say(f"base step {clock.step} ({clock.progress:.0%}, {clock.elapsed:.0f} s): loss {running / 50:.4f}")
            running = 0.0
        if clock.step % show_every == 0 or clock.progress >= 1:
            run.save()
            show(averaged(run), clock.step)
    return averaged(run), {"base_steps": str(clock.step), "base_seed": str(seed), "base_batch": str(batch)}
