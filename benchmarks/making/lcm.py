"""The training of an LCM LoRA: what the tiny SDXL paints in many guided steps, in a few without guidance.

Latent consistency distillation into a LoRA (arXiv:2310.04378, arXiv:2311.05556): at two neighbouring levels of 50, on
one path of the guided base, the LoRA is to say the same clean latents.
"""

import argparse
import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...demo.model import SCALE, TextStack, load_toon_diffusers
from .base import UNSEEN
from .latents import SCHEDULE, decode, guided, painted_latents, predicted, sample_latents, stratified
from .loop import Training

LEVELS = 50
"""Noise levels that an LCM knows, as in ComfyUI's `ModelSamplingDiscrete` set to lcm: timesteps 19, 39, ... 999."""
LAYERS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
)  # those of the published LCM LoRA
_HUBER = 1e-3  # pseudo-Huber: as an absolute difference beyond this


def with_lora(unet: Any, rank: int) -> tuple[Any, nn.ParameterList]:
    """A copy of the UNet with a new LoRA, without effect as yet, and the LoRA's parameters (shared with the copy)."""
    from peft import LoraConfig

    unet = copy.deepcopy(unet).requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LAYERS)))
    return unet, nn.ParameterList(value for value in unet.parameters() if value.requires_grad)


class Levels:
    """The LEVELS noise levels of SDXL's schedule; a level is an index 0 (least noise) to LEVELS - 1, or -1 for none."""

    def __init__(self) -> None:
        from diffusers import DDPMScheduler

        alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod
        self.timesteps = torch.arange(1, LEVELS + 1) * (len(alphas) // LEVELS) - 1
        kept = torch.cat([alphas[self.timesteps], torch.ones(1)])[:, None, None, None]
        self.signal, self.noise = kept.sqrt(), (1 - kept).sqrt()

    def mixed(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Return latents `[B, 4, h, w]` with noise, each at its level `[B]`."""
        return self.signal[level] * clean + self.noise[level] * noise

    def clean(self, noisy: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Return the clean latents that a prediction of the noise means."""
        return (noisy - self.noise[level] * noise) / self.signal[level]


class LcmTraining(Training):
    """A LoRA of the base that comes with the pack, taught by the base itself under `cfg`."""

    name, frames, steps, file = "lcm", 4000, 2000, "loras/toon/toon_lcm.safetensors"
    weight_decay, rank, cfg = 1e-3, 16, 3.0

    def __init__(self, options: argparse.Namespace) -> None:
        self.base, self.vae, self.text = load_toon_diffusers()
        self.captions, self.latents = painted_latents(options, self.vae, options.seed + 1)[2:]
        self.about = {"title": "toon world LCM LoRA", "rank": str(self.rank), "cfg": str(self.cfg)}
        self.about |= {"ss_base_model_version": "sdxl_base_v1-0"}
        torch.manual_seed(options.seed)
        self.unet, self.module = with_lora(self.base, self.rank)
        self.batch, self.levels = options.batch, Levels()
        self.empty = [rows.repeat(self.batch, *[1] * (rows.ndim - 1)) for rows in self.text([""])]

    def loss(self, random: np.random.Generator, step: int) -> Tensor:
        levels, chosen = self.levels, random.integers(0, len(self.latents), self.batch)
        clean = self.latents[chosen].float() * SCALE
        level = stratified(random, self.batch, LEVELS)
        noisy = levels.mixed(clean, torch.randn_like(clean), level)
        with torch.no_grad():
            text = self.text([self.captions[i] for i in chosen])
            both = [torch.cat(rows) for rows in zip(text, self.empty, strict=True)]
            noise = guided(self.base, noisy, levels.timesteps[level.repeat(2)], both, self.cfg)
            guess = levels.clean(noisy, noise, level)
            below = self._clean(levels.mixed(guess, noise, level - 1), (level - 1).clamp(min=0), text)
            target = torch.where((level > 0)[:, None, None, None], below, guess)
        return ((self._clean(noisy, level, text) - target).square() + _HUBER**2).sqrt().mean() - _HUBER

    def _clean(self, noisy: Tensor, level: Tensor, text: tuple[Tensor, Tensor]) -> Tensor:
        found = predicted(self.unet, noisy, self.levels.timesteps[level], text)
        return self.levels.clean(noisy, found, level)

    def rows(self) -> list[np.ndarray]:
        many = sample_latents(self.base, self.text, UNSEEN, seed=0)
        few = [sample_lcm(self.unet, self.text, UNSEEN, seed=0, cfg=cfg) for cfg in (1.0, 1.7)]
        return [decode(self.vae, latents) for latents in (many, *few)]

    def tensors(self) -> dict[str, Tensor]:
        return lora_tensors(self.unet)


@torch.no_grad()
def sample_lcm(unet: Any, text: TextStack, captions: list[str], seed: int, steps: int = 5, cfg: float = 1.0) -> Tensor:
    """Latents `[B,4,16,16]` as the autoencoder takes them, by multistep consistency sampling."""
    levels, random = Levels(), torch.Generator().manual_seed(seed)
    both, clean = text([*captions, *[""] * len(captions)]), torch.zeros(())
    for index in torch.linspace(LEVELS - 1, -1, steps + 1)[:-1].round().long():
        level = index.repeat(len(captions))
        x = levels.mixed(clean, torch.randn(len(captions), 4, 16, 16, generator=random), level)
        clean = levels.clean(x, guided(unet, x, levels.timesteps[index], both, cfg), level)
    return clean / SCALE


def lora_tensors(unet: Any) -> dict[str, Tensor]:
    """Return the UNet's LoRA by kohya's names, which ComfyUI knows."""
    from diffusers.utils import convert_state_dict_to_kohya
    from peft.utils import get_peft_model_state_dict

    return convert_state_dict_to_kohya({f"unet.{key}": value for key, value in get_peft_model_state_dict(unet).items()})
