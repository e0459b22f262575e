"""A motion module on a ComfyUI MODEL: its transformers stand in the UNet for as long as a call of the UNet lasts.

Core's PatcherInjection would put them there when the MODEL is loaded and take them out when it is unloaded. In between,
all clones of the MODEL hold one UNet with the layers in it, a step that breaks off leaves them there, and whether they
ever leave depends on flags that `ModelPatcher.clone` copies. Here a wrapper around each call puts them in and takes
them out, whatever happens inside: outside of a call there is nothing to undo, and a call with nothing to do leaves the
UNet alone. The state of a call is in attributes of the layers, because torch.compile guards on those and not on the
values in `transformer_options`.

Core's estimate of activation memory holds. At 1024 pixels, 16 frames, both passes in fp16, it counts on 8 GiB; the
largest piece that a transformer works on at once, at the finest level, takes 3 by its shapes.
"""

import logging
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrappersMP

from ....layers.motion_module import MotionModule, Site
from ....weights.fit import require_fit
from ....weights.motion.lora import load_motion_lora, patches
from .beta_schedule import UNCHANGED, with_beta_schedule
from .in_unet import blocks_of, placed
from .planned import PlannedPatch, as_patcher, no_sdxl_unet


@dataclass(frozen=True, eq=False)
class MotionPatch(PlannedPatch):
    """One motion module on one MODEL.

    factors: direction of a site -> factor of the strength there
    halfway: sigma in the middle of the noise schedule that the node set, None for the MODEL's own schedule
    """

    node = "Apply Motion Module"
    key = "sav_motion_module"
    place = "sav_motion_module"

    factors: Mapping[str, float]
    halfway: float | None = None


def run_with_modules(
    executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs
) -> torch.Tensor:
    """APPLY_MODEL wrapper: the MODEL's motion modules are in the UNet while it runs."""
    unet = executor.class_obj.diffusion_model
    with ExitStack() as stack:
        for patch, plan in MotionPatch.plans(executor, x, transformer_options or {}):
            if plan.active:
                stack.enter_context(placed(unet, patch.patcher.model, plan, patch.factors))
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)


def check_noise_levels(executor, *args, **kwargs):
    """OUTER_SAMPLE wrapper: warn if a node behind Apply Motion Module has replaced the noise levels that it set."""
    guider = executor.class_obj
    now = _halfway(guider.model_patcher)
    for patch in MotionPatch.all_on(guider.model_options["transformer_options"]):
        if patch.halfway and not math.isclose(now, patch.halfway, rel_tol=0.02):
            logging.warning(
                "%s: a node behind it (as ModelSamplingDiscrete) has replaced the noise levels that it set; half-way "
                "sigma is %.2f and was %.2f. Put that node before %s, or set beta_schedule to %s.",
                *(patch.node, now, patch.halfway, patch.node, UNCHANGED),
            )
    return executor(*args, **kwargs)


def _halfway(model) -> float:
    """Return sigma of a MODEL in the middle of its noise schedule."""
    return float(model.get_model_object("model_sampling").percent_to_sigma(0.5))


def apply_motion_module(
    model,
    motion_module,
    strength: float = 1.0,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    beta_schedule: str = "auto",
    factors: Mapping[str, float] | None = None,
):
    """Return a clone of the MODEL (a ModelPatcher) with the motion module in its UNet; warn where it has no effect.

    motion_module: a ModelPatcher from `load_patcher`, or a MotionModule in the MODEL's dtype.
    beta_schedule: see `with_beta_schedule`; holds for strength 0 too. factors: as for MotionPatch, 1 by default.

    Raises ValueError if the MODEL is not of SDXL's family or the module does not fit it, and for modules on one MODEL
    that exclude each other.
    """
    patcher = as_patcher(motion_module)
    module: MotionModule = patcher.model
    unet = getattr(model.model, "diffusion_model", None)
    unet = getattr(unet, "_orig_mod", unet)  # where another node has it compiled
    if not isinstance(unet, UNetModel):
        raise no_sdxl_unet(model)
    sites = {site: block[0].out_channels for site, block in blocks_of(unet).items()}
    require_fit(module, sites, type(model.model).__name__)
    before = MotionPatch.all_on(model.model_options["transformer_options"])
    if any(patch.patcher is not patcher and patch.patcher.model is module for patch in before):
        raise ValueError(
            "this MODEL has the same motion module already, with other motion LoRAs. Put all of them on one, "
            "with several Motion LoRA nodes in a row."
        )
    model = with_beta_schedule(model, beta_schedule, module.beta_schedule, held=bool(before))
    factors = {"down": 1.0, "mid": 1.0, "up": 1.0, **(factors or {})}
    if reason := _no_effect(module, strength, start_percent, end_percent, factors):
        logging.warning(
            "%s: %s, so the motion module has no effect and frames will not move together.", MotionPatch.node, reason
        )
    if strength == 0 or not _reached(module, factors):
        return model
    halfway = None if beta_schedule == UNCHANGED else _halfway(model)
    patch = MotionPatch(patcher, strength, start_percent, end_percent, factors, halfway)
    return patch.put_on(model, {WrappersMP.APPLY_MODEL: run_with_modules, WrappersMP.OUTER_SAMPLE: check_noise_levels})


def _reached(module: MotionModule, factors: Mapping[str, float]) -> list[Site]:
    """Return the sites that add something."""
    return [site for site in module.sites if factors[site.direction]]


def _no_effect(module: MotionModule, strength: float, start: float, end: float, factors: Mapping[str, float]) -> str:
    """Return why the module can have no effect, or ""."""
    if strength == 0:
        return "strength is 0"
    if not _reached(module, factors):
        return "the strengths of all blocks that it has are 0"
    if start >= end:
        return f"nothing lies between start_percent {start:g} and end_percent {end:g}"
    return module.silence if module.is_silent() else ""


def with_motion_lora(patcher, path: str | Path, strength: float):
    """Return a clone of a motion module's ModelPatcher with a motion LoRA, which core adds to the weights it loads.

    Raises ValueError for a file that is no motion LoRA for this module.
    """
    changes = patches(patcher.model, load_motion_lora(path))
    patcher = patcher.clone()
    if strength:
        patcher.add_patches(changes, strength)
    return patcher
