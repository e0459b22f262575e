"""The temporal adapter on a ComfyUI MODEL, at core's own opening between self- and cross-attention (`middle_patch`).

What changes while sampling is decided once for every call of the UNet, by a wrapper around it that publishes one plan
for each adapter; the patch, called in every transformer block, only reads the plan. Patches are immutable, so clones
of a MODEL share them. The adapter's activations are smaller than those of the block's own feed-forward, which are not
alive at the same time, so core's estimate of activation memory holds as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.patcher_extension import WrappersMP

from ...adapter import AdapterError, TemporalAdapter, load_adapter
from ...adapter_fit import require_fit
from ...attention import TemporalSelfAttention
from ...blocks import TransformerBlock, transformer_blocks
from ...frames import FrameInfo, frames_of
from .sampling import record

KEY = "sav_temporal_adapter"
NODE = "SAV_ApplyTemporalAdapter"


class Plan(NamedTuple):
    """What one adapter does in one call of the UNet.

    frames: frames of a clip in the batch; positions: LongTensor [frames] and strength: float tensor, on x's device
    active: False if there is nothing to do, and then strength is 0
    """

    frames: int
    positions: torch.Tensor
    strength: torch.Tensor
    active: bool


@dataclass(frozen=True, eq=False)
class AdapterPatch:
    """One adapter on one MODEL: called as core's `middle_patch` in every transformer block.

    patcher: the ModelPatcher of the adapter; sites: ComfyUI's (block, block_index) -> the module for that block
    slot: which of the MODEL's adapters this is; percentages: of the noise schedule, 0 is pure noise
    """

    patcher: Any
    sites: Mapping[tuple[tuple[str, int], int], TemporalSelfAttention]
    slot: int
    strength: float
    start_percent: float
    end_percent: float

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

    def plan(self, options: Mapping[str, Any], frames: FrameInfo, model_sampling: Any, device: torch.device) -> Plan:
        """Decide for one call of the UNet. Raises ValueError for more frames than there are learned positions."""
        count = len(frames.index)
        active = count > 1 and self._in_range(options, model_sampling)
        positions = self._positions(frames.index) if active else torch.zeros_like(frames.index)
        strength = torch.full((), self.strength if active else 0.0, device=device)
        return Plan(count, positions.to(device), strength, active)

    def _in_range(self, options: Mapping[str, Any], model_sampling: Any) -> bool:
        """True from start_percent to end_percent, as core's conditioning ranges are. Reads sigma only if it must."""
        if self.start_percent <= 0 and self.end_percent >= 1:
            return True
        sigma = float(options["sigmas"][0])
        last, first = (model_sampling.percent_to_sigma(p) for p in (self.end_percent, self.start_percent))
        return last <= sigma <= first

    def _positions(self, index: torch.Tensor) -> torch.Tensor:
        """Learned positions for frames with these places in the clip: counted from the batch's first frame, so that
        every window and segment starts at 0; by order alone if the frames lie too far apart or go backwards."""
        adapter: TemporalAdapter = self.patcher.model
        limit, count = adapter.config.max_frames, len(index)
        if count > limit:
            raise ValueError(
                f"{NODE}: {count} frames at once are more than this adapter's max_frames {limit}. Sample the clip in "
                f"pieces of at most {limit} frames with SAV_ContextWindows or SAV_SegmentChain."
            )
        positions = index - index[0]
        if positions.min() < 0 or positions.max() >= limit:
            positions = torch.arange(count)
        trained = adapter.trained_frames
        if trained and int(positions.max()) >= trained:
            _warn_once(
                f"{NODE}: frame {int(positions.max()) + 1} is beyond the {trained} frames that the adapter was trained "
                f"on; expect drift, or sample in pieces of {trained} frames."
            )
        return positions

    def models(self) -> list:
        """For core's memory management: what must be loaded along with the MODEL."""
        return [self.patcher]

    def to(self, device_or_dtype: Any) -> AdapterPatch:
        """Core moves patches along with the MODEL; the weights are moved by their ModelPatcher."""
        return self

    def __deepcopy__(self, memo: dict) -> AdapterPatch:
        return self


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
    try:
        require_fit(patcher.model.config.sites, sites, type(model.model).__name__)
    except AdapterError as error:
        raise AdapterError(f"{NODE}: {error}") from None
    if strength == 0:
        return model.clone()
    model = record(model, lambda contract: contract)  # sampling then checks that it is given a clip
    modules = {(block.block, block.index): patcher.model.site(block.path) for block in blocks}
    slot = len(_adapters_on(model.model_options["transformer_options"]))
    patch = AdapterPatch(patcher, modules, slot, strength, start_percent, end_percent)
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
        raise AdapterError(f"{NODE}: the model {name} has no SDXL UNet. Load an SDXL checkpoint.") from None


def load_patcher(path: str | Path):
    """A ModelPatcher of the adapter in a file, in the dtype that core chooses for UNets. Raises AdapterError."""
    device = comfy.model_management.get_torch_device()
    dtype = comfy.model_management.unet_dtype(device=device)
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        dtype = comfy.model_management.unet_manual_cast(dtype, device) or torch.float32
    return as_patcher(load_adapter(path, operations=comfy.ops.manual_cast, dtype=dtype).requires_grad_(False))


def as_patcher(adapter: TemporalAdapter):
    """The adapter under core's memory management."""
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return kind(
        adapter,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def _adapters_on(transformer_options: Mapping[str, Any]) -> list[AdapterPatch]:
    """The adapters among a MODEL's patches."""
    patches = transformer_options.get("patches", {}).get("middle_patch", [])
    return [patch for patch in patches if isinstance(patch, AdapterPatch)]


@cache
def _warn_once(message: str) -> None:
    """Log a warning, each message once: the UNet is called many times for one clip."""
    logging.warning(message)
