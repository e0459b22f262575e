"""Temporal layers of any kind on diffusers' UNet2DConditionModel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ...layers.adapter import TemporalAdapter
from ...layers.base import TemporalLayers
from ...layers.clips import count_clips
from ...layers.motion_module import MotionModule
from ...weights.fit import require_fit
from .adapter import AdapterInjection
from .injection import Call, Injection
from .motion_module import MotionInjection

INJECTIONS: dict[type[TemporalLayers], type[Injection]] = {
    TemporalAdapter: AdapterInjection,
    MotionModule: MotionInjection,
}


class TemporalUNet(nn.Module):
    """A UNet with temporal layers: called like the UNet, plus `num_frames` and `positions`.

    Attached from construction to `detach()`, which leaves the UNet exactly as it was; also a context manager. The UNet
    called on its own, or with one frame or strength 0, is the plain UNet. Every other attribute is the UNet's, so it
    can take the UNet's place in a pipeline: `pipe.unet = TemporalUNet(pipe.unet, layers, num_frames=16)`.

    num_frames: frames of a clip, for callers that do not give them with the call. The batch cannot tell: with guidance
    a pipeline puts every frame into it twice.

    The layers compute in the UNet's precision, whatever their own.

    Raises ValueError if the layers do not fit the UNet or another extension is in the way.
    """

    def __init__(self, unet: nn.Module, layers: TemporalLayers, strength: float = 1.0, num_frames: int | None = None):
        super().__init__()
        self.unet = unet
        self.layers = layers
        self.strength = strength
        self.num_frames = num_frames
        self.injection = INJECTIONS[type(layers)](unet, layers)
        self.attached = False
        self.attach()

    def attach(self) -> None:
        """Put the layers into the UNet. Does nothing if they are there."""
        if not self.attached:
            require_fit(self.layers, self.injection.sites(self.unet), type(self.unet).__name__)
            self.injection.inject()
            self.attached = True

    def detach(self) -> nn.Module:
        """Take the layers out and return the UNet. Does nothing if they are not attached."""
        if self.attached:
            self.injection.eject()
            self.attached = False
        return self.unet

    def __enter__(self) -> TemporalUNet:
        return self

    def __exit__(self, *_: Any) -> None:
        self.detach()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("unet"), name)

    def forward(
        self,
        sample: torch.Tensor,
        *args: Any,
        num_frames: int | None = None,
        positions: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the UNet's output for sample `[(b f) c h w]`, f = num_frames.

        positions: LongTensor `[f]` of rows of the learned positions, 0, 1, 2, ... by default.

        Raises ValueError if the number of frames is not known or does not divide the batch.
        """
        frames = self.num_frames if num_frames is None else num_frames
        if frames is None:
            raise ValueError(
                "num_frames is not set, and a batch does not tell how many frames a clip has. Give num_frames with the "
                "call, or set it: TemporalUNet(unet, layers, num_frames=16)."
            )
        count_clips(sample, frames)
        if frames == 1 or not self.strength:
            return self.unet(sample, *args, **kwargs)
        return self.injection.run(Call(frames, positions, self.strength), sample, *args, **kwargs)


def unet_sites(unet: nn.Module, kind: type[TemporalLayers]) -> Mapping[Any, Any]:
    """Return site -> shape of every place in a UNet where layers of a kind can stand."""
    return INJECTIONS[kind].sites(unet)
