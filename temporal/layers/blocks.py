"""The transformer blocks of an SDXL-family UNet, and their names in its two implementations.

diffusers names a block by its module path, `down_blocks.1.attentions.0.transformer_blocks.0`. ComfyUI names it, while
it runs, by `block` ("input" | "middle" | "output", number) and `block_index` inside that block's attention. Both are
derived here from either side's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TransformerBlock:
    """One BasicTransformerBlock.

    path: diffusers module path; block, index: ComfyUI's `block` and `block_index`; module: ComfyUI's module path
    dim: channels of its tokens; heads: attention heads
    """

    path: str
    block: tuple[str, int]
    index: int
    dim: int
    heads: int

    @property
    def module(self) -> str:
        """Path under ComfyUI's `diffusion_model`."""
        place = "middle_block" if self.block[0] == "middle" else f"{self.block[0]}_blocks.{self.block[1]}"
        return f"{place}.1.transformer_blocks.{self.index}"


@dataclass(frozen=True)
class _Level:
    """One resolution, the finest first: channels, heads, and transformer blocks after each resnet down and up."""

    dim: int
    heads: int
    down: tuple[int, ...]
    up: tuple[int, ...]


def transformer_blocks(config: Mapping[str, Any]) -> tuple[TransformerBlock, ...]:
    """Return every transformer block in the order of execution.

    config: ComfyUI's `unet_config` or the config of diffusers' UNet2DConditionModel.

    Raises ValueError if it is neither.
    """
    if "block_out_channels" in config and "down_block_types" in config:
        levels, middle = _diffusers_levels(config)
    elif "model_channels" in config and isinstance(config.get("transformer_depth_output"), Sequence):
        levels, middle = _comfy_levels(config)
    else:
        raise ValueError("not the configuration of a UNet with transformer blocks")

    blocks = []

    def add(place: str, block: tuple[str, int], depth: int, level: _Level) -> None:
        for index in range(depth):
            blocks.append(TransformerBlock(f"{place}.transformer_blocks.{index}", block, index, level.dim, level.heads))

    number = 1  # input block 0 is the first convolution
    for i, level in enumerate(levels):
        for j, depth in enumerate(level.down):
            add(f"down_blocks.{i}.attentions.{j}", ("input", number + j), depth, level)
        number += len(level.down) + 1  # and one downsampler
    add("mid_block.attentions.0", ("middle", 0), middle, levels[-1])
    number = 0
    for i, level in enumerate(reversed(levels)):
        for j, depth in enumerate(level.up):
            add(f"up_blocks.{i}.attentions.{j}", ("output", number + j), depth, level)
        number += len(level.up)  # the upsampler is part of the last of them
    return tuple(blocks)


def _comfy_levels(config: Mapping[str, Any]) -> tuple[list[_Level], int]:
    """Return levels and middle depth from ComfyUI's `unet_config`, whose depths are one flat list a direction."""
    widths = [config["model_channels"] * factor for factor in config["channel_mult"]]
    counts = config["num_res_blocks"]
    if isinstance(counts, int):
        counts = [counts] * len(widths)
    down, up = list(config["transformer_depth"]), list(config["transformer_depth_output"])
    levels = []
    for width, count in zip(widths, counts, strict=True):
        head = config.get("num_head_channels", -1)
        heads = width // head if head > 0 else config["num_heads"]
        # the flat list of the way up is written from the finest level, and read from its end
        levels.append(_Level(width, heads, tuple(down[:count]), tuple(reversed(up[: count + 1]))))
        del down[:count], up[: count + 1]
    return levels, max(config.get("transformer_depth_middle") or 0, 0)


def _diffusers_levels(config: Mapping[str, Any]) -> tuple[list[_Level], int]:
    """Return levels and middle depth from diffusers' config, whose numbers may each be one for all levels."""
    widths = config["block_out_channels"]
    count = len(widths)

    def each(value: Any) -> list:
        return list(value) if isinstance(value, Sequence) else [value] * count

    resnets = each(config["layers_per_block"])
    # diffusers calls the number of heads attention_head_dim, as old configurations do
    heads = each(config.get("num_attention_heads") or config["attention_head_dim"])
    depth = each(config["transformer_layers_per_block"])
    reverse = config.get("reverse_transformer_layers_per_block")
    depth_up = list(reversed(each(reverse))) if reverse else depth
    levels = []
    for i in range(count):
        attends_down = "CrossAttn" in config["down_block_types"][i]
        attends_up = "CrossAttn" in config["up_block_types"][count - 1 - i]
        down = _depths(depth[i], resnets[i]) if attends_down else (0,) * resnets[i]
        up = _depths(depth_up[i], resnets[i] + 1) if attends_up else (0,) * (resnets[i] + 1)
        levels.append(_Level(widths[i], heads[i], down, up))
    middle = depth[-1] if "CrossAttn" in (config.get("mid_block_type") or "") else 0
    return levels, middle if isinstance(middle, int) else middle[0]


def _depths(depth: int | Sequence[int], resnets: int) -> tuple[int, ...]:
    """Return the transformer blocks after each of a level's resnets, given as one number or a list."""
    return (depth,) * resnets if isinstance(depth, int) else tuple(depth)
