"""Reading and writing adapter files.

Loading checks the file in itself, and everything that its header says before a tensor is read. Whether an adapter fits
a model is checked by `fit`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from ..layers.adapter import AdapterConfig, TemporalAdapter
from .adapter_format import CONVERT, FORMAT, VERSION, check_metadata, check_tensors, reject_other_files
from .header import naming, read_header
from .values import require_finite, widest, write_finite


def load_adapter(path: str | os.PathLike, *, operations: Any = nn, dtype: torch.dtype | None = None) -> TemporalAdapter:
    """Return the adapter of a file, on the CPU, in `dtype` or else the widest dtype in the file; warn if it is silent.

    Raises WeightsFileError, naming the file, if it is anything but a sound adapter.
    """
    path = Path(path)
    with naming(path, CONVERT):
        header = read_header(path)
        reject_other_files(header.tensors)
        check_metadata(header.metadata)
        config = check_tensors(header.tensors, header.metadata)
        if dtype is None:
            dtype = widest(info.dtype for info in header.tensors.values())
        with safe_open(path, framework="pt", device="cpu") as file:
            weights = {key: file.get_tensor(key).to(dtype, copy=True) for key in header.tensors}
        require_finite(weights)
    adapter = assemble_adapter(config, header.metadata, weights, operations)
    if warning := adapter.silent_warning():
        logging.warning("%s: %s.", path.name, warning)
    return adapter


def save_adapter(adapter: TemporalAdapter, path: str | os.PathLike, metadata: Mapping[str, str] | None = None) -> None:
    """Write the adapter as safetensors, whole or not at all. metadata: added to the adapter's own.

    Raises WeightsFileError for a tensor that is not finite and where the file cannot be written.
    """
    said = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/temporal-adapter",
        "modelspec.implementation": "sdxl-anime-video",
        "modelspec.title": "SDXL temporal adapter",
        **adapter.metadata,
        **(metadata or {}),
        "format": FORMAT,
        "format_version": VERSION,
        "max_frames": str(adapter.max_frames),
        "head_dim": str(adapter.config.head_dim),
    }
    write_finite(Path(path), adapter.state_dict(), said)


def assemble_adapter(
    config: AdapterConfig, metadata: Mapping[str, str], weights: Mapping[str, torch.Tensor], operations: Any = nn
) -> TemporalAdapter:
    """Return an adapter around tensors that have been checked."""
    weights = {key: value.reshape(1) if key.endswith(".gate") else value for key, value in weights.items()}
    return TemporalAdapter.around(config, weights, metadata=metadata, operations=operations)
