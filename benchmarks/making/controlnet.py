"""Trains a ControlNet for the tiny SDXL on painted frames and what the painter knows of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...commands.precision import autocast
from ...demo.controlnet import CONFIG, first_name
from ...demo.model import SCALE, TextStack, size_ids
from ...demo.painter import TRAIN
from ...files import whole_or_nothing
from .optimise import Clock, Optimisation

CONTRAST = 0.3  # of encoded hints at the start; noise behind the UNet's first layer has a deviation of 0.6
EMPTY_CAPTIONS = 0.3  # share of frames without a caption, of which only the hint can tell what is to be seen


def new_controlnet(unet: Any, text: TextStack, hints: Tensor) -> Any:
    """A ControlNetModel with the UNet's encoder, silent at the start (arXiv:2302.05543).

    It has no conditioning on pooled text and sizes, which would be a third of its parameters: their mean is in its time
    embedding. Through the usual weights of the hint encoder's eight layers next to nothing of a hint comes. Here they
    are such that what comes differs among `hints` `[B, 3, H, W]` about half as much as the UNet's features of noise do.
    """
    from diffusers import ControlNetModel

    network = ControlNetModel(**CONFIG)
    for name in ("conv_in", "time_embedding", "down_blocks", "mid_block"):
        getattr(network, name).load_state_dict(getattr(unet, name).state_dict())
    encoder = network.controlnet_cond_embedding
    for layer in (encoder.conv_in, *encoder.blocks, encoder.conv_out):
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        encoder.conv_out.weight *= CONTRAST / encoder(hints).std(0).mean().clamp(min=1e-6)
        pooled = text(list(TRAIN[::41]))[1]
        times = unet.add_time_proj(size_ids(len(pooled)).flatten()).reshape(len(pooled), -1)
        added = unet.add_embedding(torch.cat([pooled, times], 1))
        network.time_embedding.linear_2.bias += added.mean(0)
    return network


class Controlled(nn.Module):
    """The UNet under a ControlNet and hints `[B, 3, H, W]` in 0..1, called like the UNet; rows beyond the hints' repeat
    them, as the two passes of classifier-free guidance do."""

    def __init__(self, unet: Any, network: Any, hints: Tensor) -> None:
        super().__init__()
        self.unet, self.network, self.hints = unet, network, hints

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor, added_cond_kwargs: dict[str, Tensor]) -> Any:
        hints = self.hints.repeat(len(noisy) // len(self.hints), 1, 1, 1)
        down, middle = self.network(noisy, timestep, context, controlnet_cond=hints, return_dict=False)
        return self.unet(
            noisy,
            timestep,
            context,
            added_cond_kwargs=added_cond_kwargs,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        )


def as_hints(pictures: np.ndarray) -> Tensor:
    """uint8 `[B,H,W,3]` -> float `[B,3,H,W]` in 0..1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(255)


def train_controlnet(
    base: tuple[Any, TextStack],
    data: tuple[Tensor, np.ndarray, list[str]],
    checkpoint: Path,
    *,
    seed: int,
    steps: int,
    minutes: float | None,
    say: Callable[[str], None],
    show: Callable[[Any, int], None],
    show_every: int = 250,
    batch: int = 32,
    peak: float = 1e-3,
) -> tuple[Any, dict[str, str]]:
    """Train (or resume from `checkpoint`) under the frozen `base` (UNet, text towers).

    data: latents `[N,4,h,w]` (unscaled), hints uint8 `[N,H,W,3]`, captions. Every `show_every` steps the averaged
    network is given to `show`. The loss is `train_base`'s. Returns the averaged network and metadata.
    """
    from diffusers import DDPMScheduler

    unet, text = base
    latents, hints, captions = data
    torch.manual_seed(seed)
    network = new_controlnet(unet, text, as_hints(hints[:16]))
    clock = Clock(steps, minutes, warmup=30)
    run = Optimisation(network, checkpoint, clock, peak=peak, weight_decay=1e-2, seed=seed)
    random = run.random
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    running, running_plain = 0.0, 0.0
    while clock.progress < 1:
        chosen = random.integers(0, len(latents), batch)
        clean = latents[chosen].float() * SCALE
        with torch.no_grad():
            context, pooled = text(["" if random.random() < EMPTY_CAPTIONS else captions[i] for i in chosen])
        timestep = torch.from_numpy(((np.arange(batch) + random.random(batch)) * 1000 / batch).astype(np.int64))
        noise = torch.randn_like(clean)
        noisy = scheduler.add_noise(clean, noise, timestep)
        told = (noisy, timestep, context, {"text_embeds": pooled, "time_ids": size_ids(batch)})
        weight = snr[timestep].clamp(max=5) / snr[timestep]
        with autocast("cpu"):
            predicted = Controlled(unet, network, as_hints(hints[chosen]))(*told).sample
        loss = (weight * (predicted.float() - noise).square().mean((1, 2, 3))).mean()
        run.step(loss)
        running += float(loss.detach())
        if clock.step % 10 == 1:  # the same frames without a hint, so that what it is worth can be seen early
            with torch.no_grad(), autocast("cpu"):
                plain = unet(*told[:3], added_cond_kwargs=told[3]).sample.float()
            running_plain += float((weight * (plain - noise).square().mean((1, 2, 3))).mean())
        if clock.step % 50 == 0:
            done = f"{clock.progress:.0%}, {clock.elapsed:.0f} s"
            say(f"controlnet step {clock.step} ({done}): loss {running / 50:.4f}, without {running_plain / 5:.4f}")
            running = running_plain = 0.0
        if clock.step % show_every == 0 or clock.progress >= 1:
            run.save()
            show(averaged(run), clock.step)
    notes = {"steps": str(clock.step), "seed": str(seed), "batch": str(batch)}
    return averaged(run), notes


def averaged(run: Optimisation) -> Any:
    """A copy of the ControlNet in training, with the averaged weights."""
    network = copy.deepcopy(run.module)
    network.load_state_dict(run.average.values)
    return network.eval().requires_grad_(False)


def save_controlnet(network: Any, metadata: dict[str, str], path: Path) -> None:
    """Write fp16 safetensors in the layout of the first ControlNets, whole or not at all.

    ComfyUI's loader tells the shape of a network in that layout from its weights; in diffusers' it knows published
    shapes only.
    """
    from safetensors.torch import save_file

    tensors = {first_name(key): value.half().contiguous() for key, value in network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_or_nothing(path) as part:
        save_file(tensors, part, metadata={"format": "pt", **metadata})
