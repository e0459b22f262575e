"""Motion modules for SDXL: transformers along the frames, after each level's spatial layers.

AnimateDiff (Guo et al. 2023, https://arxiv.org/abs/2307.04725, branch `sdxl` of guoyww/AnimateDiff) and Hotshot-XL
(hotshotco/Hotshot-XL) published weights of one architecture that they run with different normalisation; see `FORMATS`.
Files are the matter of `motion_module_format`, the UNet around the modules is the hosts'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from .transformer import (
    PositionTable,
    TemporalTransformer,
    clips_as_images,
    cross_frame_group_norm,
    images_as_clips,
    sinusoids,
)

__all__ = [
    "FORMATS",
    "MotionConfig",
    "MotionModule",
    "Site",
    "TemporalTransformer",
    "clips_as_images",
    "cross_frame_group_norm",
    "images_as_clips",
]


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
        self.operations = operations
        self.name = name
        self.metadata = dict(metadata or {})
        for site, width in config.channels.items():
            parent: nn.Module = self
            *folders, last = site.path.split(".")
            for folder in folders:
                if folder not in parent._modules:
                    parent.add_module(folder, nn.Module())
                parent = parent.get_submodule(folder)
            parent.add_module(
                last,
                TemporalTransformer(
                    width,
                    config.max_frames,
                    FORMATS[config.format].cross_frame_norm,
                    heads=config.heads,
                    groups=config.groups,
                    blocks=config.blocks,
                    attentions=config.attentions,
                    operations=operations,
                    dtype=dtype,
                    device=device,
                ),
            )

    @property
    def format(self) -> str:
        """Whose arithmetic it follows: "animatediff" or "hotshot"."""
        return self.config.format

    @property
    def max_frames(self) -> int:
        """Length of its position tables."""
        return self.config.max_frames

    @property
    def trained_frames(self) -> int | None:
        """Frames a clip had in training, None if the file does not say."""
        text = self.metadata.get("trained_frames", "")
        return int(text) if text.isdecimal() and len(text) < 10 else None

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

    def like(self, state: Mapping[str, torch.Tensor]) -> MotionModule:
        """Another module of this kind around these tensors, which are not copied."""
        made = MotionModule(
            self.config, operations=self.operations, device="meta", name=self.name, metadata=self.metadata
        )
        made.load_state_dict(state, assign=True)
        return made

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
