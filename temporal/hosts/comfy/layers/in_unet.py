"""A motion module inside ComfyUI's UNet, for one call of it.

Each transformer stands after its layer's ResBlock and attention, as its authors have it, before the layer's Downsample
or Upsample, and so before the residuals of a ControlNet.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, UNetModel
from torch import nn

from ....layers.clips import clips_as_images, images_as_clips
from ....layers.motion_module import MotionModule, Site
from ....layers.transformer import TemporalTransformer
from .planned import Plan


class MotionLayer(nn.Module):
    """The transformer of one site as a layer of the UNet."""

    def __init__(self, transformer: TemporalTransformer, plan: Plan, factor: float):
        super().__init__()
        self.transformer = transformer
        self.frames, self.positions = plan.frames, plan.positions
        self.strength = plan.strength * factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x `[(b f) c h w]` with the residual added."""
        return self.transformer(x, self.frames, self.positions, self.strength)


class CrossFrameNorm(nn.Module):
    """A GroupNorm of the UNet with the mean and variance of a clip instead of each frame's.

    The norm itself computes, so core casts and moves its weights as usual.
    """

    def __init__(self, norm: nn.Module, frames: int):
        super().__init__()
        self.norm, self.frames = norm, frames

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the norm of x `[(b f) c h w]`."""
        return images_as_clips(self.norm(clips_as_images(x, self.frames)), self.frames)


@contextmanager
def placed(unet: UNetModel, module: MotionModule, plan: Plan, factors: Mapping[str, float]) -> Iterator[None]:
    """Hold the module in the UNet inside a `with`. factors: direction of a site -> factor of the strength there."""
    blocks = blocks_of(unet)
    with ExitStack() as stack:
        for site in module.sites:
            if factor := factors[site.direction]:
                layers = list(blocks[site])
                layers.insert(_end_of_layer(layers), MotionLayer(module.site(site), plan, factor))
                _hold(stack, blocks[site], layers)
        if module.cross_frame_resnet_norms:
            for parent in _norm_parents(unet):
                norm, *rest = parent
                if not isinstance(norm, CrossFrameNorm):  # one of them is enough for several modules
                    _hold(stack, parent, [CrossFrameNorm(norm, plan.frames), *rest])
        yield


def _hold(stack: ExitStack, parent: nn.Module, layers: list[nn.Module]) -> None:
    """Give a Sequential other layers until the stack is closed, and then the very dictionary that it had."""
    stack.callback(setattr, parent, "_modules", parent._modules)
    parent._modules = {str(i): layer for i, layer in enumerate(layers)}


def _end_of_layer(layers: list[nn.Module]) -> int:
    """Return the index after the ResBlock, its attention, and motion modules that are there already."""
    end = 1
    while end < len(layers) and isinstance(layers[end], (SpatialTransformer, MotionLayer)):
        end += 1
    return end


def _norm_parents(unet: UNetModel) -> Iterator[nn.Sequential]:
    """Yield the Sequentials that begin with a GroupNorm: those of every ResBlock, and the UNet's last."""
    for block in (*unet.input_blocks, *filter(None, [unet.middle_block]), *unet.output_blocks):
        for layer in block:
            if isinstance(layer, ResBlock):
                yield layer.in_layers
                yield layer.out_layers
    yield unet.out


def blocks_of(unet: UNetModel) -> dict[Site, nn.Sequential]:
    """Return site -> the block of the UNet in which a temporal transformer there stands."""
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
