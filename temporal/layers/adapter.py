"""The temporal adapter: a TemporalSelfAttention in every transformer block of an SDXL UNet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .attention import TemporalSelfAttention
from .base import TemporalLayers


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter consists of.

    sites: diffusers path of a transformer block -> (channels, heads)
    max_frames: learned positions
    norm, pos_value: the optional parts of TemporalSelfAttention

    Raises ValueError unless there are sites and all have heads of one size, because the file holds one number for it.
    """

    sites: Mapping[str, tuple[int, int]]
    max_frames: int
    norm: bool
    pos_value: bool

    def __post_init__(self):
        if not self.sites:
            raise ValueError("an adapter needs at least one transformer block to sit in")
        odd = [f"{path}: {h} heads in {dim}" for path, (dim, h) in self.sites.items() if h < 1 or dim % h]
        sizes = {dim // h for dim, h in self.sites.values() if h > 0}
        if odd or len(sizes) != 1:
            raise ValueError(f"heads must all have one size; here: {'; '.join(odd) or sorted(sizes)}")

    @property
    def head_dim(self) -> int:
        """Channels of a head, the same at every site."""
        dim, heads = next(iter(self.sites.values()))
        return dim // heads


class TemporalAdapter(TemporalLayers):
    """One TemporalSelfAttention at each site. keywords: as for TemporalSelfAttention."""

    kind = "adapter"
    silence = "every gate or projection is zero"
    file_name = "adapter.safetensors"
    every_site = True

    def __init__(self, config: AdapterConfig, metadata: Mapping[str, str] | None = None, **keywords: Any):
        def new_site(shape: tuple[int, int]) -> TemporalSelfAttention:
            options = {"norm": config.norm, "pos_value": config.pos_value, **keywords}
            return TemporalSelfAttention(*shape, config.max_frames, **options)

        super().__init__(config, metadata, new_site)

    @classmethod
    def create(
        cls,
        sites: Mapping[str, tuple[int, int]],
        max_frames: int = 24,
        norm: bool = True,
        pos_value: bool = True,
        **keywords: Any,
    ) -> TemporalAdapter:
        """Return a new adapter, silent until it is trained. Arguments: as for AdapterConfig and the class."""
        return cls(AdapterConfig(dict(sites), max_frames, norm, pos_value), **keywords)

    @staticmethod
    def module_path(site: str) -> str:
        return f"{site}.temporal_attn"

    @staticmethod
    def describe_shape(shape: tuple[int, int]) -> str:
        return f"{shape[0]} channels in {shape[1]} heads"

    def loudness(self) -> dict[str, float]:
        """Return site -> largest |gate * proj|: 0 where the site adds nothing, whatever it sees."""

        def of_site(site: TemporalSelfAttention) -> float:
            return abs(site.gate.item()) * max(float(value.detach().abs().max()) for value in site.proj.parameters())

        return {path: of_site(self.site(path)) for path in self.sites}

    def is_silent(self) -> bool:
        return not any(self.loudness().values())

    def title(self) -> str:
        return self.metadata.get("modelspec.title", "SDXL temporal adapter")

    def facts(self) -> list[str]:
        gates = [self.site(path).gate.item() for path in self.sites]
        return [
            f"norm before attention: {'yes' if self.config.norm else 'no'}",
            f"positions in the values: {'yes' if self.config.pos_value else 'no'}",
            f"gates: {min(gates):.4g} to {max(gates):.4g}; "
            f"sites that add nothing: {sum(value == 0 for value in self.loudness().values())}",
        ]
