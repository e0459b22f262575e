"""Motion modules for SDXL: transformers along the frames, after each level's spatial layers.

AnimateDiff (Guo et al. 2023, https://arxiv.org/abs/2307.04725, branch `sdxl` of guoyww/AnimateDiff) and Hotshot-XL
(hotshotco/Hotshot-XL) published weights of one architecture that they run with different normalisation; see `FORMATS`.
Files are the matter of `motion_module_format`, the UNet around the modules is the hosts'.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import gelu, group_norm, scaled_dot_product_attention

SEQUENCES = 16384
"""Most sequences of frames (one for each place of the latent) in one piece: bounds the memory of the feed-forward, and
stays below the 65,535 that CUDA's attention kernels take at once."""


class Site(NamedTuple):
    """Where a temporal transformer stands: after layer `layer` of the UNet's block `block` going down, in the middle
    (both numbers 0) or going up, as diffusers counts them."""

    stage: str  # "down" | "mid" | "up"
    block: int
    layer: int

    @property
    def path(self) -> str:
        """Its path in diffusers' UNetMotionModel."""
        place = "mid_block" if self.stage == "mid" else f"{self.stage}_blocks.{self.block}"
        return f"{place}.motion_modules.{self.layer}"


@dataclass(frozen=True)
class Arithmetic:
    """How the authors of a format compute with it.

    cross_frame_norm: the transformers' own GroupNorm takes its mean and variance over all frames of a clip
    cross_frame_resnet_norms: so do the UNet's ResBlocks and its last norm; else each frame for itself, as SDXL does
    betas: first and last of the scaled-linear noise schedule of the training
    """

    cross_frame_norm: bool
    cross_frame_resnet_norms: bool
    betas: tuple[float, float]


FORMATS = {
    # configs/inference/inference.yaml and animatediff/models of guoyww/AnimateDiff, branch sdxl; diffusers is the same
    "animatediff": Arithmetic(True, False, (0.00085, 0.020)),
    # hotshot_xl/models of hotshotco/Hotshot-XL; fine_tune.py takes the schedule of SDXL itself
    "hotshot": Arithmetic(False, True, (0.00085, 0.012)),
}


@dataclass(frozen=True)
class MotionConfig:
    """What a motion module consists of.

    channels: width at each site; format: a key of FORMATS; max_frames: length of the position tables
    heads, groups: of the attention and of the GroupNorm, which divide every width
    blocks, attentions: transformer blocks at each site, and temporal attentions in each of them
    betas: of the training, where it was not on the format's own
    """

    channels: Mapping[Site, int]
    format: str = "animatediff"
    max_frames: int = 32
    heads: int = 8
    groups: int = 32
    blocks: int = 1
    attentions: int = 2
    betas: tuple[float, float] | None = None

    def __post_init__(self):
        if self.format not in FORMATS:
            raise ValueError(f"format is one of {', '.join(FORMATS)}, not {self.format!r}")
        odd = sorted({width for width in self.channels.values() if width % self.heads or width % self.groups})
        if odd:
            raise ValueError(f"{self.heads} heads and {self.groups} groups do not both divide a width of {odd[0]}")


