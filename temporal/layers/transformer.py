"""A transformer along the frames of a clip, one place of the latent at a time, as motion modules consist of.

The architecture of AnimateDiff (Guo et al. 2023, https://arxiv.org/abs/2307.04725), which Hotshot-XL shares but for the
GroupNorm: AnimateDiff takes its statistics over all frames of a clip, Hotshot-XL over each.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn.functional import gelu, group_norm, scaled_dot_product_attention

SEQUENCES = 16384
"""Most sequences of frames (one for each place of the latent) in one piece: bounds the memory of the feed-forward, and
stays below the 65,535 that CUDA's attention kernels take at once."""


class TemporalTransformer(nn.Module):
    """Norm, projection, transformer blocks along the frames of each place, projection, and the input added.

    width: channels; max_frames: length of the position tables; cross_frame_norm: whether the norm's mean and variance
    are those of a clip rather than of each frame; heads, groups: of attention and norm, which divide the width; blocks,
    attentions: how many there are, and of temporal attentions in each.
    """

    def __init__(
        self,
        width: int,
        max_frames: int,
        cross_frame_norm: bool,
        *,
        heads: int = 8,
        groups: int = 32,
        blocks: int = 1,
        attentions: int = 2,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        where = {"dtype": dtype, "device": device}
        self.cross_frame_norm = cross_frame_norm
        self.max_frames = max_frames
        self.norm = operations.GroupNorm(groups, width, eps=1e-6, **where)
        self.proj_in = operations.Linear(width, width, **where)
        self.transformer_blocks = nn.ModuleList(
            TemporalBlock(width, max_frames, heads, attentions, operations, where) for _ in range(blocks)
        )
        self.proj_out = operations.Linear(width, width, **where)

    def forward(
        self,
        x: torch.Tensor,
        frames: int,
        positions: torch.Tensor | None = None,
        strength: float | torch.Tensor = 1.0,
    ) -> torch.Tensor:
        """x + strength * residual, for x `[(b f) c h w]` with f = frames.

        positions: LongTensor `[f]` of rows of the position tables, 0, 1, 2, ... by default.
        strength: a number, or a tensor that broadcasts over x.

        Raises ValueError if f does not divide the batch, or is beyond the position tables.
        """
        clips = count_clips(x, frames)
        if positions is None and frames > self.max_frames:
            raise ValueError(f"{frames} frames are more than the motion module's {self.max_frames} positions")
        if self.cross_frame_norm:
            tokens = self.norm(clips_as_images(x, frames)).unflatten(2, (frames, -1))  # [b c f h w]
            tokens = tokens.flatten(3).permute(0, 3, 2, 1)  # [b c f s] -> [b s f c]
        else:
            tokens = self.norm(x).flatten(2).unflatten(0, (clips, frames)).permute(0, 3, 1, 2)  # [b f c s] -> [b s f c]
        tokens = tokens.flatten(0, 1)  # [(b s) f c]
        rows = slice(frames) if positions is None else positions
        residual = torch.cat([self._residual(piece, rows) for piece in tokens.split(SEQUENCES)])
        residual = residual.unflatten(0, (clips, -1)).permute(0, 2, 3, 1).reshape(x.shape)  # [b s f c] -> [b f c s]
        return x + strength * residual

    def _residual(self, tokens: torch.Tensor, rows: slice | torch.Tensor) -> torch.Tensor:
        """Of tokens `[s f c]`, whose places know nothing of each other."""
        tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens, rows)
        return self.proj_out(tokens)


