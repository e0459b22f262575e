"""The temporal adapter on a ComfyUI MODEL, at core's own opening between self- and cross-attention (`middle_patch`).

What changes while sampling is decided once for every call of the UNet, by a wrapper around it that publishes one plan
for each adapter; the patch, called in every transformer block, only reads the plan. The adapter's activations are
smaller than those of the block's own feed-forward, which are not alive at the same time, so core's estimate of
activation memory holds as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.ops
import torch
from comfy.patcher_extension import WrappersMP

from ....layers.adapter import TemporalAdapter
from ....layers.attention import TemporalSelfAttention
from ....layers.blocks import TransformerBlock, transformer_blocks
from ....weights.adapter_file import load_adapter
from ....weights.adapter_format import AdapterError
from ....weights.fit import require_fit
from ..published import frames_of
from ..sampling.wrapper import record
from .planned import Plan, PlannedPatch, as_patcher, frame_positions, weights_dtype

KEY = "sav_temporal_adapter"
NODE = "Apply Temporal Adapter"


@dataclass(frozen=True, eq=False)
class AdapterPatch(PlannedPatch):
    """One adapter on one MODEL: called as core's `middle_patch` in every transformer block.

    sites: ComfyUI's (block, block_index) -> the module for that block; slot: which of the MODEL's adapters this is
    """

    sites: Mapping[tuple[tuple[str, int], int], TemporalSelfAttention]
    slot: int

    def __call__(self, x: torch.Tensor, options: Mapping[str, Any]) -> torch.Tensor:
        """x `[(b f) s c]` with the residual added. `options` are the transformer_options of this block."""
        if KEY not in options:
            raise RuntimeError(
                f"{NODE}: an extension calls the UNet past ComfyUI's model wrappers. Remove one of the two."
            )
        plan: Plan = options[KEY][self.slot]
        # A compiled graph is reused with other plans, so there the strength, a tensor, says whether anything happens.
        if not plan.active and not torch.compiler.is_compiling():
            return x
        site = self.sites[options["block"], options["block_index"]]
        return site(x, plan.frames, plan.positions, strength=plan.strength)

    def positions(self, index: torch.Tensor) -> torch.Tensor:
        """Learned positions, with a warning beyond those that were trained."""
        adapter: TemporalAdapter = self.patcher.model
        return frame_positions(index, adapter.config.max_frames, NODE, "adapter", adapter.trained_frames)


def publish_plans(
    executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs
) -> torch.Tensor:
    """APPLY_MODEL wrapper: one plan for each adapter on the MODEL, in `transformer_options`."""
    options = dict(transformer_options or {})
    frames = frames_of(options, x.shape[0])
    sampling = executor.class_obj.model_sampling
    patches = _adapters_on(options)
    options[KEY] = {patch.slot: patch.plan(options, frames, sampling, x.device) for patch in patches}
    return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)


def apply_adapter(model, adapter, strength: float = 1.0, start_percent: float = 0.0, end_percent: float = 1.0):
    """A clone of the MODEL (a ModelPatcher) with the adapter in its transformer blocks, under the frame contract.

    adapter: what `load_patcher` returns, or a TemporalAdapter in the MODEL's dtype. Strength 0 adds nothing.

    Raises AdapterError, naming every site, if the adapter was made for another kind of model.
    """
    patcher = as_patcher(adapter) if isinstance(adapter, TemporalAdapter) else adapter
    blocks = model_blocks(model)
    sites = {block.path: (block.dim, block.heads) for block in blocks}
    require_fit(patcher.model, sites, type(model.model).__name__)
    if strength == 0:
        return model.clone()
    model = record(model, lambda contract: contract)  # sampling then checks that it is given a clip
    modules = {(block.block, block.index): patcher.model.site(block.path) for block in blocks}
    slot = len(_adapters_on(model.model_options["transformer_options"]))
    patch = AdapterPatch(patcher, strength, start_percent, end_percent, modules, slot)
    model.set_model_patch(patch, "middle_patch")
    if not model.get_wrappers(WrappersMP.APPLY_MODEL, KEY):
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, publish_plans)
    return model


def model_blocks(model) -> tuple[TransformerBlock, ...]:
    """The transformer blocks of a MODEL. Raises AdapterError if it is not of SDXL's family."""
    config = getattr(getattr(model.model, "model_config", None), "unet_config", {})
    try:
        return transformer_blocks(config)
    except ValueError:
        name = type(model.model).__name__
        raise AdapterError(f"the model {name} has no SDXL UNet. Load an SDXL checkpoint.") from None


def load_patcher(path: str | Path):
    """A ModelPatcher of the adapter in a file, in the dtype that core chooses for UNets. Raises AdapterError."""
    return as_patcher(load_adapter(path, operations=comfy.ops.manual_cast, dtype=weights_dtype()).requires_grad_(False))


def _adapters_on(transformer_options: Mapping[str, Any]) -> list[AdapterPatch]:
    """The adapters among a MODEL's patches."""
    patches = transformer_options.get("patches", {}).get("middle_patch", [])
    return [patch for patch in patches if isinstance(patch, AdapterPatch)]
