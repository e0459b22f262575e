"""The frame contract: settings that our MODEL-to-MODEL nodes record on a MODEL and that sampling carries out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from .frames import Places
from .segments import Segment, plan_segments

CONTRACT_KEY = "sav_frame_contract"
"""Where a MODEL's `model_options` keep its FrameContract, and the name of our wrappers."""


@dataclass(frozen=True, order=True)
class NoiseSettings:
    """Correlated noise, see `temporal.clip.noise.mix_frames`."""

    mode: str
    correlation: float
    window: int = 16
    overlap: int = 4


@dataclass(frozen=True, order=True)
class Smoothing:
    """x_t <- (1 - amount) x_t + amount x_{t-1} on the denoised prediction, within a range of the schedule."""

    amount: float
    start_percent: float = 0.0
    end_percent: float = 1.0


@dataclass(frozen=True, order=True)
class Pull:
    """The denoised prediction of the frames at `places` moves toward the first frame's."""

    places: Places
    strength: float
    band: str
    start_percent: float = 0.0
    end_percent: float = 1.0


@dataclass(frozen=True, eq=False)
class Pin:
    """Given latents `[K, C, h, w]` held at `places`; strength 1 holds them exactly."""

    latent: torch.Tensor
    places: Places
    strength: float = 1.0
    start_percent: float = 0.0
    end_percent: float = 1.0


@dataclass(frozen=True)
class Windows:
    """Context windows, see `temporal.clip.segments.plan_windows` and `window_weights`."""

    length: int
    overlap: int
    schedule: str
    fuse: str


@dataclass(frozen=True)
class Chain:
    """Segments sampled one after another.

    carry: what a segment takes from the one before. "overlap": its last `overlap` frames, held. "last_frame": its last
    frame, from which every frame of the segment starts, noised, in the last share `carry_denoise` of the steps.
    resume_id: finished segments are kept on disk under this name; "" for none.
    """

    segment_frames: int
    overlap: int
    carry: str
    carry_denoise: float = 1.0
    resume_id: str = ""

    @property
    def known(self) -> int:
        """Frames that a segment knows of the one before."""
        return self.overlap if self.carry == "overlap" else 0

    def segments(self, frames: int) -> list[Segment]:
        """Return the segments of a clip of `frames` frames."""
        return plan_segments(frames, self.segment_frames, self.known)

    def start_of(self, segment: Segment, clean: torch.Tensor) -> torch.Tensor | None:
        """Return the finished frame `[C, h, w]` that every frame of a segment starts from; None for pure noise.

        clean: latents of the clip `[F, C, h, w]`, finished up to the segment.
        """
        return clean[segment.start - 1] if segment.start and self.carry == "last_frame" else None

    def steps_of(self, segment: Segment, steps: int) -> int:
        """Return how many of the sampler's steps, the last ones, a segment takes."""
        if segment.start and self.carry == "last_frame":
            return max(1, round(steps * self.carry_denoise))
        return steps


@dataclass(frozen=True, eq=False)
class FrameContract:
    """All settings recorded on one MODEL. Immutable, so the MODEL's clones share it.

    Settings of one kind are sorted, so that the order of the nodes leaves no trace.
    """

    noise: NoiseSettings | None = None
    smoothings: tuple[Smoothing, ...] = ()
    pulls: tuple[Pull, ...] = ()
    pins: tuple[Pin, ...] = ()
    chain: Chain | None = None
    windows: Windows | None = None

    def __deepcopy__(self, memo: dict) -> FrameContract:
        return self

    def with_noise(self, noise: NoiseSettings) -> FrameContract:
        """Raises ValueError if other noise is recorded already, because the order of the nodes would then decide."""
        if self.noise not in (None, noise):
            raise ValueError(
                f"this MODEL already has {self.noise.mode} noise with correlation "
                f"{self.noise.correlation:g}; remove one of the two nodes"
            )
        return replace(self, noise=noise)

    def with_chain(self, chain: Chain) -> FrameContract:
        """Raises ValueError if another chain is recorded."""
        if self.chain not in (None, chain):
            raise ValueError("this MODEL already has a chain of segments; remove one of the two nodes")
        return replace(self, chain=chain)

    def with_windows(self, windows: Windows) -> FrameContract:
        """Raises ValueError if other windows are recorded."""
        if self.windows not in (None, windows):
            raise ValueError("this MODEL already has context windows; remove one of the two nodes")
        return replace(self, windows=windows)

    def with_smoothing(self, smoothing: Smoothing) -> FrameContract:
        return replace(self, smoothings=tuple(sorted((*self.smoothings, smoothing))))

    def with_pull(self, pull: Pull) -> FrameContract:
        return replace(self, pulls=tuple(sorted((*self.pulls, pull))))

    def with_pin(self, pin: Pin) -> FrameContract:
        return replace(self, pins=(*self.pins, pin))


def contract_of(model_options: Mapping[str, Any]) -> FrameContract:
    """Return the contract in a MODEL's (or guider's) `model_options`, or an empty one."""
    return model_options.get(CONTRACT_KEY) or FrameContract()
