"""The toon world's ControlNet in diffusers' classes, from its file in the layout of the first ControlNets."""

import re
from collections.abc import Callable
from typing import Any

from .model import ENCODER, WEIGHTS

CONFIG = {**ENCODER, "conditioning_embedding_out_channels": (16, 32, 96, 256)}  # core's loader knows no others


def load_toon_controlnet(hint: str = "pose") -> Any:
    """The ControlNetModel of the pack's file for a kind of hint, fp32."""
    from diffusers import ControlNetModel
    from safetensors.torch import load_file

    stored = load_file(WEIGHTS.parent / "controlnet" / "toon" / f"toon_{hint}.safetensors")
    network = ControlNetModel(**CONFIG)
    network.load_state_dict({key: stored[first_name(key)].float() for key in network.state_dict()})
    return network.eval()


_WITH_NUMBERS: tuple[tuple[str, Callable[[int], str]], ...] = (
    (r"down_blocks\.(\d+)\.resnets\.0", lambda i: f"input_blocks.{2 * i + 1}.0"),
    (r"down_blocks\.(\d+)\.attentions\.0", lambda i: f"input_blocks.{2 * i + 1}.1"),
    (r"down_blocks\.(\d+)\.downsamplers\.0\.conv", lambda i: f"input_blocks.{2 * i + 2}.0.op"),
    (r"controlnet_down_blocks\.(\d+)", lambda i: f"zero_convs.{i}.0"),
    (r"controlnet_cond_embedding\.blocks\.(\d+)", lambda i: f"input_hint_block.{2 * i + 2}"),
)
_PLAIN = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "controlnet_mid_block": "middle_block_out.0",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0",
    "controlnet_cond_embedding.conv_out": "input_hint_block.14",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def first_name(key: str) -> str:
    """diffusers' name of a weight of the toon ControlNet in the layout of the first ControlNets."""
    for pattern, name in _WITH_NUMBERS:
        if match := re.match(pattern + r"\.", key):
            start, rest = name(int(match[1])), key[match.end() :]
            break
    else:
        old = next(old for old in _PLAIN if key.startswith(old + "."))
        start, rest = _PLAIN[old], key[len(old) + 1 :]
    if ".resnets." in key:
        layer, _, rest = rest.partition(".")
        rest = f"{_RESNET[layer]}.{rest}"
    return f"{start}.{rest}"
