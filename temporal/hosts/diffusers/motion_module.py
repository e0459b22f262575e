"""A motion module on diffusers' UNet2DConditionModel.

Each temporal transformer follows a spatial layer as in diffusers' UNetMotionModel: the attention of its place, or the
ResBlock where there is none. Forward hooks put it there: the UNet's parameters, names and code stay as they were.

The frame count is that of the last call and stays until the next, so that gradient checkpointing, which runs blocks
again in the backward pass, finds the one it had.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ...layers.clips import clips_as_images, images_as_clips
from ...layers.motion_module import MotionModule, Site
from ...weights.motion_module_fit import require_fit


class MotionUNet(nn.Module):
    """A UNet with a motion module: called like the UNet, plus `num_frames` and `positions`.

    Attached from construction to `detach()`, which leaves the UNet exactly as it was; also a context manager. The UNet
    called on its own, or with one frame or strength 0, is the plain UNet.

    Raises MotionModuleError if the module does not fit the UNet.
    """

    def __init__(self, unet: nn.Module, module: MotionModule, strength: float = 1.0):
        super().__init__()
        self.unet = unet
        self.module = module
        self.strength = strength
        self._now: tuple[int, torch.Tensor | None] = (1, None)  # frames and positions that the blocks see
        self._next = self._now  # of the call that comes
        self._hooks: list[Any] = []
        self.attach()

    def attach(self) -> None:
        """Put the module into the UNet. Does nothing if it is there."""
        if self._hooks:
            return
        places = unet_places(self.unet)
        require_fit(self.module.sites, unet_channels(self.unet), type(self.unet).__name__)
        self._hooks.append(self.unet.register_forward_pre_hook(self._begin))
        for site in self.module.sites:
            self._hooks.append(places[site].register_forward_hook(self._transformer(site)))
        if self.module.cross_frame_resnet_norms:
            for norm in resnet_norms(self.unet):
                self._hooks.append(norm.register_forward_pre_hook(self._join))
                self._hooks.append(norm.register_forward_hook(self._part))

    def detach(self) -> nn.Module:
        """Take the module out again and return the UNet. Does nothing if it is not attached."""
        while self._hooks:
            self._hooks.pop().remove()
        return self.unet

    def __enter__(self) -> MotionUNet:
        return self

    def __exit__(self, *_: Any) -> None:
        self.detach()

    def forward(
        self,
        sample: torch.Tensor,
        *args: Any,
        num_frames: int,
        positions: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The UNet's output for sample `[(b f) c h w]`, f = num_frames. positions: see TemporalTransformer."""
        self._next = (num_frames if self.strength else 1, positions)
        return self.unet(sample, *args, **kwargs)

    def _begin(self, *_: Any) -> None:
        self._now, self._next = self._next, (1, None)

    def _transformer(self, site: Site) -> Callable[..., Any]:
        """A hook that lets the output of a layer, a tensor or a tuple of one, through the transformer of a site."""

        def hook(_layer: nn.Module, _inputs: Any, output: Any) -> Any:
            frames, positions = self._now
            if frames == 1:
                return None
            x = output[0] if isinstance(output, tuple) else output
            x = _in_precision(self.module.site(site), x, frames, positions, self.strength)
            return (x,) if isinstance(output, tuple) else x

        return hook

    def _join(self, _norm: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor | None:
        frames = self._now[0]
        return None if frames == 1 else clips_as_images(inputs[0], frames)

    def _part(self, _norm: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        frames = self._now[0]
        return None if frames == 1 else images_as_clips(output, frames)


def _in_precision(transformer: nn.Module, x: torch.Tensor, *arguments: Any) -> torch.Tensor:
    """The transformer in the precision of x, whatever its own; under autocast PyTorch chooses for one in fp32."""
    dtype = transformer.proj_in.weight.dtype
    if dtype == x.dtype or (dtype == torch.float32 and torch.is_autocast_enabled(x.device.type)):
        return transformer(x, *arguments)
    weights = {name: value.to(x.dtype) for name, value in transformer.named_parameters()}
    return torch.func.functional_call(transformer, weights, (x, *arguments))


def unet_places(unet: Any) -> dict[Site, nn.Module]:
    """Site -> the spatial layer that a temporal transformer there follows."""
    places = {}
    for stage, blocks in (("down", unet.down_blocks), ("up", unet.up_blocks)):
        for i, block in enumerate(blocks):
            layers = block.attentions if getattr(block, "has_cross_attention", False) else block.resnets
            places |= {Site(stage, i, j): layer for j, layer in enumerate(layers)}
    if unet.mid_block is not None:
        places |= {Site("mid", 0, j): layer for j, layer in enumerate(getattr(unet.mid_block, "attentions", ()))}
    return places


def unet_channels(unet: Any) -> dict[Site, int]:
    """Site -> channels, for every place that a temporal transformer could have."""
    channels = {}
    for site in unet_places(unet):
        block = unet.mid_block if site.direction == "mid" else getattr(unet, f"{site.direction}_blocks")[site.block]
        channels[site] = block.resnets[site.layer].conv2.out_channels
    return channels


def resnet_norms(unet: Any) -> list[nn.Module]:
    """Norms of the ResBlocks and the last norm: those which Hotshot-XL takes across frames."""
    blocks = [*unet.down_blocks, *([] if unet.mid_block is None else [unet.mid_block]), *unet.up_blocks]
    resnets = [resnet for block in blocks for resnet in block.resnets]
    return [norm for resnet in resnets for norm in (resnet.norm1, resnet.norm2)] + [unet.conv_norm_out]
