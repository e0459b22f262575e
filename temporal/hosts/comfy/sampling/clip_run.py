"""One run of a sampler over a segment: publishes the frames and edits the denoised prediction at every step."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

from ....clip.contract import FrameContract
from ....clip.edit import Ranged, anchored_rows, edit, in_range
from ....clip.frames import FrameInfo
from ..errors import at_node
from ..published import FRAMES_KEY
from .pinning import PinnedFrames


class Schedule:
    """Noise levels of a run: which step a level belongs to, and which settings are in force there."""

    def __init__(self, percent_to_sigma: Callable[[float], float], sigmas: torch.Tensor):
        self._percent_to_sigma = cache(percent_to_sigma)
        self._sigmas = sigmas.tolist()

    def step(self, sigma: float) -> int:
        """Return the index of the step that evaluates the model at `sigma`, also of a level inside the step."""
        started = sum(level >= sigma * (1 - 1e-5) for level in self._sigmas[:-1])
        return max(started - 1, 0)

    def in_range(self, setting: Ranged, sigma: float) -> bool:
        """Return whether a setting is in force at a noise level, see `temporal.clip.edit.in_range`."""
        return in_range(setting, sigma, self._percent_to_sigma)


class ClipRun:
    """One run of a sampler over a segment."""

    def __init__(
        self,
        contract: FrameContract,
        schedule: Schedule,
        frames: FrameInfo,
        pinned: PinnedFrames,
        first_frame: torch.Tensor | None = None,
    ):
        """frames: those known at every step are marked. first_frame: see `sampling.segment.sample_segment`."""
        self.pinned = pinned
        self._contract, self._schedule, self._frames = contract, schedule, frames
        self._first_frame = first_frame
        with at_node("Keyframe Anchor"):
            self._anchored = anchored_rows(contract, frames)

    def info_at(self, sigma: float) -> FrameInfo:
        """Return what is published while the model runs at this noise level."""
        known = self._frames.known | self.pinned.held(sigma, len(self._frames.known))
        return FrameInfo(self._frames.index, self._frames.length, known, self._schedule.step(sigma))

    def predict(self, executor, x: torch.Tensor, timestep: torch.Tensor, model_options=None, seed=None, **kwargs: Any):
        """PREDICT_NOISE wrapper: the denoised frames `[F, C, h, w]`, after every other extension's CFG functions."""
        sigma = float(timestep.max())
        options = dict(model_options or {})
        options["transformer_options"] = {**options.get("transformer_options", {}), FRAMES_KEY: self.info_at(sigma)}
        denoised = executor(x, timestep, options, seed, **kwargs)
        first = self._first_frame
        if first is not None:  # a finished latent, in the scale that latents have outside the model
            first = executor.class_obj.inner_model.process_latent_in(first.to(denoised))
        in_force = partial(self._schedule.in_range, sigma=sigma)
        return edit(denoised, self._contract, self._anchored, in_force, first)
