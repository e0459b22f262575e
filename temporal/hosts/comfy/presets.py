"""Samplers and sigmas of the presets in ComfyUI, and LCM sampling on a MODEL."""

from functools import partial
from typing import Any

import comfy.model_sampling
import torch
from comfy.samplers import KSAMPLER, calculate_sigmas, sampler_object
from comfy_extras.nodes_model_advanced import LCM, ModelSamplingDiscreteDistilled

from ....schedulers.comfy import best_hq_sigmas, levels, sample_best_hq
from ...clip.frames import smooth_frames
from .own_sigmas import OwnSigmas


def prepared(model: Any, preset: str, steps: int, denoise: float = 1.0) -> tuple[Any, Any, torch.Tensor]:
    """Return MODEL, SAMPLER and SIGMAS `[steps + 1]` of one of `schedulers.presets.PRESETS`.

    denoise: as in core's BasicScheduler. Raises ValueError for too many levels and for a model that LCM does not fit.
    """
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
    before = {"before": partial(smooth_frames, amount=smoothing)} if smoothing else {}
    return KSAMPLER(sample_best_hq, before)


def _uniform_sigmas(model: Any, steps: int, denoise: float) -> torch.Tensor:
    """Return the sigmas of core's BasicScheduler set to sgm_uniform, which LCM LoRAs need."""
    if denoise <= 0:
        return torch.empty(0)
    model_sampling = model.get_model_object("model_sampling")
    return calculate_sigmas(model_sampling, "sgm_uniform", levels(steps, denoise)).cpu()[-(steps + 1) :]


class LCMSampling(OwnSigmas, ModelSamplingDiscreteDistilled, LCM):
    """The prediction of a latent consistency model at one of its 50 timesteps: core's ModelSamplingDiscrete at `lcm`.

    Core's schedule and core's prediction are plain classes, not nodes. Luo et al. 2023, "Latent Consistency Models".
    """


def is_lcm(model) -> bool:
    """Return whether a MODEL is set to LCM sampling."""
    return isinstance(model.get_model_object("model_sampling"), LCM)


def with_lcm_sampling(model):
    """Return a clone of the MODEL set to LCM sampling on its own noise levels; one that is set already stays.

    Raises ValueError for a model that does not predict epsilon on 1000 timesteps: no LCM LoRA fits it.
    """
    if is_lcm(model):
        return model
    own = model.get_model_object("model_sampling")
    made = LCMSampling(model.model.model_config)
    predicts_epsilon = getattr(type(own), "calculate_denoised", None) is comfy.model_sampling.EPS.calculate_denoised
    discrete = isinstance(own, comfy.model_sampling.ModelSamplingDiscrete)
    if not (predicts_epsilon and discrete and len(own.sigmas) == made.num_timesteps):
        kinds = ", ".join(kind.__name__ for kind in type(own).__mro__[:3])
        raise ValueError(f"the preset lcm is for models that predict epsilon, and this one is {kinds}; choose best_hq")
    made.set_sigmas(own.sigmas[made.skip_steps - 1 :: made.skip_steps])
    model = model.clone()
    model.add_object_patch("model_sampling", made)
    return model
