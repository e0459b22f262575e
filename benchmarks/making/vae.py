"""The training of the tiny SDXL's autoencoder on painted frames."""

import argparse
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...commands.precision import autocast
from ...demo.model import SCALE, load_toon_diffusers, new_vae
from ...temporal.weights.header import read_header
from .base import base_tensors, new_base
from .data import painted_frames
from .latents import as_pictures, encode
from .loop import Training, say

HELD = 256  # frames, the last ones, that are not trained on


class VaeTraining(Training):
    """The autoencoder; the UNet and the towers in its file are kept, or random in a new file."""

    name, every, warmup, peak, weight_decay, prefix = "vae", 200, 100, 1.5e-3, 1e-4, "vae_"
    frames, steps, file = 8000, 3000, "toon_base.safetensors"

    def __init__(self, options: argparse.Namespace) -> None:
        self.pictures, self.importance, _ = painted_frames(options.frames, options.seed, options.cache)
        self.seed, self.output, self.last = options.seed, options.output, ""
        torch.manual_seed(self.seed)
        self.module = new_vae().to(memory_format=torch.channels_last)

    def loss(self, random: np.random.Generator, step: int) -> Tensor:
        chosen = random.integers(0, len(self.pictures) - HELD, 8)
        target = as_pictures(self.pictures[chosen])
        weight = 1 + torch.from_numpy(self.importance[chosen]).float().unsqueeze(1)
        with autocast("cpu"):
            posterior = self.module.encode(target).latent_dist
            output = self.module.decode(posterior.sample()).sample.float()
        loss = picture_loss(output, target, weight) + 1e-4 / posterior.mean[0].numel() * posterior.kl().mean()
        self.last = f"loss {loss:.4f}, error {(output.detach() - target).abs().mean():.4f}"
        return loss

    def figures(self, loss: float) -> str:
        return self.last

    def tensors(self) -> dict[str, Tensor]:
        normalise_latents(self.module, self.pictures[:-HELD][:1024])
        error = f"{mean_error(self.module, self.pictures[-HELD:]):.4f}"
        say(f"vae: mean absolute error {error} (pictures in -1..1) on {HELD} frames not trained on")
        torch.manual_seed(self.seed)
        base, self.about = dict(new_base()), {"title": "toon world base"}
        if self.output.exists():
            base["unet"], _, base["text"] = load_toon_diffusers(self.output)
            self.about |= read_header(self.output).metadata
        self.about["vae_error"] = error
        return base_tensors({**base, "vae": self.module})


def picture_loss(output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """L1, edges and local mean colour of pictures `[B,3,H,W]`; `weight` `[B,1,H,W]` says what must survive."""
    error = (output - target) * weight
    across = (error[..., 1:] - error[..., :-1]).abs().mean()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return error.abs().mean() + 0.5 * (across + down) + F.avg_pool2d(error, 4).abs().mean()


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
