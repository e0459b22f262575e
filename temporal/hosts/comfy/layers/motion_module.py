"""A motion module on a ComfyUI MODEL: its transformers stand in the UNet for as long as a call of the UNet lasts.

Core's PatcherInjection would put them there when the MODEL is loaded and take them out when it is unloaded. In between,
all clones of the MODEL hold one UNet with the layers in it, a step that breaks off leaves them there, and whether they
ever leave hangs on flags that `ModelPatcher.clone` copies. Here a wrapper around each call puts them in and takes them
out, whatever happens inside: outside of a call there is nothing to undo, and in a call with nothing to do, nothing is
put in. What a layer must know of the call is an attribute of the layer, on which torch.compile guards; it does not on
what stands in `transformer_options`.

Core's estimate of activation memory holds. At 1024 pixels, 16 frames, both passes in fp16, it counts on 8 GiB; the
largest piece that a transformer works on at once, at the finest level, takes 3 by its shapes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.ops
import torch
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, UNetModel
from comfy.patcher_extension import WrappersMP
from torch import nn

from ....layers.clips import clips_as_images, images_as_clips
from ....layers.motion_module import MotionModule, Site
from ....layers.transformer import TemporalTransformer
from ....weights.fit import require_fit
from ....weights.motion_lora import load_motion_lora, patches
from ....weights.motion_module_format import load_motion_module
from ....weights.motion_module_keys import MotionModuleError
from ..published import frames_of
from ..sampling.wrapper import record
from .beta_schedule import UNCHANGED, with_beta_schedule
from .planned import Plan, PlannedPatch, as_patcher, frame_positions, weights_dtype

KEY = "sav_motion_module"
NODE = "Apply Motion Module"
STAGES = ("down", "mid", "up")


@dataclass(frozen=True, eq=False)
class MotionPatch(PlannedPatch):
    """One motion module on one MODEL.

    stages: "down", "mid", "up" -> factor of the strength there.
    halfway: sigma in the middle of the noise schedule that it was given, None if it takes the MODEL's.
    """

    stages: Mapping[str, float]
    halfway: float | None = None

    def positions(self, index: torch.Tensor) -> torch.Tensor:
        """Rows of the position tables, with a warning beyond those that were trained."""
        module: MotionModule = self.patcher.model
        return frame_positions(index, module.max_frames, NODE, "motion module", module.trained_frames)


class MotionLayer(nn.Module):
    """The transformer of one site as a layer of the UNet, for one call."""

    def __init__(self, transformer: TemporalTransformer, plan: Plan, factor: float):
        super().__init__()
        self.transformer = transformer
        self.frames, self.positions = plan.frames, plan.positions
        self.strength = plan.strength * factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x `[(b f) c h w]`."""
        return self.transformer(x, self.frames, self.positions, self.strength)


class CrossFrameNorm(nn.Module):
    """A GroupNorm of the UNet, for one call, with the mean and variance of a clip instead of each frame's.

    The norm itself computes, so that its weights are cast and moved as core does it.
    """

    def __init__(self, norm: nn.Module, frames: int):
        super().__init__()
        self.norm, self.frames = norm, frames

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x `[(b f) c h w]`."""
        return images_as_clips(self.norm(clips_as_images(x, self.frames)), self.frames)


def run_with_modules(
    executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs
) -> torch.Tensor:
    """APPLY_MODEL wrapper: the MODEL's motion modules are in the UNet while it runs."""
    options = transformer_options or {}
    frames = frames_of(options, x.shape[0])
    model = executor.class_obj
    with ExitStack() as stack:
        for patch in patches_on(options):
            plan = patch.plan(options, frames, model.model_sampling, x.device)
            if plan.active:
                stack.enter_context(placed(model.diffusion_model, patch, plan))
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)


def check_noise_levels(executor, *args, **kwargs):
    """OUTER_SAMPLE wrapper: warn if a node behind Apply Motion Module has replaced the noise levels that it set."""
    guider = executor.class_obj
    now = _halfway(guider.model_patcher)
    for patch in patches_on(guider.model_options["transformer_options"]):
        if patch.halfway and not math.isclose(now, patch.halfway, rel_tol=0.02):
            logging.warning(
                "%s: a node behind it (as ModelSamplingDiscrete) has replaced the noise levels that it set; half-way "
                "sigma is %.2f and was %.2f. Put that node before %s, or set beta_schedule to %s.",
                *(NODE, now, patch.halfway, NODE, UNCHANGED),
            )
    return executor(*args, **kwargs)


def _halfway(model) -> float:
    """Sigma of a MODEL in the middle of its noise schedule."""
    return float(model.get_model_object("model_sampling").percent_to_sigma(0.5))


@contextmanager
def placed(unet: UNetModel, patch: MotionPatch, plan: Plan) -> Iterator[None]:
    """While this lasts, the module stands in the UNet: after each layer's ResBlock and attention, as its authors have
    it, before the layer's Downsample or Upsample, and so before what a ControlNet adds."""
    module: MotionModule = patch.patcher.model
    blocks = blocks_of(unet)
    with ExitStack() as stack:
        for site in module.sites:
            factor = patch.stages[site.direction]
            if factor:
                layers = list(blocks[site])
                layers.insert(_end_of_layer(layers), MotionLayer(module.site(site), plan, factor))
                _hold(stack, blocks[site], layers)
        if module.cross_frame_resnet_norms:
            for parent in _norm_parents(unet):
                norm, *rest = parent
                if not isinstance(norm, CrossFrameNorm):  # a second module would only say the same again
                    _hold(stack, parent, [CrossFrameNorm(norm, plan.frames), *rest])
        yield


