"""Adapters that were written by torch.save, or without metadata, turned into adapter files."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from ..layers.adapter import TORCH_DTYPES, assemble_adapter, require_finite, save_adapter
from .adapter_format import AdapterError, check_tensors, reject_other_files, split_key
from .header import TensorInfo, WeightsFileError, read_header

# What wrapping modules put before or into the names of a state dict.
_WRAPPERS = re.compile(
    r"^.*?(?=(?:down_blocks|mid_block|up_blocks)\.)|_orig_mod\.|_checkpoint_wrapped_module\.|_fsdp_wrapped_module\."
)


def convert_adapter(
    source: str | os.PathLike,
    target: str | os.PathLike,
    metadata: Mapping[str, str] | None = None,
    dtype: str | None = None,
) -> str:
    """Turn a file by torch.save, or safetensors, into an adapter file; describe the result.

    source: a state dict of the adapter or of a whole UNet that holds it, perhaps inside a dictionary or under
    prefixes that wrappers add. It is read with `weights_only=True`: no code in it is ever run. What stands beside the
    state dict under names as `trained_frames` becomes metadata. dtype: F32, F16 or BF16; the file's own if None.

    Raises AdapterError.
    """
    source, target = Path(source), Path(target)
    if dtype is not None and dtype not in TORCH_DTYPES:
        raise AdapterError(f"--dtype {dtype} is none of {', '.join(TORCH_DTYPES)}; give one of these.")
    try:
        found, own = _read_any(source)
        weights = _adapter_tensors(found)
        if dtype is not None:
            weights = {key: value.to(TORCH_DTYPES[dtype]) for key, value in weights.items()}
        said = {**own, **(metadata or {})}
        names = {dtype: name for name, dtype in TORCH_DTYPES.items()}
        infos = {key: TensorInfo(names.get(v.dtype, str(v.dtype)), tuple(v.shape)) for key, v in weights.items()}
        reject_other_files(infos or found)
        config = check_tensors(infos, said)
        require_finite(weights)
    except AdapterError as error:
        raise AdapterError(f"{source.name} {error}") from None
    adapter = assemble_adapter(config, said, weights, nn)
    save_adapter(adapter, target)
    return adapter.describe()


def _adapter_tensors(found: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies of the adapter's tensors, each with memory of its own, under the format's names."""
    weights: dict[str, torch.Tensor] = {}
    for key, value in found.items():
        name = _WRAPPERS.sub("", key)
        if split_key(name) is None:
            continue
        if name in weights:
            raise AdapterError(f"holds {name} more than once. Save one state dict, not a collection.")
        if value.layout != torch.strided or value.is_meta or value.is_nested:
            raise AdapterError(f"holds {name} without plain values. Save it again as a dense tensor on the CPU.")
        weights[name] = value.detach().clone()
    return weights


def _read_any(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors or torch.save file."""
    try:
        header = read_header(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in header.tensors}, header.metadata
    except WeightsFileError as error:
        if not error.pickle:
            raise AdapterError(str(error)) from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever it meets in a damaged file
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise AdapterError(
            f"cannot be read as tensors alone ({first}). Save it again with torch.save(model.state_dict(), ...) where "
            "it was made."
        ) from None
    inner = list(_dictionaries(content))
    states = [tensors for some in inner if (tensors := {str(k): v for k, v in some.items() if torch.is_tensor(v)})]
    if not states:
        raise AdapterError("holds no state dict of tensors. Save model.state_dict() where it was made.")
    said = {
        key: str(value)
        for some in reversed(inner)  # the outermost has the last word
        for key, value in some.items()
        if str(key).startswith("trained_") and isinstance(value, str | int | float)
    }
    return next((state for state in states if any(".temporal_attn." in key for key in state)), states[0]), said


def _dictionaries(content: Any) -> Iterator[dict[Any, Any]]:
    """A dictionary and those inside it, the outermost first, each once: a pickle may hold itself."""
    waiting, seen = deque([content]), set()
    while waiting:
        found = waiting.popleft()
        if isinstance(found, dict) and id(found) not in seen:
            seen.add(id(found))
            waiting.extend(found.values())
            yield found
