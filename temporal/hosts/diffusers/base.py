"""The frozen SDXL that an adapter is trained for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange

from ....commands.config import Precision
from ....commands.precision import base_dtype, computing_in, vae_arithmetic
from ...layers.base import TemporalLayers
from .single_file import CONFIGS, load_single_file
from .text import Text, TextEncoders

LINEAR = "scaled_linear"
"""SDXL's noise schedule, linear in the square root of beta."""


@dataclass
class Base:
    """A diffusers UNet and VAE, a text encoder, and the noise schedule they were trained with."""

    unet: Any
    vae: Any
    encode_text: Callable[[list[str]], Text]  # captions -> tokens [N, T, C] and pooled [N, P]
    sigmas: torch.Tensor  # [training timesteps], rising
    prediction: str
    scheduler_config: dict[str, Any]
    text_widths: tuple[int, ...] = ()  # channels of a token that come from each text encoder
    origin: str = ""  # what it was read from, and what was found out about it
    encode_prompt: Callable[[str], Text] | None = None  # as encode_text for one prompt of any length: [1, 77 k, C]

    @property
    def factor(self) -> int:
        """Pixels to a latent, a side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def multiple(self) -> int:
        """What the sides of a picture are multiples of, in pixels, so that the UNet can halve them."""
        return self.factor * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def betas(self) -> tuple[float, float]:
        """First and last beta of the noise schedule."""
        return self.scheduler_config.get("beta_start", 0.00085), self.scheduler_config.get("beta_end", 0.012)

    def freeze(self) -> Base:
        for module in (self.unet, self.vae):
            module.requires_grad_(False).eval()
        return self

    @torch.no_grad()
    def posterior(
        self, frames: torch.Tensor, batch: int = 16, precision: Precision = "fp32"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation `[F, 4, H/8, W/8]`, fp32 and unscaled, of frames `[F, H, W, 3]` uint8."""
        found = []
        for some in frames.split(batch):
            pictures = rearrange(some.to(self.vae.device), "f h w c -> f c h w").to(self.vae.dtype) / 127.5 - 1
            with computing_in(self.vae.device, vae_arithmetic(self.vae.device, precision)):
                latents = self.vae.encode(pictures).latent_dist
            found.append((latents.mean.float().cpu(), latents.std.float().cpu()))
        mean, deviation = (torch.cat(parts) for parts in zip(*found, strict=True))
        return mean, deviation

    def encode(self, frames: torch.Tensor, batch: int = 16, precision: Precision = "fp32") -> torch.Tensor:
        """Return posterior means `[F, 4, H/8, W/8]`, scaled for the UNet, of frames `[F, H, W, 3]` uint8."""
        return self.posterior(frames, batch, precision)[0] * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, batch: int = 16) -> torch.Tensor:
        """Pictures `[F, H, W, 3]` float 0..1 of latents `[F, 4, H/8, W/8]`."""
        latents = (latents / self.vae.config.scaling_factor).to(device=self.vae.device, dtype=self.vae.dtype)
        pictures = torch.cat([self.vae.decode(some).sample.float().cpu() for some in latents.split(batch)])
        return (pictures / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)


def time_ids(height: int, width: int, rows: int) -> torch.Tensor:
    """SDXL's size conditioning `[rows, 6]`: original, crop offset and target, each height before width; no crop."""
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32).repeat(rows, 1)


def load_base(name: str, dtype: torch.dtype | None = None, configs: Path = CONFIGS) -> Base:
    """`toon`, a single-file SDXL checkpoint (.safetensors), or a diffusers folder; never looks on the network.

    dtype: the UNet's, fp32 if None. The VAE and the text encoders have fp32. configs: see `load_single_file`.

    Raises ValueError if it is none of them, naming what it is instead.
    """
    if name == "toon":
        base = _toon()
    elif (Path(name) / "unet" / "config.json").exists():
        base = _folder(name)
    elif Path(name).is_file():
        pipe, sampling = load_single_file(Path(name), configs, dtype)
        return _from_pipeline(pipe, f"{Path(name).name}: SDXL checkpoint, predicts {sampling}")
    else:
        what = "is no diffusers folder, it has no unet/config.json" if Path(name).exists() else "does not exist"
        raise ValueError(f"checkpoint {name!r} {what}; give a .safetensors file, a diffusers folder, or toon")
    if dtype is not None:
        torch.nn.Module.to(base.unet, dtype)  # past diffusers' own, which warns of nothing
    return base


def sigmas_of(config: dict[str, Any]) -> torch.Tensor:
    """Noise levels `[training timesteps]`, rising, of a diffusers scheduler's config; SDXL's where it says nothing."""
    from ....schedulers.best_hq import training_sigmas

    return training_sigmas(
        config.get("beta_start", 0.00085),
        config.get("beta_end", 0.012),
        config.get("beta_schedule", LINEAR),
        config.get("num_train_timesteps", 1000),
        config.get("rescale_betas_zero_snr", False),
    )


def on_schedule_of(base: Base, layers: TemporalLayers | None) -> Base:
    """Return the base with the noise levels that the layers were trained on; itself where these are its own."""
    betas = layers.beta_schedule if layers is not None else None
    if betas is None or betas == base.betas:
        return base
    config = {**base.scheduler_config, "beta_start": betas[0], "beta_end": betas[1], "beta_schedule": LINEAR}
    return replace(base, sigmas=sigmas_of(config), scheduler_config=config)


def _folder(name: str) -> Base:
    import diffusers

    pipe: Any = diffusers.StableDiffusionXLPipeline.from_pretrained(name, local_files_only=True)
    return _from_pipeline(pipe, f"{Path(name).name}: diffusers folder")


def _from_pipeline(pipe: Any, origin: str) -> Base:
    fillings = (pipe.tokenizer.pad_token_id, pipe.tokenizer_2.pad_token_id)
    text = TextEncoders(pipe.tokenizer, (pipe.text_encoder, pipe.text_encoder_2), fillings)
    config = dict(pipe.scheduler.config)
    prediction = config.get("prediction_type", "epsilon")
    return Base(
        pipe.unet, pipe.vae, text, sigmas_of(config), prediction, config, text.widths, origin, text.whole
    ).freeze()


def _toon() -> Base:
    from ....demo.model import LENGTH, TOWERS, load_toon_diffusers

    unet, vae, text = load_toon_diffusers()

    def encode_prompt(prompt: str) -> Text:
        if (words := len(prompt.replace(",", " , ").split())) > LENGTH - 2:
            raise ValueError(
                f"a prompt has {words} words and commas, and the toon model reads {LENGTH - 2}; shorten it"
            )
        return text([prompt])

    widths = tuple(tower["hidden_size"] for tower in TOWERS.values())
    origin = "toon: the toon world's own model"
    return Base(unet, vae, text, sigmas_of({}), "epsilon", {}, widths, origin, encode_prompt).freeze()


def prepared(unet: Any, device: torch.device, precision: Precision, checkpointing: bool) -> Any:
    """The base's UNet on its device, in the precision of the run, with gradient checkpointing if asked for."""
    dtype = base_dtype(device, precision)
    unet.to(device, dtype, memory_format=torch.channels_last)
    if device.type == "cpu" and dtype:
        from diffusers.models.attention_processor import AttnProcessor

        unet.set_attn_processor(AttnProcessor())  # fused attention's backward pass is slow there
    if checkpointing:
        unet.enable_gradient_checkpointing()
        unet.train()  # diffusers checkpoints only then; an SDXL UNet has no dropout
    return unet
