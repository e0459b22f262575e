"""The temporal adapter in diffusers' UNet2DConditionModel.

diffusers' transformer block has one opening between self- and cross-attention: when `cross_attention_kwargs` holds
"gligen", it calls `self.fuser(hidden_states, objs)`, with objs from the UNet's `position_net`. A plain SDXL has neither
attribute, so the adapter takes both places with plain callables. They are no modules: parameters, names, state dict
and hooks of the UNet stay as they were. The call travels in the arguments of the blocks, so gradient checkpointing may
run a block again.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from .injection import Call, Injection, in_precision


class AdapterInjection(Injection):
    """An adapter in the `fuser` opening of every transformer block."""

    @staticmethod
    def sites(unet: nn.Module) -> dict[str, tuple[int, int]]:
        return {path: (block.norm1.normalized_shape[0], block.attn1.heads) for path, block in _blocks(unet).items()}

    def inject(self) -> None:
        blocks = _blocks(self.unet)
        if hasattr(self.unet, "position_net") or any(hasattr(block, "fuser") for block in blocks.values()):
            raise ValueError("The UNet has GLIGEN layers or another adapter. Detach that one or use a plain UNet.")
        for path, block in blocks.items():
            block.fuser = partial(in_precision, self.layers.site(path))
        self.unet.position_net = lambda call: call  # the blocks are given its result

    def eject(self) -> None:
        for block in _blocks(self.unet).values():
            del block.fuser
        del self.unet.position_net

    def run(
        self, call: Call, *args: Any, cross_attention_kwargs: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        options = {**(cross_attention_kwargs or {}), "gligen": {"call": call}}
        return self.unet(*args, cross_attention_kwargs=options, **kwargs)


def _blocks(unet: nn.Module) -> dict[str, Any]:
    """Return path -> BasicTransformerBlock."""
    from diffusers.models.attention import BasicTransformerBlock

    return {name: module for name, module in unet.named_modules() if isinstance(module, BasicTransformerBlock)}
