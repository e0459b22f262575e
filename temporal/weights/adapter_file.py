"""Reading and writing adapter files, and conversion of those that torch.save wrote or that lack metadata.

Loading checks the file in itself, and everything that its header says before a tensor is read. Whether an adapter fits
a model is checked by `fit`.
"""

import logging
import re
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from ..layers.adapter import AdapterConfig, TemporalAdapter
from .adapter_format import (
    CONVERT,
    FORMAT,
    VERSION,
    check_metadata,
    check_tensors,
    is_adapter_key,
    reject_other_files,
    split_key,
)
from .header import TensorInfo, WeightsFileError, naming, read_header
from .torch_file import OpenWeights, open_weights
from .values import TORCH_DTYPES, require_finite, write_finite

# Prefixes and insertions of wrapping modules in the names of a state dict.
_WRAPPERS = re.compile(
    r"^.*?(?=(?:down_blocks|mid_block|up_blocks)\.)|_orig_mod\.|_checkpoint_wrapped_module\.|_fsdp_wrapped_module\."
)


def load_adapter(path: str | Path, *, operations: Any = nn, dtype: torch.dtype | None = None) -> TemporalAdapter:
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
            dtype = reduce(torch.promote_types, (TORCH_DTYPES[info.dtype] for info in header.tensors.values()))
        with safe_open(path, framework="pt", device="cpu") as file:
            weights = {key: file.get_tensor(key).to(dtype, copy=True) for key in header.tensors}
        require_finite(weights)
    adapter = _assemble(config, header.metadata, weights, operations)
    if warning := adapter.silent_warning():
        logging.warning("%s: %s.", path.name, warning)
    return adapter


def save_adapter(adapter: TemporalAdapter, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
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


def convert_adapter(source: str | Path, target: str | Path, dtype: torch.dtype | None = None) -> str:
    """Convert a torch.save or safetensors file into an adapter file; return a description of it.

    source: a state dict of the adapter or of a whole UNet with it, also inside a dictionary or under prefixes of
    wrappers. No code in it is ever run. Values such as `trained_frames` beside the state dict become metadata.
    dtype: None keeps the file's own.

    Raises WeightsFileError.
    """
    source, target = Path(source), Path(target)
    with naming(source):
        opened = open_weights(source, is_adapter_key)
        weights = _adapter_tensors(opened)
        if dtype is not None:
            weights = {key: value.to(dtype) for key, value in weights.items()}
        names = {known: name for name, known in TORCH_DTYPES.items()}
        infos = {key: TensorInfo(names.get(v.dtype, str(v.dtype)), tuple(v.shape)) for key, v in weights.items()}
        reject_other_files(infos or opened.shapes)
        config = check_tensors(infos, opened.metadata)
        require_finite(weights)
    adapter = _assemble(config, opened.metadata, weights)
    save_adapter(adapter, target)
    return adapter.describe()


def _adapter_tensors(opened: OpenWeights) -> dict[str, torch.Tensor]:
    """Return copies of the adapter's tensors under the format's names."""
    weights: dict[str, torch.Tensor] = {}
    for key in opened.shapes:
        name = _WRAPPERS.sub("", key)
        if split_key(name) is None:
            continue
        if name in weights:
            raise WeightsFileError(f"holds {name} more than once. Save one state dict, not a collection.")
        weights[name] = opened.read(key).detach().clone()
    return weights


def _assemble(
    config: AdapterConfig, metadata: Mapping[str, str], weights: Mapping[str, torch.Tensor], operations: Any = nn
) -> TemporalAdapter:
    """Return an adapter around tensors that have been checked."""
    weights = {key: value.reshape(1) if key.endswith(".gate") else value for key, value in weights.items()}
    return TemporalAdapter.around(config, weights, metadata=metadata, operations=operations)
