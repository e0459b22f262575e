"""Samplers and sigmas of the presets in ComfyUI."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from ....schedulers.comfy import best_hq_sigmas, levels, sample_best_hq
from ...clip.frames import smooth_frames


def prepared(model: Any, preset: str, steps: int, denoise: float = 1.0) -> tuple[Any, Any, torch.Tensor]:
    """Return MODEL, SAMPLER and SIGMAS `[steps + 1]` of one of `schedulers.presets.PRESETS`.

    denoise: as in core's BasicScheduler. Raises ValueError for too many levels and for a model that LCM does not fit.
    """
    from comfy.samplers import sampler_object

    from .lcm import with_lcm_sampling

    if preset == "lcm":
        model = with_lcm_sampling(model)
        return model, sampler_object("lcm"), _uniform_sigmas(model, steps, denoise)
    sigmas = best_hq_sigmas(model.get_model_object("model_sampling"), steps, denoise)
    if preset == "best_hq":
        return model, best_hq_sampler(), sigmas
    # 2M asks the model once a step, at the levels of the schedule, as BestHQ does; dpmpp_sde asks twice.
    return model, sampler_object("dpmpp_2m_sde"), sigmas


def best_hq_sampler(smoothing: float = 0.0) -> Any:
    """Return the SAMPLER of BestHQ. smoothing: share by which each noisy frame moves to the one before, 0 to 1."""
    from comfy.samplers import KSAMPLER

    before = {"before": partial(smooth_frames, amount=smoothing)} if smoothing else {}
    return KSAMPLER(sample_best_hq, before)


def _uniform_sigmas(model: Any, steps: int, denoise: float) -> torch.Tensor:
    """Return the sigmas of core's BasicScheduler set to sgm_uniform, which LCM LoRAs need."""
    from comfy.samplers import calculate_sigmas

    if denoise <= 0:
        return torch.empty(0)
    model_sampling = model.get_model_object("model_sampling")
    return calculate_sigmas(model_sampling, "sgm_uniform", levels(steps, denoise)).cpu()[-(steps + 1) :]
