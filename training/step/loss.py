"""The loss of a batch: the weighted error of what a UNet with temporal layers predicts."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange

from ...commands.precision import autocast
from ...temporal.hosts.diffusers.base import Base
from ..config.train import TrainConfig
from . import objective
from .batch import Batch
from .controlnet import residuals


class Loss:
    """The denoising loss by the config's objective and precision.

    unet: the base's UNet with its temporal layers. controlnet: where batches with hints occur.
    """

    def __init__(self, config: TrainConfig, base: Base, unet: Any, device: torch.device, controlnet: Any = None):
        self.config, self.base, self.unet, self.device, self.controlnet = config, base, unet, device, controlnet
        self.sigmas = base.sigmas.double()

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the weighted loss of each clip `[B]`."""
        config, prediction = self.config, self.base.prediction
        sigma = self.sigmas[batch.timestep].float()
        noisy = objective.add_noise(batch.latents, batch.noise, sigma)
        target = objective.training_target(batch.latents, batch.noise, sigma, prediction).to(self.device)
        error = (self.predict(noisy, batch) - target).square().flatten(1).mean(1)
        weight = objective.loss_weight(sigma, prediction, config.min_snr_gamma, config.snr_floor)
        return error * weight.to(self.device)

    def predict(self, noisy: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the UNet's output `[B, F, 4, h, w]` for noisy latents of that shape."""
        frames = noisy.shape[1]
        tokens, pooled, sizes, timestep = (
            value.to(self.device).repeat_interleave(frames, 0)  # [b, ...] -> [(b f), ...]
            for value in (*batch.text, batch.time_ids, batch.timestep)
        )
        added = {"text_embeds": pooled, "time_ids": sizes}
        noisy = rearrange(noisy, "b f c h w -> (b f) c h w").to(self.device, memory_format=torch.channels_last)
        positions = None if batch.positions is None else batch.positions.to(self.device)
        with autocast(self.device, self.config.precision):
            steering = {}
            if batch.hinted:
                steering = residuals(self.controlnet, noisy, timestep, tokens, added, batch.hinted)
            out = self.unet(
                noisy,
                timestep,
                encoder_hidden_states=tokens,
                added_cond_kwargs=added,
                num_frames=frames,
                positions=positions,
                **steering,
            )
        return rearrange(out.sample.float(), "(b f) c h w -> b f c h w", f=frames)
