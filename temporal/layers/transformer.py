"""The transformer of motion modules: it runs along the frames of a clip, one pixel of the latent at a time.

The architecture is AnimateDiff's (Guo et al. 2023, https://arxiv.org/abs/2307.04725). Hotshot-XL shares it except for
the GroupNorm: AnimateDiff takes its statistics over all frames of a clip, Hotshot-XL over each frame.
"""

import math
from typing import Any

import torch
from einops import rearrange
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from .attention import sinusoids
from .clips import clips_as_images, count_clips

SEQUENCES = 16384
"""Most sequences of frames (one for each pixel of the latent) in one piece. The limit bounds the memory of the
feed-forward and stays below the 65,535 that CUDA's attention kernels take at once."""


class TemporalTransformer(nn.Module):
    """Norm, projection, transformer blocks along the frames of each pixel, projection, and the input added.

    width: channels; max_frames: length of the position tables
    cross_frame_norm: whether mean and variance of the norm are those of a clip rather than of each frame
    heads, groups: of attention and norm, which divide the width
    blocks, attentions: transformer blocks, and temporal attentions in each of them; where: dtype and device
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
        **where: Any,
    ):
        super().__init__()
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
        """Return x + strength * residual, for x `[(b f) c h w]` with f = frames.

        positions: LongTensor `[f]` of rows of the position tables, 0, 1, 2, ... by default.
        strength: a number, or a tensor that broadcasts over x.

        Raises ValueError if f does not divide the batch or exceeds the position tables.
        """
        clips, height = count_clips(x, frames), x.shape[2]
        if positions is None and frames > self.max_frames:
            raise ValueError(f"{frames} frames are more than the motion module's {self.max_frames} positions")
        if self.cross_frame_norm:
            tokens = rearrange(self.norm(clips_as_images(x, frames)), "b c (f h) w -> (b h w) f c", f=frames)
        else:
            tokens = rearrange(self.norm(x), "(b f) c h w -> (b h w) f c", f=frames)
        rows = slice(frames) if positions is None else positions
        residual = torch.cat([self._residual(piece, rows) for piece in tokens.split(SEQUENCES)])
        residual = rearrange(residual, "(b h w) f c -> (b f) c h w", b=clips, h=height)
        return x + strength * residual

    def _residual(self, tokens: torch.Tensor, rows: slice | torch.Tensor) -> torch.Tensor:
        """Return the residual of tokens `[s f c]`, whose pixels do not see each other."""
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
        """Return tokens `[s f c]` after the block; rows: of the position tables."""
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            tokens = tokens + attention(norm(tokens), rows)
        return tokens + self.ff(self.ff_norm(tokens))


class TemporalAttention(nn.Module):
    """Self-attention over frames; positions are added to the input of queries, keys and values."""

    def __init__(self, width: int, max_frames: int, heads: int, operations: Any, where: dict[str, Any]):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (operations.Linear(width, width, bias=False, **where) for _ in range(3))
        self.to_out = nn.ModuleList([operations.Linear(width, width, **where)])
        self.pos_encoder = PositionTable(max_frames, width, where)

    def forward(self, tokens: torch.Tensor, rows: slice | torch.Tensor) -> torch.Tensor:
        """Return the attention's output for tokens `[s f c]`."""
        tokens = tokens + self.pos_encoder.pe.to(tokens)[:, rows]
        q, k, v = (layer(tokens).unflatten(2, (self.heads, -1)) for layer in (self.to_q, self.to_k, self.to_v))
        mixed = scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))  # [s h f d]
        return self.to_out[0](mixed.transpose(1, 2).flatten(2))


class PositionTable(nn.Module):
    """`pe` `[1 f c]`, a buffer because its authors did not train it."""

    pe: torch.Tensor

    def __init__(self, frames: int, width: int, where: dict[str, Any]):
        super().__init__()
        self.register_buffer("pe", torch.empty(1, frames, width, **where))

    def reset(self) -> None:
        """Fill with sines and cosines in turn, as in both authors' tables."""
        _, frames, width = self.pe.shape
        rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
        self.pe.copy_(sinusoids(frames, rates, interleaved=True))


class FeedForward(nn.Module):
    """GEGLU (Shazeer 2020) of four times the width, under the names of diffusers and of the files."""

    def __init__(self, width: int, operations: Any, where: dict[str, Any]):
        super().__init__()
        gate = nn.Module()
        gate.proj = operations.Linear(width, 8 * width, **where)
        self.net = nn.ModuleList([gate, nn.Identity(), operations.Linear(4 * width, width, **where)])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the output for tokens of any shape `[... c]`."""
        value, gate = self.net[0].proj(tokens).chunk(2, dim=-1)
        return self.net[2](value * gelu(gate))
