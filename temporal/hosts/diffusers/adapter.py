"""The temporal adapter on diffusers' UNet2DConditionModel.

diffusers' transformer block has one opening between self- and cross-attention: when `cross_attention_kwargs` holds
"gligen", it calls `self.fuser(hidden_states, objs)`, with objs from the UNet's `position_net`. A plain SDXL has neither
attribute, so the adapter takes both places with plain callables. They are no modules: parameters, names, state dict
and hooks of the UNet stay as they were, and the UNet called on its own stays vanilla. The frame count travels in the
call's arguments, not in state, so gradient checkpointing may run a block again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ...layers.adapter import TemporalAdapter
from ...weights.fit import require_fit


class TemporalUNet(nn.Module):
    """A UNet with an adapter: called like the UNet, plus `num_frames` and `positions`.

    Attached from construction to `detach()`, which leaves the UNet exactly as it was; also a context manager.

    The two may differ in precision: the adapter then computes in the UNet's, as in ComfyUI. Under autocast PyTorch
    chooses for an adapter in fp32, whose gradients stay fp32 either way.

    Raises AdapterError if the adapter does not fit the UNet, and ValueError if the UNet's opening is taken.
    """

    def __init__(self, unet: nn.Module, adapter: TemporalAdapter, strength: float = 1.0):
        super().__init__()
        self.unet = unet
        self.adapter = adapter
        self.strength = strength
        self.attach()

    def attach(self) -> None:
        """Put the adapter into the UNet's blocks."""
        blocks = _blocks(self.unet)
        require_fit(self.adapter.config.sites, unet_sites(self.unet), type(self.unet).__name__)
        if hasattr(self.unet, "position_net") or any(hasattr(block, "fuser") for block in blocks.values()):
            raise ValueError("The UNet has GLIGEN layers or another adapter. Detach that one or use a plain UNet.")
        for path, block in blocks.items():
            block.fuser = _Site(self, path)
        self.unet.position_net = _pass_on

    def detach(self) -> nn.Module:
        """Take the adapter out again and return the UNet. Does nothing if it is not attached."""
        for block in _blocks(self.unet).values():
            if isinstance(block.__dict__.get("fuser"), _Site) and block.fuser.owner is self:
                del block.fuser
                self.unet.__dict__.pop("position_net", None)
        return self.unet

    def __enter__(self) -> TemporalUNet:
        return self

    def __exit__(self, *_: Any) -> None:
        self.detach()

    def forward(
        self,
        sample: torch.Tensor,
        *args: Any,
        num_frames: int,
        positions: torch.Tensor | None = None,
        cross_attention_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The UNet's output for sample `[(b f) c h w]`, f = num_frames; one frame is the plain UNet.

        positions: LongTensor `[f]`, see TemporalSelfAttention.
        """
        options = dict(cross_attention_kwargs or {})
        if num_frames > 1 and self.strength:
            options["gligen"] = {"num_frames": num_frames, "positions": positions}
        return self.unet(sample, *args, cross_attention_kwargs=options or None, **kwargs)


class _Site:
    """What a block calls in its opening."""

    def __init__(self, owner: TemporalUNet, path: str):
        self.owner = owner
        self.attention = owner.adapter.site(path)

    def __call__(self, x: torch.Tensor, frames: Mapping[str, Any]) -> torch.Tensor:
        site, keywords = self.attention, {**frames, "strength": self.owner.strength}
        dtype = site.to_qkv.weight.dtype
        if dtype == x.dtype or (dtype == torch.float32 and torch.is_autocast_enabled(x.device.type)):
            return site(x, **keywords)
        weights = {name: value.to(x.dtype) for name, value in site.named_parameters()}
        return torch.func.functional_call(site, weights, (x,), keywords)


def _pass_on(**frames: Any) -> Mapping[str, Any]:
    """In the place of GLIGEN's position_net: its arguments are what the blocks are given."""
    return frames


def unet_sites(unet: nn.Module) -> dict[str, tuple[int, int]]:
    """Path -> (channels, heads) of every transformer block, as TemporalAdapter.create wants it."""
    return {path: (block.norm1.normalized_shape[0], block.attn1.heads) for path, block in _blocks(unet).items()}


def _blocks(unet: nn.Module) -> dict[str, Any]:
    """Path -> BasicTransformerBlock."""
    from diffusers.models.attention import BasicTransformerBlock

    return {name: module for name, module in unet.named_modules() if isinstance(module, BasicTransformerBlock)}
