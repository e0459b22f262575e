"""Motion modules for SDXL: transformers along the frames, after each level's spatial layers.

AnimateDiff (Guo et al. 2023, https://arxiv.org/abs/2307.04725, branch `sdxl` of guoyww/AnimateDiff) and Hotshot-XL
(hotshotco/Hotshot-XL) published weights of one architecture that they run with different normalisation; see `FORMATS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from .base import TemporalLayers
from .transformer import PositionTable, TemporalTransformer


class Site(NamedTuple):
    """Where a temporal transformer stands: after layer `layer` of the UNet's block `block` on the way down, in the
    middle (both numbers 0) or on the way up, as diffusers counts them."""

    direction: str  # "down" | "mid" | "up"
    block: int
    layer: int

    @property
    def path(self) -> str:
        """Its path in diffusers' UNetMotionModel."""
        block = "mid_block" if self.direction == "mid" else f"{self.direction}_blocks.{self.block}"
        return f"{block}.motion_modules.{self.layer}"

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class Arithmetic:
    """How the authors of a format compute with it.

    cross_frame_norm: the GroupNorm of the transformers takes mean and variance over all frames of a clip
    cross_frame_resnet_norms: the norms of the UNet's ResBlocks and its last norm do, too; else they work frame by frame
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

    sites: site -> channels; format: a key of FORMATS; max_frames: length of the position tables
    heads, groups: of the attention and of the GroupNorm, which divide every width
    blocks, attentions: transformer blocks at each site, and temporal attentions in each of them
    betas: of the training, where it did not use the format's own

    Raises ValueError for an unknown format and for a width that heads or groups do not divide.
    """

    sites: Mapping[Site, int]
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
        odd = sorted({width for width in self.sites.values() if width % self.heads or width % self.groups})
        if odd:
            raise ValueError(f"{self.heads} heads and {self.groups} groups do not both divide a width of {odd[0]}")


class MotionModule(TemporalLayers):
    """A TemporalTransformer at each site, under its path in diffusers.

    name: of the file's layout; keywords: `operations`, `dtype` and `device`, as for TemporalSelfAttention
    """

    kind = "motion module"
    silence = "every last projection is zero"
    file_name = "motion_module.safetensors"

    def __init__(
        self,
        config: MotionConfig,
        metadata: Mapping[str, str] | None = None,
        name: str = "a new motion module",
        **keywords: Any,
    ):
        def new_site(width: int) -> TemporalTransformer:
            options = {field: getattr(config, field) for field in ("heads", "groups", "blocks", "attentions")}
            norm = FORMATS[config.format].cross_frame_norm
            return TemporalTransformer(width, config.max_frames, norm, **options, **keywords)

        super().__init__(config, metadata, new_site)
        self.name = name

    @staticmethod
    def module_path(site: Site) -> str:
        return site.path

    @property
    def format(self) -> str:
        """Whose arithmetic it follows: "animatediff" or "hotshot"."""
        return self.config.format

    @property
    def beta_schedule(self) -> tuple[float, float]:
        return self.config.betas or FORMATS[self.format].betas

    @property
    def cross_frame_resnet_norms(self) -> bool:
        """Whether the UNet's ResBlock norms and conv_norm_out are to take mean and variance over a clip as well."""
        return FORMATS[self.format].cross_frame_resnet_norms

    def is_silent(self) -> bool:
        return not any(value.detach().any() for site in self.sites for value in self.site(site).proj_out.parameters())

    def title(self) -> str:
        return self.name

    def facts(self) -> list[str]:
        start, end = self.beta_schedule
        norms = "of the UNet's ResBlocks" if self.cross_frame_resnet_norms else "of the module itself"
        return [
            f"attention heads: {self.config.heads}",
            f"noise schedule of its training: scaled-linear, beta {start:g} to {end:g}",
            f"norms across frames: those {norms}",
        ]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Fill with the values that AnimateDiff starts training with: a zero `proj_out`, sinusoidal positions."""
        for layer in self.modules():
            if isinstance(layer, PositionTable):
                layer.reset()
            elif isinstance(layer, nn.Linear):
                layer.weight.uniform_(-(layer.in_features**-0.5), layer.in_features**-0.5)
                if layer.bias is not None:
                    layer.bias.zero_()
            elif isinstance(layer, nn.LayerNorm | nn.GroupNorm):
                layer.weight.fill_(1)
                layer.bias.zero_()
        for site in self.sites:
            self.site(site).proj_out.weight.zero_()
