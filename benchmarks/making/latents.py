"""Latents of painted frames: encoded, drawn in batches, denoised; sampled ones; pictures of them."""

import argparse
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...commands.precision import autocast
from ...demo.model import SCALE, WEIGHTS, TextStack, size_ids
from ...files import whole_or_nothing
from ...temporal.weights.header import read_header
from .data import painted_frames
from .loop import Training, say

SCHEDULE: Any = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def as_pictures(frames: np.ndarray) -> Tensor:
    """uint8 `[B,H,W,3]` -> float `[B,3,H,W]` in -1..1, channels last."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float().div(127.5).sub(1)


@torch.no_grad()
def encode(vae: Any, frames: np.ndarray, batch: int = 32) -> Tensor:
    """Mean latents `[N,4,h,w]` (before SDXL's scale factor)."""
    with autocast("cpu"):
        parts = [vae.encode(as_pictures(frames[i : i + batch])).latent_dist.mean for i in range(0, len(frames), batch)]
    return torch.cat(parts).float()


def painted_latents(options: argparse.Namespace, vae: Any, seed: int) -> tuple[np.ndarray, np.ndarray, list, Tensor]:
    """Return painted frames, hints, captions, and latents fp16 `[N,4,h,w]`, unscaled, which are encoded only once."""
    frames, hints, captions = painted_frames(options.frames, seed, options.cache, hint=options.hint)
    steps = read_header(options.output if options.what == "base" else WEIGHTS).metadata.get("vae_steps")
    name = f"latents-{options.hint}" if options.hint else "latents"
    stored = options.cache / f"{name}-{options.frames}-{options.seed}-{steps}.pt"
    if not stored.exists():
        say(f"encoding {len(frames)} frames")
        with whole_or_nothing(stored) as part:
            torch.save(encode(vae, frames).half(), part)
    return frames, hints, captions, torch.load(stored, weights_only=True)


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> np.ndarray:
    """Return pictures uint8 `[B,H,W,3]`."""
    pictures = torch.cat([vae.decode(part).sample for part in latents.split(8)])
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def predicted(
    unet: Any, noisy: Tensor, timestep: Tensor, text: tuple[Tensor, Tensor], ids: Tensor | None = None
) -> Tensor:
    """Return the noise, fp32, that the UNet finds in scaled latents `[B,4,h,w]`.

    text: context and pooled of each. ids: `[B,6]`, the true sizes if None.
    """
    added = {"text_embeds": text[1], "time_ids": size_ids(len(noisy)) if ids is None else ids}
    with autocast("cpu"):
        return unet(noisy, timestep, text[0], added_cond_kwargs=added).sample.float()


def guided(unet: Any, noisy: Tensor, timestep: Tensor, text: tuple[Tensor, Tensor], cfg: float) -> Tensor:
    """Return the same by classifier-free guidance; timestep, text: for the captions, then for as many empty ones."""
    wanted, empty = predicted(unet, noisy.repeat(2, 1, 1, 1), timestep, text).chunk(2)
    return empty + cfg * (wanted - empty)


@torch.no_grad()
def sample_latents(
    unet: Any, text: TextStack, captions: list[str], seed: int, steps: int = 28, cfg: float = 5.0
) -> Tensor:
    """Return latents `[B,4,16,16]` as the autoencoder takes them (divided by SDXL's scale)."""
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(**SCHEDULE, use_karras_sigmas=True, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    both, random = text([*captions, *[""] * len(captions)]), torch.Generator().manual_seed(seed)
    x = torch.randn(len(captions), 4, 16, 16, generator=random) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        noise = guided(unet, scheduler.scale_model_input(x, timestep), timestep, both, cfg)
        x = scheduler.step(noise, timestep, x).prev_sample
    return x / SCALE


def stratified(random: np.random.Generator, count: int, end: int) -> Tensor:
    """Return whole numbers `[count]`, one from each of as many equal parts of 0..end: this steadies the gradient."""
    return torch.from_numpy(((np.arange(count) + random.random(count)) * end / count).astype(np.int64))


class Denoising(Training):
    """Epsilon prediction on SDXL's schedule, Min-SNR with gamma 5 (arXiv:2303.09556)."""

    empty = 0.1  # share of empty captions

    def __init__(self, latents: Tensor, captions: list[str], batch: int) -> None:
        from diffusers import DDPMScheduler

        self.latents, self.captions, self.batch = latents, captions, batch
        self.scheduler = DDPMScheduler(**SCHEDULE)
        self.snr = self.scheduler.alphas_cumprod / (1 - self.scheduler.alphas_cumprod)

    def draw(self, random: np.random.Generator) -> tuple[np.ndarray, list[str], Tensor, Tensor, Tensor]:
        """Return rows, captions, timesteps, noise and noisy latents of a batch."""
        chosen = random.integers(0, len(self.latents), self.batch)
        clean = self.latents[chosen].float() * SCALE
        captions = ["" if random.random() < self.empty else self.captions[i] for i in chosen]
        timestep, noise = stratified(random, self.batch, 1000), torch.randn_like(clean)
        return chosen, captions, timestep, noise, self.scheduler.add_noise(clean, noise, timestep)

    def error(self, found: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """Return the weighted mean error of predicted noise."""
        weight = self.snr[timestep].clamp(max=5) / self.snr[timestep]
        return (weight * (found - noise).square().mean((1, 2, 3))).mean()
