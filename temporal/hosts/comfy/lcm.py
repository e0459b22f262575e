"""LCM sampling on a MODEL: the prediction of a latent consistency model at one of its 50 timesteps.

Luo et al. 2023, "Latent Consistency Models"; the same as core's ModelSamplingDiscrete set to `lcm`.
"""

from __future__ import annotations

import comfy.model_sampling
from comfy_extras.nodes_model_advanced import LCM, ModelSamplingDiscreteDistilled


class LCMSampling(ModelSamplingDiscreteDistilled, LCM):
    """Core's schedule and core's prediction. Both are plain classes, not nodes, and match core's LCM sampler."""


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
