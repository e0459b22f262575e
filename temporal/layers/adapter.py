"""The temporal adapter: a TemporalSelfAttention for every transformer block of an SDXL UNet, and its file.

The file is safetensors; `adapter_format` says what is in it. Loading checks the file in itself, and everything that can
be known from its header before a tensor is read. Whether an adapter fits a model is the hosts' question.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..weights.adapter_format import (
    CONVERT,
    DTYPES,
    FORMAT,
    VERSION,
    AdapterConfig,
    AdapterError,
    check_metadata,
    check_tensors,
    reject_other_files,
    require_uniform_heads,
)
from ..weights.header import TensorInfo, WeightsFileError, read_header, write_weights
from ..weights.listing import listed
from .attention import TemporalSelfAttention

__all__ = [
    "AdapterConfig",
    "AdapterError",
    "TemporalAdapter",
    "assemble_adapter",
    "inspect_adapter",
    "load_adapter",
    "require_finite",
    "save_adapter",
]

TORCH_DTYPES = dict(zip(DTYPES, (torch.float32, torch.float16, torch.bfloat16), strict=True))


class TemporalAdapter(nn.Module):
    """One TemporalSelfAttention at each site, under the names that the file has.

    config: sites, learned positions, which of the optional parts there are
    metadata: what the file said beyond that, or will say
    keywords: as for TemporalSelfAttention
    """

    def __init__(self, config: AdapterConfig, metadata: Mapping[str, str] | None = None, **keywords: Any):
        super().__init__()
        require_uniform_heads(config.sites)
        self.config = config
        self.metadata = dict(metadata or {})
        for path, (dim, heads) in config.sites.items():
            parent: nn.Module = self
            for name in path.split("."):
                if name not in parent._modules:
                    parent.add_module(name, nn.Module())
                parent = parent.get_submodule(name)
            parent.add_module(
                "temporal_attn",
                TemporalSelfAttention(
                    dim, heads, config.max_frames, config.norm, pos_value=config.pos_value, **keywords
                ),
            )

    @classmethod
    def create(
        cls,
        sites: Mapping[str, tuple[int, int]],
        max_frames: int = 24,
        norm: bool = True,
        pos_value: bool = True,
        **keywords: Any,
    ) -> TemporalAdapter:
        """A new adapter, silent until it is trained. sites: diffusers block path -> (channels, heads).

        Raises AdapterError if heads differ in size from site to site.
        """
        return cls(AdapterConfig(dict(sites), max_frames, norm, pos_value), **keywords)

    def site(self, path: str) -> TemporalSelfAttention:
        """The module for the transformer block at this diffusers path."""
        return self.get_submodule(f"{path}.temporal_attn")  # type: ignore[return-value]

    @property
    def trained_frames(self) -> int | None:
        """Frames a clip had in training, None if the file does not say."""
        text = self.metadata.get("trained_frames")
        return int(text) if text else None

    def loudness(self) -> dict[str, float]:
        """Site path -> largest |gate * proj|: 0 where the site adds nothing whatever it sees."""
        loudness = {}
        for path in self.config.sites:
            site = self.site(path)
            proj = max(float(value.detach().abs().max()) for value in (site.proj.weight, site.proj.bias))
            loudness[path] = abs(site.gate.item()) * proj
        return loudness

    def describe(self) -> str:
        """A summary in lines of text."""
        config = self.config
        widths = Counter(dim for dim, _ in config.sites.values())
        sites = ", ".join(f"{count} of {dim} channels" for dim, count in sorted(widths.items()))
        dtypes = sorted({str(value.dtype).removeprefix("torch.") for value in self.parameters()})
        loudness = self.loudness()
        gates = [self.site(path).gate.item() for path in config.sites]
        lines = [
            f"{self.metadata.get('modelspec.title', 'SDXL temporal adapter')} (format {VERSION})",
            f"sites: {len(config.sites)} ({sites}), heads of {config.head_dim}",
            f"parameters: {sum(value.numel() for value in self.parameters()):,} in {', '.join(dtypes)}",
            f"frames: up to {config.max_frames}, trained on {self.trained_frames or 'an unknown number'}",
            f"norm before attention: {'yes' if config.norm else 'no'}",
            f"positions in the values: {'yes' if config.pos_value else 'no'}",
            f"gates: {min(gates):.4g} to {max(gates):.4g}; "
            f"sites that add nothing: {sum(value == 0 for value in loudness.values())}",
        ]
        lines += [f"{key}: {value}" for key, value in sorted(self.metadata.items()) if key.startswith("trained_")]
        if not any(loudness.values()):
            lines.append("warning: every gate or projection is zero, so this adapter cannot move anything")
        return "\n".join(lines)


def load_adapter(path: str | os.PathLike, *, operations: Any = nn, dtype: torch.dtype | None = None) -> TemporalAdapter:
    """Load an adapter file on the CPU, in `dtype` or else the widest dtype in the file; warn if it is silent.

    Raises AdapterError, naming the file, if it is anything but a sound adapter.
    """
    path = Path(path)
    try:
        header = read_header(path)
        reject_other_files(header.tensors)
        check_metadata(header.metadata)
        config = check_tensors(header.tensors, header.metadata)
        if dtype is None:
            dtype = _widest(header.tensors)
        with safe_open(path, framework="pt", device="cpu") as file:
            weights = {key: file.get_tensor(key).to(dtype, copy=True) for key in header.tensors}
        require_finite(weights)
    except WeightsFileError as error:
        raise AdapterError(f"{path.name} {error}{' ' + CONVERT if error.pickle else ''}") from None
    except AdapterError as error:
        raise AdapterError(f"{path.name} {error}") from None
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path.name} cannot be read: {error}") from error
    adapter = assemble_adapter(config, header.metadata, weights, operations)
    if not any(adapter.loudness().values()):
        logging.warning("%s: every gate or projection is zero, so this adapter cannot move anything.", path.name)
    return adapter


def save_adapter(adapter: TemporalAdapter, path: str | os.PathLike, metadata: Mapping[str, str] | None = None) -> None:
    """Write the adapter as safetensors, whole or not at all. metadata: added to the adapter's own.

    Raises AdapterError for a tensor that is not finite and where the file cannot be written: a file that exists is then
    left as it was.
    """
    path = Path(path)
    weights = {key: value.detach().cpu().contiguous() for key, value in adapter.state_dict().items()}
    try:
        require_finite(weights)
    except AdapterError as error:
        raise AdapterError(f"{path.name} is not written: it {error}") from None
    said = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/temporal-adapter",
        "modelspec.implementation": "sdxl-anime-video",
        "modelspec.title": "SDXL temporal adapter",
        **adapter.metadata,
        **(metadata or {}),
        "format": FORMAT,
        "format_version": VERSION,
        "max_frames": str(adapter.config.max_frames),
        "head_dim": str(adapter.config.head_dim),
    }
    try:
        write_weights(path, weights, said)
    except WeightsFileError as error:
        raise AdapterError(str(error)) from error


def inspect_adapter(path: str | os.PathLike) -> str:
    """Check a file as loading does and describe it. Raises AdapterError."""
    return load_adapter(path).describe()


def assemble_adapter(
    config: AdapterConfig, metadata: Mapping[str, str], weights: dict[str, torch.Tensor], operations: Any
) -> TemporalAdapter:
    """An adapter around tensors that have been checked."""
    adapter = TemporalAdapter(config, metadata, operations=operations, device="meta")
    weights = {key: value.reshape(1) if key.endswith(".gate") else value for key, value in weights.items()}
    adapter.load_state_dict(weights, assign=True)
    return adapter


def _widest(tensors: Mapping[str, TensorInfo]) -> torch.dtype:
    """The dtype that holds every dtype of the file."""
    dtype = torch.float16 if any(info.dtype == "F16" for info in tensors.values()) else torch.bfloat16
    for info in tensors.values():
        dtype = torch.promote_types(dtype, TORCH_DTYPES[info.dtype])
    return dtype


def require_finite(weights: Mapping[str, torch.Tensor]) -> None:
    """Raise AdapterError that names tensors with NaN or infinity."""
    bad = [key for key, value in weights.items() if not torch.isfinite(value).all()]
    if bad:
        raise AdapterError(f"holds NaN or infinity in {listed(bad)}: its training diverged or the file is damaged.")