class TemporalBlock(nn.Module):
    """Temporal self-attentions, each with a norm before it, and a feed-forward."""

    def __init__(
        self, width: int, max_frames: int, heads: int, attentions: int, operations: Any, where: dict[str, Any]
    ):
        super().__init__()
        self.attention_blocks = nn.ModuleList(
            TemporalAttention(width, max_frames, heads, operations, where) for _ in range(attentions)
        )
        self.norms = nn.ModuleList(operations.LayerNorm(width, **where) for _ in range(attentions))
        self.ff = FeedForward(width, operations, where)
        self.ff_norm = operations.LayerNorm(width, **where)

    def forward(self, tokens: torch.Tensor, rows: slice | torch.Tensor) -> torch.Tensor:
        """tokens `[s f c]`; rows: of the position tables."""
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            tokens = tokens + attention(norm(tokens), rows)
        return tokens + self.ff(self.ff_norm(tokens))


class TemporalAttention(nn.Module):
    """Self-attention over frames; positions are added to what queries, keys and values are made from."""

    def __init__(self, width: int, max_frames: int, heads: int, operations: Any, where: dict[str, Any]):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (operations.Linear(width, width, bias=False, **where) for _ in range(3))
        self.to_out = nn.ModuleList([operations.Linear(width, width, **where)])
        self.pos_encoder = PositionTable(max_frames, width, where)

    def forward(self, tokens: torch.Tensor, rows: slice | torch.Tensor) -> torch.Tensor:
        """tokens `[s f c]`."""
        tokens = tokens + self.pos_encoder.pe.to(tokens)[:, rows]
        q, k, v = (layer(tokens).unflatten(2, (self.heads, -1)) for layer in (self.to_q, self.to_k, self.to_v))
        mixed = scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))  # [s h f d]
        return self.to_out[0](mixed.transpose(1, 2).flatten(2))


class PositionTable(nn.Module):
    """`pe` `[1 f c]`: not trained by its authors, so no parameter."""

    pe: torch.Tensor

    def __init__(self, frames: int, width: int, where: dict[str, Any]):
        super().__init__()
        self.register_buffer("pe", torch.empty(1, frames, width, **where))


class FeedForward(nn.Module):
    """GEGLU (Shazeer 2020) of four times the width. The names are diffusers', which the files have."""

    def __init__(self, width: int, operations: Any, where: dict[str, Any]):
        super().__init__()
        gate = nn.Module()
        gate.proj = operations.Linear(width, 8 * width, **where)
        self.net = nn.ModuleList([gate, nn.Identity(), operations.Linear(4 * width, width, **where)])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Any shape `[... c]`."""
        value, gate = self.net[0].proj(tokens).chunk(2, dim=-1)
        return self.net[2](value * gelu(gate))


def cross_frame_group_norm(
    x: torch.Tensor,
    frames: int,
    groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """GroupNorm of x `[(b f) c h w]` whose mean and variance are those of a clip of f = frames, not of each frame.

    Raises ValueError if f does not divide the batch.
    """
    return images_as_clips(group_norm(clips_as_images(x, frames), groups, weight, bias, eps), frames)


def count_clips(x: torch.Tensor, frames: int) -> int:
    """b of x `[(b f) ...]`. Raises ValueError if f = frames does not divide the batch."""
    clips, rest = divmod(x.shape[0], frames)
    if rest:
        raise ValueError(f"a batch of {x.shape[0]} does not hold clips of {frames} frames")
    return clips


def clips_as_images(x: torch.Tensor, frames: int) -> torch.Tensor:
    """[(b f) c h w] -> [b c (f h) w], so that a GroupNorm sees a clip as one image. h and w may be anything."""
    clips = x.unflatten(0, (count_clips(x, frames), frames)).transpose(1, 2)  # [b c f h w]
    return clips.flatten(2, 3)


def images_as_clips(x: torch.Tensor, frames: int) -> torch.Tensor:
    """[b c (f h) w] -> [(b f) c h w], the inverse of `clips_as_images`."""
    return x.unflatten(2, (frames, -1)).transpose(1, 2).flatten(0, 1)


def sinusoids(frames: int, width: int) -> torch.Tensor:
    """Positions `[frames, width]`, sine and cosine in turn (Vaswani et al. 2017), as both authors' tables have them."""
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angle = torch.arange(frames)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
