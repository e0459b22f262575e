"""Conversion of adapters that torch.save wrote, or that lack metadata, into adapter files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from .adapter_file import assemble_adapter, save_adapter
from .adapter_format import check_tensors, is_adapter_key, reject_other_files, split_key
from .header import TensorInfo, WeightsFileError, naming
from .torch_file import OpenWeights, open_weights
from .values import TORCH_DTYPES, dtype_named, require_finite

# Prefixes and insertions of wrapping modules in the names of a state dict.
_WRAPPERS = re.compile(
    r"^.*?(?=(?:down_blocks|mid_block|up_blocks)\.)|_orig_mod\.|_checkpoint_wrapped_module\.|_fsdp_wrapped_module\."
)


def convert_adapter(
    source: str | os.PathLike,
    target: str | os.PathLike,
    metadata: Mapping[str, str] | None = None,
    dtype: str | None = None,
) -> str:
    """Convert a torch.save or safetensors file into an adapter file; return a description of it.

    source: a state dict of the adapter or of a whole UNet with it, also inside a dictionary or under prefixes of
    wrappers. No code in it is ever run. Values such as `trained_frames` beside the state dict become metadata.
    dtype: F32, F16 or BF16; None keeps the file's own.

    Raises WeightsFileError.
    """
    source, target = Path(source), Path(target)
    wanted = dtype_named(dtype)
    with naming(source):
        opened = open_weights(source, is_adapter_key)
        weights = _adapter_tensors(opened)
        if wanted is not None:
            weights = {key: value.to(wanted) for key, value in weights.items()}
        said = {**opened.metadata, **(metadata or {})}
        names = {dtype: name for name, dtype in TORCH_DTYPES.items()}
        infos = {key: TensorInfo(names.get(v.dtype, str(v.dtype)), tuple(v.shape)) for key, v in weights.items()}
        reject_other_files(infos or opened.shapes)
        config = check_tensors(infos, said)
        require_finite(weights)
    adapter = assemble_adapter(config, said, weights)
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
