"""One run of a sampler over a segment: what is published at each step, and what is done to the denoised frames."""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import torch

from ....clip.contract import FrameContract, Pull
from ....clip.frames import FrameInfo, pull_to_reference, smooth_frames
from ..published import FRAMES_KEY
from .pinning import PinnedFrames


class Ranged(Protocol):
    """A setting that is in force over a part of the schedule."""

    @property
    def start_percent(self) -> float: ...

    @property
    def end_percent(self) -> float: ...


class Schedule:
    """Noise levels of a run: which step a level belongs to, and which settings are in force there."""

    def __init__(self, model_sampling, sigmas: torch.Tensor):
        self._percent_to_sigma = cache(model_sampling.percent_to_sigma)
        self._sigmas = sigmas.tolist()

    def step(self, sigma: float) -> int:
        """Index of the step that evaluates the model at `sigma`; levels inside a step belong to its beginning."""
        started = sum(level >= sigma * (1 - 1e-5) for level in self._sigmas[:-1])
        return max(started - 1, 0)

    def in_range(self, setting: Ranged, sigma: float) -> bool:
        """True from start_percent to end_percent of the model's own schedule, as core's conditioning ranges are."""
        return self._percent_to_sigma(setting.end_percent) <= sigma <= self._percent_to_sigma(setting.start_percent)


class ClipRun:
    """One run of a sampler over a segment: publishes the frames and edits the denoised prediction at every step."""

    def __init__(
        self,
        contract: FrameContract,
        schedule: Schedule,
        frames: FrameInfo,
        pinned: PinnedFrames,
        first_frame: torch.Tensor | None = None,
    ):
        """frames: with those known that are held at every step; first_frame: see `sampling.sample_segment`."""
        self.pinned = pinned
        self._contract, self._schedule, self._frames = contract, schedule, frames
        self._pulls = [(pull, _pull_rows(pull, frames)) for pull in contract.pulls]
        self._first_frame = first_frame

    def info_at(self, sigma: float) -> FrameInfo:
        """What is published while the model runs at this noise level."""
        known = self._frames.known | self.pinned.held(sigma, len(self._frames.known))
        return FrameInfo(self._frames.index, self._frames.length, known, self._schedule.step(sigma))

    def predict(self, executor, x: torch.Tensor, timestep: torch.Tensor, model_options=None, seed=None, **kwargs: Any):
        """PREDICT_NOISE wrapper: the denoised frames `[F, C, h, w]`, after every other extension's CFG functions."""
        sigma = float(timestep.max())
        options = dict(model_options or {})
        options["transformer_options"] = {**options.get("transformer_options", {}), FRAMES_KEY: self.info_at(sigma)}
        denoised = executor(x, timestep, options, seed, **kwargs)
        return self._edit(denoised, sigma, executor.class_obj)

    def _edit(self, denoised: torch.Tensor, sigma: float, guider) -> torch.Tensor:
        for smoothing in self._contract.smoothings:
            if self._schedule.in_range(smoothing, sigma):
                denoised = smooth_frames(denoised, smoothing.amount)
        for pull, rows in self._pulls:
            if self._schedule.in_range(pull, sigma):
                first = denoised[0]
                if self._first_frame is not None:  # finished, and so in the scale of latents outside of the model
                    first = guider.inner_model.process_latent_in(self._first_frame.to(denoised))
                denoised = pull_to_reference(denoised, rows, first, pull.strength, pull.band)
        return denoised


def _pull_rows(pull: Pull, frames: FrameInfo) -> torch.Tensor:
    """Rows of the batch that a pull moves: its places but the first frame, which they are moved toward."""
    places = pull.places.rows(frames.length, "SAV_KeyframeAnchor")
    return torch.isin(frames.index, torch.tensor([place for place in places if place > 0])).nonzero()[:, 0]
