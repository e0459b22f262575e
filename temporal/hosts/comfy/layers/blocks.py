"""The transformer blocks of an SDXL-family UNet: ComfyUI's names of them, and diffusers', which an adapter's file has.

diffusers names a block by its module path, `down_blocks.1.attentions.0.transformer_blocks.0`. ComfyUI names it, while
it runs, by `block` ("input" | "middle" | "output", number) and `block_index` inside that block's attention.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TransformerBlock:
    """One BasicTransformerBlock.

    path: diffusers module path; block, index: ComfyUI's `block` and `block_index`
    dim: channels of its tokens; heads: attention heads
    """

    path: str
    block: tuple[str, int]
    index: int
    dim: int
    heads: int


def transformer_blocks(config: Mapping[str, Any]) -> tuple[TransformerBlock, ...]:
    """Return every transformer block in the order of execution. config: ComfyUI's `unet_config`.

    Raises ValueError if it is not that of a UNet with transformer blocks.
    """
    if "model_channels" not in config or not isinstance(config.get("transformer_depth_output"), list | tuple):
        raise ValueError("not the configuration of a UNet with transformer blocks")
    widths = [config["model_channels"] * factor for factor in config["channel_mult"]]
    counts = config["num_res_blocks"]
    counts = [counts] * len(widths) if isinstance(counts, int) else list(counts)
    head = config.get("num_head_channels", -1)
    blocks = []

    def add(place: str, block: tuple[str, int], depth: int, dim: int) -> None:
        heads = dim // head if head > 0 else config["num_heads"]
        for index in range(depth):
            blocks.append(TransformerBlock(f"{place}.transformer_blocks.{index}", block, index, dim, heads))

    depths = iter(config["transformer_depth"])  # one for each resnet
    number = 1  # input block 0 is the first convolution
    for level, (width, count) in enumerate(zip(widths, counts, strict=True)):
        for i in range(count):
            add(f"down_blocks.{level}.attentions.{i}", ("input", number + i), next(depths), width)
        number += count + 1  # and one downsampler
    add("mid_block.attentions.0", ("middle", 0), config.get("transformer_depth_middle") or 0, widths[-1])
    depths = reversed(config["transformer_depth_output"])  # written from the finest level
    number = 0
    for level, (width, count) in enumerate(zip(reversed(widths), reversed(counts), strict=True)):
        for i in range(count + 1):
            add(f"up_blocks.{level}.attentions.{i}", ("output", number + i), next(depths), width)
        number += count + 1  # the upsampler is part of the last of them
    return tuple(blocks)
