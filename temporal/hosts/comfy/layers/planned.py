"""What our temporal layers do in one call of the UNet, decided once for that call.

A patch is immutable, so clones of a MODEL share it. Its weights are a ModelPatcher of their own, which core loads,
moves and unloads along with the MODEL, for it asks every patch of a MODEL for its `models()`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import comfy.model_management
import comfy.model_patcher
import torch

from ....clip.edit import in_range
from ....clip.frames import FrameInfo


class Plan(NamedTuple):
    """What the layers of one patch do in one call of the UNet.

    frames: frames of a clip in the batch; positions: LongTensor [frames] and strength: float tensor, on x's device
    active: False if there is nothing to do, and then strength is 0
    """

    frames: int
    positions: torch.Tensor
    strength: torch.Tensor
    active: bool


@dataclass(frozen=True, eq=False)
class PlannedPatch(ABC):
    """Temporal layers on one MODEL.

    patcher: the ModelPatcher of the layers; percentages: of the noise schedule, 0 is pure noise
    """

    patcher: Any
    strength: float
    start_percent: float
    end_percent: float

    def plan(self, options: Mapping[str, Any], frames: FrameInfo, model_sampling: Any, device: torch.device) -> Plan:
        """Decide for one call of the UNet. Raises ValueError for more frames than there are positions."""
        count = len(frames.index)
        active = count > 1 and self._in_range(options, model_sampling)
        positions = self.positions(frames.index) if active else torch.zeros_like(frames.index)
        strength = torch.full((), self.strength if active else 0.0, device=device)
        return Plan(count, positions.to(device), strength, active)

    @abstractmethod
    def positions(self, index: torch.Tensor) -> torch.Tensor:
        """Positions for frames with these places in the clip, see `frame_positions`."""

    def _in_range(self, options: Mapping[str, Any], model_sampling: Any) -> bool:
        """Return whether the layers are in force. Reads sigma only if it must: that waits for the GPU."""
        if self.start_percent <= 0 and self.end_percent >= 1:
            return True
        sigma = float(options["sigmas"][0])
        return in_range(self, sigma, model_sampling.percent_to_sigma)

    def models(self) -> list:
        """For core's memory management: what must be loaded along with the MODEL."""
        return [self.patcher]

    def to(self, device_or_dtype: Any) -> PlannedPatch:
        """Core moves patches along with the MODEL; the weights are moved by their ModelPatcher."""
        return self

    def __deepcopy__(self, memo: dict) -> PlannedPatch:
        return self


def frame_positions(index: torch.Tensor, limit: int, node: str, thing: str, trained: int | None = None) -> torch.Tensor:
    """Positions for frames with these places in the clip: counted from the batch's first frame, so that every window
    and segment starts at 0; by order alone if the frames lie too far apart or go backwards.

    node, thing: who asks, and whose limit it is. Raises ValueError for more frames than `limit`, and warns beyond those
    that it was trained on, None if that is not known.
    """
    count = len(index)
    if count > limit:
        raise ValueError(
            f"{node}: {count} frames at once are more than this {thing}'s max_frames {limit}. Sample the clip in "
            f"pieces of at most {limit} frames with Context Windows or Segment Chain."
        )
    positions = index - index[0]
    if positions.min() < 0 or positions.max() >= limit:
        positions = torch.arange(count)
    if trained and int(positions.max()) >= trained:
        warn_once(
            f"{node}: frame {int(positions.max()) + 1} is beyond the {trained} frames that the {thing} was trained on; "
            f"expect drift, or sample in pieces of {trained} frames."
        )
    return positions


def weights_dtype() -> torch.dtype:
    """The dtype in which our layers are loaded: the one that core chooses for UNets, if it can be computed in."""
    device = comfy.model_management.get_torch_device()
    dtype = comfy.model_management.unet_dtype(device=device)
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        dtype = comfy.model_management.unet_manual_cast(dtype, device) or torch.float32
    return dtype


def as_patcher(layers: torch.nn.Module):
    """Layers of ours under core's memory management."""
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return kind(
        layers,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


@cache
def warn_once(message: str) -> None:
    """Log a warning, each message once: the UNet is called many times for one clip."""
    logging.warning(message)
