"""Context windows: the model sees a few frames at a time, and every step of the sampler sees the whole clip.

A handler of our own in core's opening (`context_handler`). Core's moves ControlNet hints of the first frames under
every window, and fails on batches of frames or with samplers that evaluate the model between two noise levels.
"""

import torch
from comfy.model_management import throw_exception_if_processing_interrupted

from ....clip.contract import Windows
from ....clip.frames import FrameInfo
from ....clip.segments import plan_windows, window_weights
from ..conditioning.conds import take_frames, tell_advanced
from ..published import FRAMES_KEY


class WindowHandler:
    """Goes over the frames at every evaluation of the model, as core's handlers do. One for each run of a sampler."""

    def __init__(self, windows: Windows):
        self._windows = windows
        self._controls: dict[tuple[int, ...], dict] = {}

    def should_use_context(self, model, conds, x_in: torch.Tensor, timestep, model_options: dict) -> bool:
        return len(x_in) > self._windows.length

    def execute(
        self, calc_cond_batch, model, conds: list, x_in: torch.Tensor, timestep: torch.Tensor, model_options: dict
    ) -> list[torch.Tensor]:
        """Return the denoised predictions `[F, C, h, w]`, one for each of `conds`: weighted means over the windows."""
        settings, frames = self._windows, len(x_in)
        info: FrameInfo = model_options["transformer_options"][FRAMES_KEY]
        weights = window_weights(settings.length, settings.overlap, settings.fuse).to(x_in)
        sums = [torch.zeros_like(x_in) for _ in conds]
        total = x_in.new_zeros(frames)
        kept, self._controls = self._controls, {}
        for rows in plan_windows(frames, settings.length, settings.overlap, settings.schedule, info.step):
            throw_exception_if_processing_interrupted()
            controls = self._controls[tuple(rows)] = kept.get(tuple(rows), {})
            some = [take_frames(cond, rows, controls) for cond in conds]
            transformer_options = {**model_options["transformer_options"], FRAMES_KEY: info.take(rows)}
            tell_advanced(transformer_options, rows, frames)
            options = {**model_options, "transformer_options": transformer_options}
            levels = timestep[rows] if len(timestep) == frames else timestep
            outputs = calc_cond_batch(model, some, x_in[rows], levels, options)
            for whole, part in zip(sums, outputs, strict=True):
                whole.index_add_(0, torch.tensor(rows, device=x_in.device), part * weights[:, None, None, None])
            total[rows] += weights
        return [whole / total[:, None, None, None] for whole in sums]
