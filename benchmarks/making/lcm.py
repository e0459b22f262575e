"""Trains an LCM LoRA for the tiny SDXL: what the base paints in many guided steps, in a few without guidance.

Latent consistency distillation into a LoRA (arXiv:2310.04378, arXiv:2311.05556): at two neighbouring levels of 50, on
one path of the guided base, the LoRA is to say the same clean latents.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...commands.precision import autocast
from ...demo.model import SCALE, TextStack, size_ids
from ...files import whole_or_nothing
from .optimise import Clock, Optimisation

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
    """The LEVELS noise levels of SDXL's schedule; a level is an index 0 (least noise) to LEVELS - 1."""

    def __init__(self) -> None:
        from diffusers import DDPMScheduler

        kept = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod
        self.timesteps = torch.arange(1, LEVELS + 1) * (len(kept) // LEVELS) - 1
        self.signal, self.noise = kept[self.timesteps].sqrt(), (1 - kept[self.timesteps]).sqrt()

    def mixed(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Latents `[B, 4, h, w]` with noise, each at its level `[B]`; those of level -1 stay clean."""
        signal, share = (torch.where(level >= 0, of[level], end) for of, end in ((self.signal, 1.0), (self.noise, 0.0)))
        return signal[:, None, None, None] * clean + share[:, None, None, None] * noise

    def clean(self, noisy: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """The clean latents that a prediction of the noise at a level 0 or more means."""
        return (noisy - self.noise[level][:, None, None, None] * noise) / self.signal[level][:, None, None, None]


def train_lcm(
    base: tuple[Any, TextStack],
    data: tuple[Tensor, list[str]],
    checkpoint: Path,
    *,
    seed: int,
    steps: int,
    minutes: float | None,
    say: Callable[[str], None],
    show: Callable[[Any, int], None],
    show_every: int = 250,
    batch: int = 16,
    rank: int = 16,
    cfg: float = 3.0,
    peak: float = 1e-3,
) -> tuple[Any, dict[str, str]]:
    """Train (or resume from `checkpoint`) a LoRA of `base` (UNet, text towers), which is taught by itself under `cfg`.

    data: latents `[N,4,h,w]` (unscaled) and captions. Every `show_every` steps a UNet with the averaged LoRA is given
    to `show`. Returns that UNet and metadata.
    """
    text, (latents, captions) = base[1], data
    torch.manual_seed(seed)
    unet, trained = with_lora(base[0], rank)
    clock = Clock(steps, minutes, warmup=30)
    run = Optimisation(trained, checkpoint, clock, peak=peak, weight_decay=1e-3, seed=seed)
    random, levels, running = run.random, Levels(), 0.0
    empty, pooled_empty = (told.repeat(batch, *[1] * (told.ndim - 1)) for told in text([""]))

    def predicted(network: Any, noisy: Tensor, level: Tensor, context: Tensor, pooled: Tensor) -> Tensor:
        added = {"text_embeds": pooled, "time_ids": size_ids(len(noisy))}
        with autocast("cpu"):
            return network(noisy, levels.timesteps[level], context, added_cond_kwargs=added).sample.float()

    while clock.progress < 1:
        chosen = random.integers(0, len(latents), batch)
        clean = latents[chosen].float() * SCALE
        # Stratified, as in the training of the base.
        level = torch.from_numpy(((np.arange(batch) + random.random(batch)) * LEVELS / batch).astype(np.int64))
        noisy = levels.mixed(clean, torch.randn_like(clean), level)
        with torch.no_grad():
            context, pooled = text([captions[i] for i in chosen])
            both = (noisy.repeat(2, 1, 1, 1), level.repeat(2), torch.cat([context, empty]))
            wanted, unguided = predicted(base[0], *both, torch.cat([pooled, pooled_empty])).chunk(2)
            noise = unguided + cfg * (wanted - unguided)
            guess = levels.clean(noisy, noise, level)
            next_noisy, below = levels.mixed(guess, noise, level - 1), (level - 1).clamp(min=0)
            target = levels.clean(next_noisy, predicted(unet, next_noisy, below, context, pooled), below)
            target = torch.where((level > 0)[:, None, None, None], target, guess)
        said = levels.clean(noisy, predicted(unet, noisy, level, context, pooled), level)
        loss = ((said - target).square() + _HUBER**2).sqrt().mean() - _HUBER
        run.step(loss)
        running += float(loss.detach())
        if clock.step % 50 == 0:
            say(f"lcm step {clock.step} ({clock.progress:.0%}, {clock.elapsed:.0f} s): loss {running / 50:.4f}")
            running = 0.0
        if clock.step % show_every == 0 or clock.progress >= 1:
            run.save()
            show(averaged(unet, run), clock.step)
    notes = {"steps": str(clock.step), "seed": str(seed), "batch": str(batch), "rank": str(rank), "cfg": str(cfg)}
    return averaged(unet, run), notes


def averaged(unet: Any, run: Optimisation) -> Any:
    """A copy of the UNet in training, with the averaged LoRA."""
    unet, trained = copy.deepcopy((unet, run.module))  # together, so that the copies share what they shared
    trained.load_state_dict(run.average.values)
    return unet.eval().requires_grad_(False)


@torch.no_grad()
def sample_lcm(unet: Any, text: TextStack, captions: list[str], seed: int, steps: int = 5, cfg: float = 1.0) -> Tensor:
    """Latents `[B,4,16,16]` as the autoencoder takes them, by multistep consistency sampling."""
    levels, random = Levels(), torch.Generator().manual_seed(seed)
    context, pooled = text([*captions, *[""] * len(captions)])
    added = {"text_embeds": pooled, "time_ids": size_ids(2 * len(captions))}
    clean, shape = torch.zeros(()), (len(captions), 4, 16, 16)
    for index in torch.linspace(LEVELS - 1, -1, steps + 1)[:-1].round().long():
        level = index.repeat(len(captions))
        x = levels.mixed(clean, torch.randn(shape, generator=random), level)
        with autocast("cpu"):
            both = unet(x.repeat(2, 1, 1, 1), levels.timesteps[index], context, added_cond_kwargs=added).sample
        wanted, unguided = both.float().chunk(2)
        clean = levels.clean(x, unguided + cfg * (wanted - unguided), level)
    return clean / SCALE


def save_lora(unet: Any, metadata: dict[str, str], path: Path) -> None:
    """Write the UNet's LoRA as fp16 safetensors by kohya's names, which ComfyUI knows; whole or not at all."""
    from diffusers.utils import convert_state_dict_to_kohya
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    stored = {f"unet.{key}": value for key, value in get_peft_model_state_dict(unet).items()}
    tensors = {key: value.half().contiguous() for key, value in convert_state_dict_to_kohya(stored).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_or_nothing(path) as part:
        save_file(tensors, part, metadata={"format": "pt", "ss_base_model_version": "sdxl_base_v1-0", **metadata})
