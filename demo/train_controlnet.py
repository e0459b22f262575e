"""Trains a ControlNet for the tiny SDXL on painted frames and what the painter knows of them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..training.precision import autocast
from .model import CONTEXT, HEAD, SCALE, UNET_WIDTHS, WEIGHTS, TextStack, size_ids
from .optimise import Clock, Optimisation
from .painter import TRAIN

CONFIG = {
    "block_out_channels": UNET_WIDTHS,
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D",) * len(UNET_WIDTHS),
    "cross_attention_dim": CONTEXT,
    "attention_head_dim": tuple(width // HEAD for width in UNET_WIDTHS),
    "use_linear_projection": True,
    "conditioning_embedding_out_channels": (16, 32, 96, 256),  # core's loader knows no others
}
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
    run.average.copy_to(network)
    return network.eval().requires_grad_(False)


def save_controlnet(network: Any, metadata: dict[str, str], path: Path) -> None:
    """Write fp16 safetensors in the layout of the first ControlNets, whole or not at all.

    ComfyUI's loader tells the shape of a network in that layout from its weights; in diffusers' it knows published
    shapes only.
    """
    from safetensors.torch import save_file

    from ..media.files import whole_or_nothing

    tensors = {first_name(key): value.half().contiguous() for key, value in network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_or_nothing(path) as part:
        save_file(tensors, part, metadata={"format": "pt", **metadata})


def load_toon_controlnet(hint: str = "pose") -> Any:
    """The ControlNetModel of the pack's file for a kind of hint, fp32."""
    from diffusers import ControlNetModel
    from safetensors.torch import load_file

    stored = load_file(WEIGHTS.parent / "controlnet" / "toon" / f"toon_{hint}.safetensors")
    network = ControlNetModel(**CONFIG)
    network.load_state_dict({key: stored[first_name(key)].float() for key in network.state_dict()})
    return network.eval()


_WITH_NUMBERS: tuple[tuple[str, Callable[[int], str]], ...] = (
    (r"down_blocks\.(\d+)\.resnets\.0", lambda i: f"input_blocks.{2 * i + 1}.0"),
    (r"down_blocks\.(\d+)\.attentions\.0", lambda i: f"input_blocks.{2 * i + 1}.1"),
    (r"down_blocks\.(\d+)\.downsamplers\.0\.conv", lambda i: f"input_blocks.{2 * i + 2}.0.op"),
    (r"controlnet_down_blocks\.(\d+)", lambda i: f"zero_convs.{i}.0"),
    (r"controlnet_cond_embedding\.blocks\.(\d+)", lambda i: f"input_hint_block.{2 * i + 2}"),
)
_PLAIN = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "controlnet_mid_block": "middle_block_out.0",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0",
    "controlnet_cond_embedding.conv_out": "input_hint_block.14",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def first_name(key: str) -> str:
    """diffusers' name of a weight of the toon ControlNet in the layout of the first ControlNets."""
    for pattern, name in _WITH_NUMBERS:
        if match := re.match(pattern + r"\.", key):
            start, rest = name(int(match[1])), key[match.end() :]
            break
    else:
        old = next(old for old in _PLAIN if key.startswith(old + "."))
        start, rest = _PLAIN[old], key[len(old) + 1 :]
    if ".resnets." in key:
        layer, _, rest = rest.partition(".")
        rest = f"{_RESNET[layer]}.{rest}"
    return f"{start}.{rest}"
