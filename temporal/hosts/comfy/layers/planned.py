"""The contract for temporal layers on a ComfyUI MODEL, and their plan for one call of the UNet.

A patch is immutable, so clones of a MODEL share it. Its weights are a ModelPatcher of their own, which core loads,
moves and unloads along with the MODEL, because it asks every patch of a MODEL for its `models()`. Whatever changes
while sampling is decided once for every call of the UNet, in a Plan, not in every block.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.patcher_extension import WrappersMP

from ....clip.edit import in_range
from ....clip.frames import FrameInfo
from ....layers.base import TemporalLayers
from ....weights.formats import load_layers
from ..errors import at_node
from ..published import frames_of
from ..sampling.wrapper import record


class Plan(NamedTuple):
    """The work of one patch's layers in one call of the UNet.

    frames: frames of a clip in the batch; positions: LongTensor [frames] and strength: float tensor, on x's device
    active: False if there is nothing to do, and then strength is 0
    """

    frames: int
    positions: torch.Tensor
    strength: torch.Tensor
    active: bool


@dataclass(frozen=True, eq=False)
class PlannedPatch:
    """Temporal layers of one kind on one MODEL: a subclass for each kind.

    patcher: the ModelPatcher of the layers; percentages: of the noise schedule, 0 is pure noise
    """

    node: ClassVar[str]
    """The display name of the kind's node."""
    key: ClassVar[str]
    """The name of the kind's wrappers on a MODEL."""
    place: ClassVar[str]
    """The list among the MODEL's patches that holds the patch."""

    patcher: Any
    strength: float
    start_percent: float
    end_percent: float

    def put_on(self, model, wrappers: Mapping[str, Callable]):
        """Return a clone of the MODEL with this patch. wrappers: of the kind, by core's type; added once a MODEL."""
        model = record(model, lambda contract: contract)  # sampling then checks that it is given a clip
        model.set_model_patch(self, self.place)
        if not model.get_wrappers(WrappersMP.APPLY_MODEL, self.key):
            for where, wrapper in wrappers.items():
                model.add_wrapper_with_key(where, self.key, wrapper)
        return model

    @classmethod
    def all_on(cls, options: Mapping[str, Any]) -> list[Any]:
        """Return the patches of this kind in a MODEL's transformer_options."""
        return [patch for patch in options.get("patches", {}).get(cls.place, []) if isinstance(patch, cls)]

    @classmethod
    def plans(cls, executor, x: torch.Tensor, options: Mapping[str, Any]) -> list[tuple[Any, Plan]]:
        """Return the patches of this kind with their plans, inside an APPLY_MODEL wrapper.

        Raises ValueError for more frames than there are learned positions.
        """
        frames = frames_of(options, x.shape[0])
        sampling = executor.class_obj.model_sampling
        return [(patch, patch.plan(options, frames, sampling, x.device)) for patch in cls.all_on(options)]

    def plan(self, options: Mapping[str, Any], frames: FrameInfo, model_sampling: Any, device: torch.device) -> Plan:
        """Return the plan for one call of the UNet."""
        count = len(frames.index)
        active = count > 1 and self._in_range(options, model_sampling)
        positions = torch.zeros_like(frames.index)
        if active:
            with at_node(self.node):
                positions = frame_positions(frames.index, self.patcher.model, self.node)
        strength = torch.full((), self.strength if active else 0.0, device=device)
        return Plan(count, positions.to(device), strength, active)

    def _in_range(self, options: Mapping[str, Any], model_sampling: Any) -> bool:
        """Return whether the layers are in force. Reads sigma only if it must: that waits for the GPU."""
        if self.start_percent <= 0 and self.end_percent >= 1:
            return True
        sigma = float(options["sigmas"][0])
        return in_range(self, sigma, model_sampling.percent_to_sigma)

    def models(self) -> list:
        """Return what core's memory management must load along with the MODEL."""
        return [self.patcher]

    def to(self, device_or_dtype: Any) -> PlannedPatch:
        """Return the patch itself: core moves patches along with the MODEL, and a ModelPatcher moves the weights."""
        return self

    def __deepcopy__(self, memo: dict) -> PlannedPatch:
        return self


def frame_positions(index: torch.Tensor, layers: TemporalLayers, node: str) -> torch.Tensor:
    """Return the learned positions of frames with these numbers in the clip: counted from the batch's first frame, so
    that every window and segment starts at 0; by order alone if the frames lie too far apart or go backwards.

    Raises ValueError for more frames than there are positions; warns, naming the node, beyond those of the training.
    """
    count, limit, trained = len(index), layers.max_frames, layers.trained_frames
    if count > limit:
        raise ValueError(
            f"{count} frames at once are more than this {layers.kind}'s max_frames {limit}. Sample the clip in pieces "
            f"of at most {limit} frames with Context Windows or Segment Chain."
        )
    positions = index - index[0]
    if positions.min() < 0 or positions.max() >= limit:
        positions = torch.arange(count)
    if trained and int(positions.max()) >= trained:
        warn_once(
            f"{node}: frame {int(positions.max()) + 1} is beyond the {trained} frames that the {layers.kind} was "
            f"trained on; expect drift, or sample in pieces of {trained} frames."
        )
    return positions


def weights_dtype() -> torch.dtype:
    """Return the dtype that core chooses for UNets, or the one to compute in if that is only for storage."""
    device = comfy.model_management.get_torch_device()
    dtype = comfy.model_management.unet_dtype(device=device)
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        dtype = comfy.model_management.unet_manual_cast(dtype, device) or torch.float32
    return dtype


def as_patcher(layers: torch.nn.Module):
    """Return layers under core's memory management: a ModelPatcher, or what is one already."""
    if not isinstance(layers, torch.nn.Module):
        return layers
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return kind(
        layers,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def load_patcher(path: str | Path, load: Callable[..., TemporalLayers] = load_layers):
    """Return a ModelPatcher of the layers in a file, in the dtype that core chooses for UNets.

    load: the reader of one format. Raises ValueError, naming the file.
    """
    return as_patcher(load(path, operations=comfy.ops.manual_cast, dtype=weights_dtype()).requires_grad_(False))


def no_sdxl_unet(model) -> ValueError:
    """Return the error for a MODEL of another family."""
    return ValueError(f"the model {type(model.model).__name__} has no SDXL UNet. Load an SDXL checkpoint.")


@cache
def warn_once(message: str) -> None:
    """Log a warning, each message once, because the UNet is called many times for one clip."""
    logging.warning(message)