def _hold(stack: ExitStack, parent: nn.Module, layers: list[nn.Module]) -> None:
    """Give a Sequential other layers until the stack is closed, and then the very dictionary that it had."""
    stack.callback(setattr, parent, "_modules", parent._modules)
    parent._modules = {str(i): layer for i, layer in enumerate(layers)}


def _end_of_layer(layers: list[nn.Module]) -> int:
    """Where the ResBlock, its attention, and motion modules that are there already end."""
    end = 1
    while end < len(layers) and isinstance(layers[end], (SpatialTransformer, MotionLayer)):
        end += 1
    return end


def _norm_parents(unet: UNetModel) -> Iterator[nn.Sequential]:
    """The Sequentials that begin with a GroupNorm: those of every ResBlock, and the UNet's last."""
    for block in (*unet.input_blocks, *filter(None, [unet.middle_block]), *unet.output_blocks):
        for layer in block:
            if isinstance(layer, ResBlock):
                yield layer.in_layers
                yield layer.out_layers
    yield unet.out


def blocks_of(unet: UNetModel) -> dict[Site, nn.Sequential]:
    """Site -> the block of the UNet in which a temporal transformer there stands."""
    blocks = {}
    counts = unet.num_res_blocks
    number = 1  # input block 0 is the first convolution
    for level, count in enumerate(counts):
        blocks |= {Site("down", level, i): unet.input_blocks[number + i] for i in range(count)}
        number += count + 1  # and one downsampler
    if unet.middle_block is not None:
        blocks[Site("mid", 0, 0)] = unet.middle_block
    number = 0
    for level, count in enumerate(reversed(counts)):
        blocks |= {Site("up", level, i): unet.output_blocks[number + i] for i in range(count + 1)}
        number += count + 1  # the upsampler is part of the last of them
    return blocks


def apply_motion_module(
    model,
    motion_module,
    strength: float = 1.0,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    beta_schedule: str = "auto",
    stages: Mapping[str, float] | None = None,
):
    """A clone of the MODEL (a ModelPatcher) with the motion module in its UNet, under the frame contract.

    motion_module: what `load_patcher` returns, or a MotionModule in the MODEL's dtype.
    beta_schedule: see `with_beta_schedule`; holds for strength 0 too. stages: as for MotionPatch, 1 by default.

    Raises MotionModuleError, naming every site, if the module was made for another kind of model, and ValueError for
    modules on one MODEL that exclude each other.
    """
    patcher = as_patcher(motion_module) if isinstance(motion_module, MotionModule) else motion_module
    module: MotionModule = patcher.model
    unet = getattr(model.model, "diffusion_model", None)
    unet = getattr(unet, "_orig_mod", unet)  # where another node has it compiled
    name = type(model.model).__name__
    if not isinstance(unet, UNetModel):
        raise MotionModuleError(f"the model {name} has no SDXL UNet. Load an SDXL checkpoint.")
    places = {site: block[0].out_channels for site, block in blocks_of(unet).items()}
    require_fit(module, places, name)
    before = patches_on(model.model_options["transformer_options"])
    if any(patch.patcher is not patcher and patch.patcher.model is module for patch in before):
        raise ValueError(
            "this MODEL has the same motion module already, with other motion LoRAs. Put all of them on one, "
            "with several Motion LoRA nodes in a row."
        )
    model = with_beta_schedule(model, beta_schedule, module.beta_schedule, NODE, held=bool(before))
    factors = {stage: (stages or {}).get(stage, 1.0) for stage in STAGES}
    reason = _no_effect(module, strength, start_percent, end_percent, factors)
    if reason:
        logging.warning("%s: %s, so the motion module has no effect and frames will not move together.", NODE, reason)
    if strength == 0 or not _reached(module, factors):
        return model
    model = record(model, lambda contract: contract)  # sampling then checks that it is given a clip
    halfway = None if beta_schedule == UNCHANGED else _halfway(model)
    model.set_model_patch(MotionPatch(patcher, strength, start_percent, end_percent, factors, halfway), KEY)
    if not model.get_wrappers(WrappersMP.APPLY_MODEL, KEY):
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, run_with_modules)
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, check_noise_levels)
    return model


def _reached(module: MotionModule, factors: Mapping[str, float]) -> list[Site]:
    """Sites where something is added."""
    return [site for site in module.sites if factors[site.direction]]


def _no_effect(module: MotionModule, strength: float, start: float, end: float, factors: Mapping[str, float]) -> str:
    """Why the module can do nothing, or ""."""
    if strength == 0:
        return "strength is 0"
    if not _reached(module, factors):
        return "the strengths of all blocks that it has are 0"
    if start >= end:
        return f"nothing lies between start_percent {start:g} and end_percent {end:g}"
    if module.is_silent():
        return "every last projection in the file is zero"
    return ""


def patches_on(transformer_options: Mapping[str, Any]) -> list[MotionPatch]:
    """The motion modules among a MODEL's patches."""
    return transformer_options.get("patches", {}).get(KEY, [])


def load_patcher(path: str | Path):
    """A ModelPatcher of the motion module in a file, in the dtype that core chooses for UNets.

    Raises MotionModuleError.
    """
    return as_patcher(load_motion_module(path, comfy.ops.manual_cast, weights_dtype()).requires_grad_(False))


def with_motion_lora(patcher, path: str | Path, strength: float):
    """A clone of a motion module's ModelPatcher with a motion LoRA, which core adds to the weights when it loads them.

    Raises MotionModuleError for a file that is no motion LoRA for this module.
    """
    changes = patches(patcher.model, [(load_motion_lora(path), 1.0)])
    patcher = patcher.clone()
    if strength:
        patcher.add_patches(changes, strength)
    return patcher
