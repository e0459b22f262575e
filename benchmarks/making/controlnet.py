"""The training of a ControlNet for the tiny SDXL on painted frames and the hints that the painter draws of them."""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...demo.controlnet import CONFIG, first_name
from ...demo.model import TextStack, load_toon_diffusers, size_ids
from ...demo.painter import TRAIN
from .latents import Denoising, decode, painted_latents, predicted, sample_latents

CONTRAST = 0.3  # of encoded hints at the start; noise behind the UNet's first layer has a deviation of 0.6


class ControlNetTraining(Denoising):
    """A ControlNet under the frozen base that comes with the pack."""

    name, frames, steps, file = "controlnet", 6000, 2000, "controlnet/toon/toon_{hint}.safetensors"
    empty = 0.3  # without a caption only the hint can tell what is to be seen

    def __init__(self, options: argparse.Namespace) -> None:
        self.unet, self.vae, self.text = load_toon_diffusers()
        self.pictures, self.hints, captions, latents = painted_latents(options, self.vae, options.seed + 2)
        super().__init__(latents, captions, options.batch)
        self.about = {"title": f"toon world ControlNet, {options.hint}", "hint": options.hint}
        torch.manual_seed(options.seed)
        self.module, self.without = new_controlnet(self.unet, self.text, as_hints(self.hints[:16])), 0.0

    def loss(self, random: np.random.Generator, step: int) -> Tensor:
        chosen, captions, timestep, noise, noisy = self.draw(random)
        steered = controlled(self.unet, self.module, as_hints(self.hints[chosen]))
        with torch.no_grad():
            text = self.text(captions)
            if step % 10 == 0:  # the same frames without a hint, so that what it is worth can be seen early
                self.without += float(self.error(predicted(self.unet, noisy, timestep, text), noise, timestep))
        return self.error(predicted(steered, noisy, timestep, text), noise, timestep)

    def figures(self, loss: float) -> str:
        without, self.without = self.without / 5, 0.0
        return f"loss {loss:.4f}, without {without:.4f}"

    def rows(self) -> list[np.ndarray]:
        every = max(1, len(self.hints) // 8)
        shown = slice(0, 8 * every, every)
        steered = controlled(self.unet, self.module, as_hints(self.hints[shown]))
        latents = sample_latents(steered, self.text, self.captions[shown], seed=0, steps=12)
        return [self.pictures[shown], self.hints[shown], decode(self.vae, latents)]

    def tensors(self) -> dict[str, Tensor]:
        return controlnet_tensors(self.module)


def controlled(unet: Any, network: Any, hints: Tensor) -> Callable[..., Any]:
    """Return the UNet under a ControlNet and hints `[B, 3, H, W]` in 0..1, called like the UNet.

    Rows beyond the hints' repeat them, as the two passes of classifier-free guidance do.
    """

    def call(noisy: Tensor, timestep: Tensor, context: Tensor, added_cond_kwargs: dict[str, Tensor]) -> Any:
        repeated = hints.repeat(len(noisy) // len(hints), 1, 1, 1)
        down, middle = network(noisy, timestep, context, controlnet_cond=repeated, return_dict=False)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return unet(noisy, timestep, context, added_cond_kwargs=added_cond_kwargs, **residuals)

    return call


def as_hints(pictures: np.ndarray) -> Tensor:
    """uint8 `[B,H,W,3]` -> float `[B,3,H,W]` in 0..1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(255)


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


def controlnet_tensors(network: Any) -> dict[str, Tensor]:
    """Return the weights by their names in the layout of the first ControlNets.

    ComfyUI's loader tells the shape of a network in that layout from its weights; in diffusers' it knows published
    shapes only.
    """
    return {first_name(key): value for key, value in network.state_dict().items()}
