"""The frame contract carried out around each evaluation of a diffusers UNet, segment by segment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch

from ..schedulers.best_hq import percent_to_sigma
from ..temporal.clip.edit import anchored_rows, edit, hold, in_range
from ..temporal.clip.frames import FrameInfo, smooth_frames
from ..temporal.hosts.diffusers.sampling import Hooks

if TYPE_CHECKING:
    from ..temporal.clip.segments import Segment
    from ..temporal.hosts.diffusers.unet import TemporalUNet
    from .config import RenderConfig


@dataclass(frozen=True)
class Strength:
    """Strength of temporal layers, over a part of the noise schedule."""

    strength: float
    start_percent: float
    end_percent: float


class ClipHooks(Hooks):
    """Layers in force, frames held, smoothed and anchored, as the settings say. Call `begin` before each segment.

    table: noise levels of training, rising. temporal: the UNet with temporal layers. stepped: called after each step.
    """

    def __init__(
        self, config: RenderConfig, table: torch.Tensor, temporal: TemporalUNet | None, stepped: Callable[[], Any]
    ):
        self.contract, self.smoothing = config.contract(), config.smoothing
        self.layers = Strength(config.adapter_strength, config.adapter_start_percent, config.adapter_end_percent)
        self.temporal, self.stepped = temporal, stepped
        self.to_sigma = cache(partial(percent_to_sigma, table=table))

    def begin(self, segment: Segment, latents: torch.Tensor, noise: torch.Tensor) -> None:
        """Turn to a segment with its own `noise`. latents: the clip's `[F, 4, h, w]`, finished up to the segment."""
        self.noise, self.held = noise, latents[segment.finished].to(noise)
        self.first = latents[0].to(noise) if segment.start else None
        index = torch.tensor(segment.frames)
        frames = FrameInfo(index, len(latents), index < segment.finished.stop)
        self.anchored = anchored_rows(self.contract, frames)

    def before(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        if self.temporal is not None:
            self.temporal.strength = self.layers.strength if in_range(self.layers, sigma, self.to_sigma) else 0.0
        return hold(smooth_frames(x, self.smoothing), self.held, self.noise, sigma)

    def denoised(self, x0: torch.Tensor, sigma: float) -> torch.Tensor:
        in_force = partial(in_range, sigma=sigma, percent_to_sigma=self.to_sigma)
        return hold(edit(x0, self.contract, self.anchored, in_force, self.first), self.held, self.noise, 0.0)
