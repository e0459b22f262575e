"""The denoising loss of a batch, and its terms as small pure functions. Noise levels are sigma, SNR = 1 / sigma^2."""

import math
from typing import Any

import torch
from einops import rearrange

from ...commands.precision import autocast
from ...temporal.hosts.diffusers.base import Base
from ..config.train import TrainConfig
from .batch import Batch
from .controlnet import residuals


def loss_weight(sigma: torch.Tensor, prediction: str, gamma: float | None = 5.0, floor: float = 0.0) -> torch.Tensor:
    """Return the weight of a clip's mean squared error at its noise level, in the shape of `sigma`.

    In terms of the clean picture the weight is SNR kept within `floor`..`gamma`; the error of epsilon is SNR times that
    of the clean picture, the error of v is SNR + 1 times. So epsilon gets min(SNR, gamma) / SNR and v gets
    min(SNR, gamma) / (SNR + 1), the Min-SNR weights of Hang et al. 2023. A floor of 1 is the truncated SNR weight of
    Salimans & Ho 2022. Raises ValueError for another prediction type, or for epsilon at zero SNR.
    """
    snr = sigma.pow(-2)
    target = snr.clamp(min=floor, max=math.inf if gamma is None else gamma)
    if prediction == "epsilon":
        if (snr == 0).any():
            raise ValueError("epsilon says nothing about the picture at zero SNR; use a base that predicts v")
        return target / snr
    if prediction == "v_prediction":
        return target / (snr + 1)
    raise ValueError(f"the base predicts {prediction!r}; epsilon and v_prediction can be trained")


def timesteps(uniform: torch.Tensor, count: int, high_noise_bias: float = 0.0) -> torch.Tensor:
    """Return training timesteps 0..count-1 from uniform numbers in [0, 1); density proportional to t^bias."""
    return (uniform.double() ** (1 / (1 + high_noise_bias)) * count).long().clamp(max=count - 1)


def add_noise(latents: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return variance preserving noisy latents `[B, F, C, H, W]` at noise levels sigma `[B]`."""
    sigma = sigma.view(-1, *[1] * (latents.ndim - 1))
    return (latents + sigma * noise) / (1 + sigma**2).sqrt()


def hide_latents(noise: torch.Tensor, latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return noise `[B, F, C, H, W]` with which `add_noise` gives pure noise: it takes the latents out again.

    At the last noise level a base that was not trained at zero SNR still sees a trace of the clip; sampling begins
    without one (Lin et al., arXiv:2305.08891).
    """
    return noise - latents / sigma.view(-1, *[1] * (latents.ndim - 1))


def training_target(latents: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor, prediction: str) -> torch.Tensor:
    """Return the target of the prediction: noise, or v = alpha noise - alpha sigma latents (Salimans & Ho 2022)."""
    if prediction == "epsilon":
        return noise
    sigma = sigma.view(-1, *[1] * (latents.ndim - 1))
    return (noise - sigma * latents) / (1 + sigma**2).sqrt()


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
        noisy = add_noise(batch.latents, batch.noise, sigma)
        target = training_target(batch.latents, batch.noise, sigma, prediction).to(self.device)
        error = (self.predict(noisy, batch) - target).square().flatten(1).mean(1)
        weight = loss_weight(sigma, prediction, config.min_snr_gamma, config.snr_floor)
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
