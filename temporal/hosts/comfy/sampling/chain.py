"""A chain of segments: a clip sampled piece by piece, each piece knowing the end of the one before."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ....clip.contract import Chain
from ....clip.segments import Segment
from ..conditioning.conds import take_frames
from ..errors import at_node
from ..resume.finished import WHO, FinishedSegments
from .segment import Clip, Sampling, sample_segment


def sample_chain(clip: Clip, chain: Chain, sampling: Sampling) -> torch.Tensor:
    """Return the clip `[F, C, h, w]`, sampled segment after segment; those that an earlier run finished are read."""
    guider = sampling.executor.class_obj
    segments = chain.segments(len(clip.noise))
    with at_node(WHO):
        store = FinishedSegments.open(chain, clip, sampling) if chain.resume_id else None
    conds = guider.conds
    samples = torch.zeros_like(clip.latent)
    clean = torch.zeros_like(clip.latent)  # for the next segment: without the noise that a sampler may leave
    steps = [chain.steps_of(segment, len(sampling.sigmas) - 1) for segment in segments]
    report = ChainReport(sampling.callback, clip.latent.shape, steps)
    try:
        for k, segment in enumerate(segments):
            found = store.load(k) if store else None
            if found is None:
                controls: dict = {}  # shared by both prompts, or core would run them one after the other
                guider.conds = {name: take_frames(cond, segment.frames, controls) for name, cond in conds.items()}
                levels = sampling.sigmas[-(steps[k] + 1) :].clone()  # core's uni_pc writes into them
                piece = replace(sampling, sigmas=levels, callback=report.of(k, segment))
                found = _sample(clip, chain, segment, piece, clean, report)
                if store:
                    store.keep(k, *found)
            else:
                report.show(k, segment, guider.model_patcher.model.process_latent_in(found[1]))
            new = segment.new
            samples[new], clean[new] = (part[segment.known :].to(samples) for part in found)
            logging.info("%s: segment %d of %d, frames %d to %d", WHO, k + 1, len(segments), new.start, new.stop - 1)
        report.finish()
    finally:
        guider.conds = conds
    return samples


def _sample(
    clip: Clip, chain: Chain, segment: Segment, sampling: Sampling, clean: torch.Tensor, report: ChainReport
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the samples of one segment, and the same without noise."""
    guider = sampling.executor.class_obj
    start = chain.start_of(segment, clean)
    if start is not None:
        latent = clip.latent.clone()
        latent[segment.rows] = start.to(latent)
        clip = replace(clip, latent=clip.pinned.put_latents(latent))
    finishes = float(sampling.sigmas[-1]) == 0  # read first, because core's uni_pc overwrites the last sigma
    samples = sample_segment(clip, segment, sampling, clean[segment.finished], clean[0] if segment.start else None)
    if finishes or report.denoised is None:
        return samples, samples
    return samples, guider.model_patcher.model.process_latent_out(report.denoised.to(samples))


class ChainReport:
    """Progress and previews over the whole chain.

    Core's callback counts the steps of the whole chain. It gets the frames of the segment, and at the last step the
    whole clip, because SamplerCustom's `denoised_output` is the last that the callback got.
    """

    def __init__(self, callback: Callable | None, shape: torch.Size, steps: list[int]):
        self._callback, self._shape, self._steps = callback, shape, steps
        self._whole: torch.Tensor | None = None
        self._shown: tuple[torch.Tensor, torch.Tensor] | None = None  # the callback's last
        self.denoised: torch.Tensor | None = None
        """The last prediction for the segment at work, in the model's scale."""

    def of(self, k: int, segment: Segment) -> Callable[..., Any]:
        """Return the callback of the k-th segment."""
        before, total = sum(self._steps[:k]), sum(self._steps)
        self.denoised = None

        def callback(step: int, x0: torch.Tensor, x: torch.Tensor, total_steps: int) -> None:
            self.denoised = x0
            if self._whole is None:
                self._whole = x0.new_zeros(self._shape)
            self._whole[segment.new] = x0[segment.known :]
            step = before + min(step, self._steps[k] - 1)  # dpm_adaptive chooses the number of its steps
            self._show(step, self._whole if step + 1 == total else x0, x)

        return callback

    def show(self, k: int, segment: Segment, denoised: torch.Tensor) -> None:
        """Report a segment that an earlier run finished, in the model's scale."""
        self.of(k, segment)(self._steps[k] - 1, denoised, denoised, 0)

    def finish(self) -> None:
        """Report the whole clip after samplers that take fewer steps than there are noise levels, as dpm_fast does."""
        if self._whole is not None and self._shown is not None and self._shown[0] is not self._whole:
            self._show(sum(self._steps) - 1, self._whole, self._shown[1])

    def _show(self, step: int, x0: torch.Tensor, x: torch.Tensor) -> None:
        self._shown = x0, x
        if self._callback is not None:
            self._callback(step, x0, x, sum(self._steps))
