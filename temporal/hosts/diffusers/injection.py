"""The contract for putting one kind of temporal layers into diffusers' UNet2DConditionModel."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from ...layers.base import TemporalLayers


class Call(NamedTuple):
    """One call of the UNet. frames: of a clip; positions: LongTensor `[frames]` or None for 0, 1, 2, ..."""

    frames: int
    positions: torch.Tensor | None
    strength: float


class Injection(ABC):
    """Puts layers into a UNet and takes them out again. `inject` and `eject` are exact inverses.

    The UNet called on its own stays vanilla while the layers are in it; `run` calls it with them at work.
    """

    def __init__(self, unet: Any, layers: TemporalLayers):
        self.unet, self.layers = unet, layers

    @staticmethod
    @abstractmethod
    def sites(unet: nn.Module) -> Mapping[Any, Any]:
        """Return site -> shape of every place in the UNet where such a layer can stand."""

    @abstractmethod
    def inject(self) -> None:
        """Put the layers in. Raises ValueError if another extension is in the way."""

    @abstractmethod
    def eject(self) -> None:
        """Take the layers out."""

    @abstractmethod
    def run(self, call: Call, *args: Any, **kwargs: Any) -> Any:
        """Return the UNet's output with the layers at work. Must not change with gradient checkpointing, which runs
        blocks of the UNet again in the backward pass."""


def in_precision(site: nn.Module, x: torch.Tensor, call: Call) -> torch.Tensor:
    """Return `x + strength * residual` of a site's module, computed in the precision of x as in ComfyUI.

    Under autocast PyTorch chooses the precision of a module in fp32, whose gradients stay fp32 either way.
    """
    dtype = next(site.parameters()).dtype
    if dtype == x.dtype or (dtype == torch.float32 and torch.is_autocast_enabled(x.device.type)):
        return site(x, *call)
    weights = {name: value.to(x.dtype) for name, value in site.named_parameters()}
    return torch.func.functional_call(site, weights, (x, *call))
