"""The temporal adapter on a ComfyUI MODEL, at core's own opening between self- and cross-attention (`middle_patch`).

A wrapper around each call of the UNet publishes one plan for each adapter; the patch, called in every transformer
block, only reads the plan. The adapter's activations are smaller than those of the block's own feed-forward, which are
not alive at the same time, so core's estimate of activation memory holds as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

from ....layers.attention import TemporalSelfAttention
from ....weights.fit import require_fit
from .blocks import TransformerBlock, transformer_blocks
from .planned import Plan, PlannedPatch, as_patcher, no_sdxl_unet

KEY = "sav_temporal_adapter"


@dataclass(frozen=True, eq=False)
class AdapterPatch(PlannedPatch):
    """One adapter on one MODEL: called as core's `middle_patch` in every transformer block.

    sites: ComfyUI's (block, block_index) -> the module for that block; slot: its number among the MODEL's adapters
    """

    node = "Apply Temporal Adapter"
    key = KEY
    place = "middle_patch"

    sites: Mapping[tuple[tuple[str, int], int], TemporalSelfAttention]
    slot: int

    def __call__(self, x: torch.Tensor, options: Mapping[str, Any]) -> torch.Tensor:
        """Return x `[(b f) s c]` with the residual added. options: the transformer_options of this block."""
        if KEY not in options:
            raise RuntimeError(
                f"{self.node}: an extension calls the UNet past ComfyUI's model wrappers. Remove one of the two."
            )
        plan: Plan = options[KEY][self.slot]
        # A compiled graph is reused with other plans, so there the strength, a tensor, says whether anything happens.
        if not plan.active and not torch.compiler.is_compiling():
            return x
        site = self.sites[options["block"], options["block_index"]]
        return site(x, plan.frames, plan.positions, plan.strength)


def publish_plans(
    executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs
) -> torch.Tensor:
    """APPLY_MODEL wrapper: one plan for each adapter on the MODEL, in `transformer_options`."""
    options = dict(transformer_options or {})
    options[KEY] = {patch.slot: plan for patch, plan in AdapterPatch.plans(executor, x, options)}
    return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)


def apply_adapter(model, adapter, strength: float = 1.0, start_percent: float = 0.0, end_percent: float = 1.0):
    """Return a clone of the MODEL (a ModelPatcher) with the adapter in its transformer blocks.

    adapter: a ModelPatcher from `load_patcher`, or a TemporalAdapter in the MODEL's dtype. Strength 0 adds nothing.

    Raises ValueError if the MODEL is not of SDXL's family or the adapter does not fit it.
    """
    patcher = as_patcher(adapter)
    blocks = model_blocks(model)
    sites = {block.path: (block.dim, block.heads) for block in blocks}
    require_fit(patcher.model, sites, type(model.model).__name__)
    if strength == 0:
        return model.clone()
    modules = {(block.block, block.index): patcher.model.site(block.path) for block in blocks}
    slot = len(AdapterPatch.all_on(model.model_options["transformer_options"]))
    patch = AdapterPatch(patcher, strength, start_percent, end_percent, modules, slot)
    return patch.put_on(model, {WrappersMP.APPLY_MODEL: publish_plans})


def model_blocks(model) -> tuple[TransformerBlock, ...]:
    """Return the transformer blocks of a MODEL. Raises ValueError if it is not of SDXL's family."""
    config = getattr(getattr(model.model, "model_config", None), "unet_config", {})
    try:
        return transformer_blocks(config)
    except ValueError:
        raise no_sdxl_unet(model) from None
