"""The training of the tiny SDXL's UNet and text towers on latents of the autoencoder in their file."""

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...commands.precision import autocast
from ...demo.model import TextStack, load_toon_diffusers, new_unet, size_ids
from ...demo.painter import HELD_OUT, TRAIN
from ...temporal.weights.header import read_header
from .latents import Denoising, decode, painted_latents, predicted, sample_latents

UNSEEN = [HELD_OUT[i * 29 % len(HELD_OUT)] for i in range(8)]


class BaseTraining(Denoising):
    """UNet and text towers together."""

    name, every, warmup, prefix = "base", 500, 200, "base_"
    frames, steps, file = 16000, 6000, "toon_base.safetensors"

    def __init__(self, options: argparse.Namespace) -> None:
        _, self.vae, _ = load_toon_diffusers(options.output)
        self.about = read_header(options.output).metadata
        captions, latents = painted_latents(options, self.vae, options.seed + 1)[2:]
        super().__init__(latents, captions, options.batch)
        torch.manual_seed(options.seed)
        self.module = new_base()
        self.module["unet"].to(memory_format=torch.channels_last)

    def loss(self, random: np.random.Generator, step: int) -> Tensor:
        _, captions, timestep, noise, noisy = self.draw(random)
        ids = size_ids(self.batch)
        for row in ids:  # sometimes anything, so that a graph written for 1024 px conditions it no worse
            if random.random() < 0.3:
                row[:] = torch.from_numpy(random.integers(0, 1025, 6))
        with autocast("cpu"):
            text = self.module["text"](captions)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        return self.error(predicted(self.module["unet"], noisy, timestep, text, ids), noise, timestep)

    def rows(self) -> list[np.ndarray]:
        base = new_base()  # in the memory format in which weights are loaded
        base.load_state_dict(self.module.state_dict())
        captions = [TRAIN[i * 97 % len(TRAIN)] for i in range(8)] + UNSEEN
        pictures = decode(self.vae, sample_latents(base["unet"], base["text"], captions, seed=0))
        return [pictures[:8], pictures[8:]]

    def tensors(self) -> dict[str, Tensor]:
        return base_tensors({**self.module, "vae": self.vae})


def new_base() -> nn.ModuleDict:
    """Return `unet` and `text`, freshly initialised."""
    return nn.ModuleDict({"unet": new_unet(), "text": TextStack()})


def base_tensors(modules: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of `unet`, `vae` and `text` by their names in the file."""
    modules["text"].blank_unknown()
    return {f"{name}.{key}": value for name in modules for key, value in modules[name].state_dict().items()}
