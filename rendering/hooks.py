"""What the `render` verb does around each evaluation of the UNet: the settings that nodes record on a MODEL."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ..schedulers.best_hq import percent_to_sigma
from ..temporal.clip.frames import pull_to_reference, smooth_frames
from ..temporal.hosts.diffusers.sampling import Hooks
from .config import RenderConfig

if TYPE_CHECKING:
    from ..temporal.clip.segments import Segment
    from ..temporal.hosts.diffusers.adapter import TemporalUNet


class ClipHooks(Hooks):
    """Smoothing, the anchor, the adapter's range, and the first frames of a segment held where they are.

    table: noise levels of training, rising. latents: the clip's, `[F, 4, h, w]`, as far as they are finished.
    noise: the segment's.
    """

    def __init__(
        self,
        config: RenderConfig,
        table: torch.Tensor,
        temporal: TemporalUNet | None,
        segment: Segment,
        latents: torch.Tensor,
        noise: torch.Tensor,
        stepped: Callable[[], Any],
    ):
        self.config, self.table, self.temporal, self.noise = config, table, temporal, noise
        self.held = latents[segment.rows][: segment.known].to(noise)
        self.first = latents[0].to(noise) if segment.start else None
        places = [place - segment.start for place in config.anchored() if place > 0 and place in segment.frames]
        self.anchored = torch.tensor(places, dtype=torch.long)
        self.stepped = stepped

    def before(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        config = self.config
        if self.temporal is not None:
            inside = self._in_range(sigma, config.adapter_start_percent, config.adapter_end_percent)
            self.temporal.strength = config.adapter_strength if inside else 0.0
        return self._hold(smooth_frames(x, config.smoothing), sigma)

    def denoised(self, x0: torch.Tensor, sigma: float) -> torch.Tensor:
        config = self.config
        if self._in_range(sigma, config.frame_smoothing_start_percent, config.frame_smoothing_end_percent):
            x0 = smooth_frames(x0, config.frame_smoothing)
        if self._in_range(sigma, config.anchor_start_percent, config.anchor_end_percent):
            first = x0[0] if self.first is None else self.first
            x0 = pull_to_reference(x0, self.anchored, first, config.anchor_strength, config.anchor_band)
        return self._hold(x0, 0.0)

    def _hold(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        known = len(self.held)
        return torch.cat([self.held + sigma * self.noise[:known], x[known:]]) if known else x

    def _in_range(self, sigma: float, start: float, end: float) -> bool:
        return percent_to_sigma(end, self.table) <= sigma <= percent_to_sigma(start, self.table)