class MotionModule(nn.Module):
    """A TemporalTransformer at each site, under its path in diffusers.

    operations: where Linear, LayerNorm and GroupNorm come from, as for TemporalSelfAttention.
    name: what kind of file it came from, for messages; metadata: what else the file says.
    """

    def __init__(
        self,
        config: MotionConfig,
        *,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        name: str = "a new motion module",
        metadata: Mapping[str, str] | None = None,
    ):
        super().__init__()
        self.config = config
        self.name = name
        self.metadata = dict(metadata or {})
        for site, width in config.channels.items():
            parent: nn.Module = self
            *folders, last = site.path.split(".")
            for folder in folders:
                if folder not in parent._modules:
                    parent.add_module(folder, nn.Module())
                parent = parent.get_submodule(folder)
            parent.add_module(last, TemporalTransformer(width, config, operations, {"dtype": dtype, "device": device}))

    @property
    def format(self) -> str:
        """Whose arithmetic it follows: "animatediff" or "hotshot"."""
        return self.config.format

    @property
    def max_frames(self) -> int:
        """Length of its position tables."""
        return self.config.max_frames

    @property
    def beta_schedule(self) -> tuple[float, float]:
        """(beta_start, beta_end) of the scaled-linear noise schedule that it was trained with."""
        return self.config.betas or FORMATS[self.format].betas

    @property
    def cross_frame_resnet_norms(self) -> bool:
        """Whether the UNet's ResBlock norms and conv_norm_out are to be `cross_frame_group_norm` as well."""
        return FORMATS[self.format].cross_frame_resnet_norms

    @property
    def channels(self) -> Mapping[Site, int]:
        """Site -> width."""
        return self.config.channels

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every site, in the order of the file."""
        return tuple(self.config.channels)

    def site(self, site: Site) -> TemporalTransformer:
        """The transformer at a site."""
        return self.get_submodule(site.path)  # type: ignore[return-value]

    def is_silent(self) -> bool:
        """Whether it can have no effect, every last projection being zero."""
        return not any(value.detach().any() for site in self.sites for value in self.site(site).proj_out.parameters())

    def describe(self) -> str:
        """A summary in lines of text."""
        widths = Counter(self.channels.values())
        places = ", ".join(f"{count} of {width} channels" for width, count in sorted(widths.items()))
        dtypes = sorted({str(value.dtype).removeprefix("torch.") for value in self.parameters()})
        start, end = self.beta_schedule
        norms = "of the UNet's ResBlocks" if self.cross_frame_resnet_norms else "of the module itself"
        lines = [
            f"{self.name}, {self.max_frames} positions",
            f"places: {len(self.sites)} ({places}), {self.config.heads} heads",
            f"parameters: {sum(value.numel() for value in self.parameters()):,} in {', '.join(dtypes)}",
            f"noise schedule of its training: scaled-linear, beta {start:g} to {end:g}",
            f"norms across frames: those {norms}",
        ]
        lines += [f"{key}: {value}" for key, value in sorted(self.metadata.items()) if key.startswith("trained_")]
        if self.is_silent():
            lines.append("warning: every last projection is zero, so this motion module cannot move anything")
        return "\n".join(lines)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Fresh values as AnimateDiff starts training with: silent by a zero `proj_out`, sinusoidal positions."""
        for layer in self.modules():
            if isinstance(layer, PositionTable):
                layer.pe.copy_(sinusoids(*layer.pe.shape[1:]))
            elif isinstance(layer, nn.Linear):
                layer.weight.uniform_(-(layer.in_features**-0.5), layer.in_features**-0.5)
                if layer.bias is not None:
                    layer.bias.zero_()
            elif isinstance(layer, nn.LayerNorm | nn.GroupNorm):
                layer.weight.fill_(1)
                layer.bias.zero_()
        for site in self.sites:
            self.site(site).proj_out.weight.zero_()


class TemporalTransformer(nn.Module):
    """Norm, projection, transformer blocks along the frames of each place, projection, and the input added."""

    def __init__(self, width: int, config: MotionConfig, operations: Any, where: dict[str, Any]):
        super().__init__()
        self.cross_frame_norm = FORMATS[config.format].cross_frame_norm
        self.max_frames = config.max_frames
        self.norm = operations.GroupNorm(config.groups, width, eps=1e-6, **where)
        self.proj_in = operations.Linear(width, width, **where)
        self.transformer_blocks = nn.ModuleList(
            TemporalBlock(width, config, operations, where) for _ in range(config.blocks)
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

    def __init__(self, width: int, config: MotionConfig, operations: Any, where: dict[str, Any]):
        super().__init__()
        count = range(config.attentions)
        self.attention_blocks = nn.ModuleList(TemporalAttention(width, config, operations, where) for _ in count)
        self.norms = nn.ModuleList(operations.LayerNorm(width, **where) for _ in count)
        self.ff = FeedForward(width, operations, where)
        self.ff_norm = operations.LayerNorm(width, **where)

    def forward(self, tokens: torch.Tensor, rows: slice | torch.Tensor) -> torch.Tensor:
        """tokens `[s f c]`; rows: of the position tables."""
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            tokens = tokens + attention(norm(tokens), rows)
        return tokens + self.ff(self.ff_norm(tokens))


class TemporalAttention(nn.Module):
    """Self-attention over frames; positions are added to what queries, keys and values are made from."""

    def __init__(self, width: int, config: MotionConfig, operations: Any, where: dict[str, Any]):
        super().__init__()
        self.heads = config.heads
        self.to_q, self.to_k, self.to_v = (operations.Linear(width, width, bias=False, **where) for _ in range(3))
        self.to_out = nn.ModuleList([operations.Linear(width, width, **where)])
        self.pos_encoder = PositionTable(config.max_frames, width, where)

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
