"""Self-attention along the frames of a clip, one spatial token at a time."""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from .clips import count_clips


class TemporalSelfAttention(nn.Module):
    """`gate * proj(attention(norm(x)))` over frames, to be added to the tokens of a transformer block.

    dim: channels of a token; heads: attention heads, which divide dim; max_frames: learned positions.
    norm: a LayerNorm before the projection to q, k, v, or none.
    pos_value: learned positions for the values, too. Without them a frame cannot tell its place in the clip: positions
        on queries and keys alone weigh one frame against another, forward as backward, and the values that they weigh
        say nothing about time.
    init: how a new module is silent and still learns. "proj" zeroes `proj` and leaves the gate at 1, so the first step
        already moves a whole matrix; values start as the tokens themselves, not as a random mixture of them. "gate"
        zeroes the gate and leaves `proj` random. Give the gate its own learning rate then: one number moves by about
        one learning rate a step, and until it does, q, k and v get no gradient.
    operations: source of Linear and LayerNorm; ComfyUI's `comfy.ops.manual_cast` casts weights as it goes.

    The learned position `pos_emb` of a frame is split into heads and added to its queries and keys.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        max_frames: int = 24,
        norm: bool = True,
        *,
        pos_value: bool = True,
        init: str = "proj",
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"{heads} heads do not divide {dim} channels")
        if init not in ("proj", "gate"):
            raise ValueError(f"init must be 'proj' or 'gate', not {init!r}")
        where = {"dtype": dtype, "device": device}
        self.heads = heads
        self.max_frames = max_frames
        self.norm = operations.LayerNorm(dim, **where) if norm else None
        self.to_qkv = operations.Linear(dim, 3 * dim, **where)
        self.proj = operations.Linear(dim, dim, **where)
        self.pos_emb = nn.Parameter(torch.empty(max_frames, dim, **where))
        self.pos_value = nn.Parameter(torch.empty(max_frames, dim, **where)) if pos_value else None
        self.gate = nn.Parameter(torch.empty(1, **where))
        self.reset_parameters(init)

    @torch.no_grad()
    def reset_parameters(self, init: str = "proj") -> None:
        """Fill every parameter, because the layers of `operations` may start with arbitrary memory."""
        if self.norm is not None:
            self.norm.weight.fill_(1)
            self.norm.bias.zero_()
        bound = self.to_qkv.in_features**-0.5
        for layer in (self.to_qkv, self.proj):
            layer.weight.uniform_(-bound, bound)
            layer.bias.zero_()
        dim = self.to_qkv.in_features
        size = dim // self.heads
        self.pos_emb.copy_(head_sinusoids(self.max_frames, size, torch.linspace(1.0, 0.1, self.heads)))
        if self.pos_value is not None:
            self.pos_value.copy_(head_sinusoids(self.max_frames, size, torch.ones(self.heads)))
        self.gate.fill_(init == "proj")
        if init == "proj":
            self.to_qkv.weight[2 * dim :] = torch.eye(dim)
            self.proj.weight.zero_()

    def forward(
        self,
        x: torch.Tensor,
        num_frames: int,
        positions: torch.Tensor | None = None,
        strength: float | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the residual for x `[(b f) s c]`; with `strength`, `x + strength * residual` in one pass.

        num_frames: f, at most `max_frames` unless positions are given.
        positions: LongTensor `[f]` of rows of `pos_emb`, on x's device; by default 0, 1, 2, ...

        Raises ValueError if f does not divide the batch or exceeds the learned positions.
        """
        clips, tokens = count_clips(x, num_frames), x.shape[1]
        if positions is None and num_frames > self.max_frames:
            raise ValueError(f"{num_frames} frames are more than the {self.max_frames} learned positions")

        qkv = self.to_qkv(x if self.norm is None else self.norm(x))  # [(b f) s (3 h d)], in token order
        rows = slice(num_frames) if positions is None else positions
        qkv = qkv.view(clips, num_frames, tokens, 3, self.heads, -1)
        # `to`: the positions may have been left on another device.
        qkv[:, :, :, :2] += self.pos_emb.to(qkv)[rows].view(num_frames, 1, 1, self.heads, -1)
        if self.pos_value is not None:
            qkv[:, :, :, 2] += self.pos_value.to(qkv)[rows].view(num_frames, 1, self.heads, -1)

        # Attention takes strided views, so nothing is copied on the way in. One call per clip, because the strides of
        # [(b s) h f d] exist only within a clip. The result is written as [s f h d].
        q, k, v = qkv.permute(3, 0, 2, 4, 1, 5)  # 3 x [b s h f d]
        mixed = [scaled_dot_product_attention(q[i], k[i], v[i]).transpose(1, 2).flatten(2) for i in range(clips)]
        out = self.proj(torch.stack(mixed) if clips > 1 else mixed[0][None])  # [b s f c]

        out = out.transpose(1, 2)  # [b f s c], a view
        gate = self.gate.to(out)
        if strength is None:
            return (gate * out).reshape(x.shape)
        return torch.addcmul(x.view(out.shape), out, gate * strength).reshape(x.shape)


def head_sinusoids(frames: int, head_dim: int, amplitudes: torch.Tensor) -> torch.Tensor:
    """Return first values of positions, `[frames, heads * head_dim]`: sinusoids in every head times its amplitude
    `[heads]`.

    The product of two positions is largest where they are the same, falls with their distance and depends on nothing
    else. So with `pos_emb` strong heads begin by attending to a frame itself and its neighbours, faint ones to the
    whole clip. Learned positions that start near zero get next to no gradient: it is in proportion to the other
    frame's.
    """
    rates = 0.5 * torch.pi * 100.0 ** -(torch.arange(0, head_dim, 2) / head_dim)
    wave = sinusoids(frames, rates)[:, :head_dim]
    return (amplitudes[:, None] * wave[:, None]).flatten(1)


def sinusoids(frames: int, rates: torch.Tensor, interleaved: bool = False) -> torch.Tensor:
    """Return sines and cosines `[frames, 2 r]` of the frame number times each of the rates `[r]`.

    interleaved: sine and cosine in turn, else all sines before all cosines (Vaswani et al. 2017, arXiv:1706.03762).
    """
    angle = torch.arange(frames)[:, None] * rates
    return torch.stack([angle.sin(), angle.cos()], dim=2 if interleaved else 1).flatten(1)
