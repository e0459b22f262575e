"""A motion module in diffusers' UNet2DConditionModel.

Each temporal transformer follows a spatial layer as in diffusers' UNetMotionModel: the attention of its place, or the
ResBlock where there is none. Forward hooks put it there: the UNet's parameters, names and code stay as they were.

The hooks read the last call, which stays until the next. So gradient checkpointing, which runs blocks again in the
backward pass, finds the call that it belongs to.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ...layers.base import TemporalLayers
from ...layers.clips import clips_as_images, images_as_clips
from ...layers.motion_module import Site
from .injection import Call, Injection, in_precision


class MotionInjection(Injection):
    """A motion module in forward hooks."""

    def __init__(self, unet: Any, layers: TemporalLayers):
        super().__init__(unet, layers)
        self.now: Call | None = None  # the call that the blocks see, None for the plain UNet
        self.next: Call | None = None  # the call that comes
        self.hooks: list[Any] = []

    @staticmethod
    def sites(unet: Any) -> dict[Site, int]:
        return {site: resnet.conv2.out_channels for site, (_, resnet) in _places(unet).items()}

    def inject(self) -> None:
        places = _places(self.unet)
        self.hooks.append(self.unet.register_forward_pre_hook(self._begin))
        for site in self.layers.sites:
            self.hooks.append(places[site][0].register_forward_hook(self._transformer(site)))
        if self.layers.cross_frame_resnet_norms:
            for norm in resnet_norms(self.unet):
                self.hooks.append(norm.register_forward_pre_hook(self._join))
                self.hooks.append(norm.register_forward_hook(self._part))

    def eject(self) -> None:
        while self.hooks:
            self.hooks.pop().remove()

    def run(self, call: Call, *args: Any, **kwargs: Any) -> Any:
        self.next = call
        return self.unet(*args, **kwargs)

    def _begin(self, *_: Any) -> None:
        self.now, self.next = self.next, None

    def _transformer(self, site: Site) -> Callable[..., Any]:
        """Return a hook that passes the output of a layer, a tensor or a tuple of one, through a site's transformer."""

        def hook(_layer: nn.Module, _inputs: Any, output: Any) -> Any:
            if self.now is None:
                return None
            x = output[0] if isinstance(output, tuple) else output
            x = in_precision(self.layers.site(site), x, self.now)
            return (x,) if isinstance(output, tuple) else x

        return hook

    def _join(self, _norm: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor | None:
        return clips_as_images(inputs[0], self.now.frames) if self.now else None

    def _part(self, _norm: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        return images_as_clips(output, self.now.frames) if self.now else None


def _places(unet: Any) -> dict[Site, tuple[nn.Module, Any]]:
    """Return site -> (the spatial layer that a temporal transformer there follows, the ResBlock of that layer)."""
    places = {}
    for direction, blocks in (("down", unet.down_blocks), ("up", unet.up_blocks)):
        for i, block in enumerate(blocks):
            layers = block.attentions if getattr(block, "has_cross_attention", False) else block.resnets
            pairs = zip(layers, block.resnets, strict=True)
            places |= {Site(direction, i, j): pair for j, pair in enumerate(pairs)}
    if unet.mid_block is not None:
        pairs = zip(getattr(unet.mid_block, "attentions", ()), unet.mid_block.resnets, strict=False)
        places |= {Site("mid", 0, j): pair for j, pair in enumerate(pairs)}
    return places


def resnet_norms(unet: Any) -> list[nn.Module]:
    """Return the norms of the ResBlocks and the last norm, which Hotshot-XL takes across frames."""
    blocks = [*unet.down_blocks, *([] if unet.mid_block is None else [unet.mid_block]), *unet.up_blocks]
    resnets = [resnet for block in blocks for resnet in block.resnets]
    return [norm for resnet in resnets for norm in (resnet.norm1, resnet.norm2)] + [unet.conv_norm_out]
