"""The file formats of temporal layers: a file is recognised by its contents, layers are saved by their class.

A new kind of temporal layers adds its Format to FORMATS.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..layers.adapter import TemporalAdapter
from ..layers.base import TemporalLayers
from ..layers.motion_module import MotionModule
from .adapter_file import convert_adapter, load_adapter, save_adapter
from .adapter_format import is_adapter_key
from .header import WeightsFileError
from .motion.file import convert_motion_module, load_motion_module, save_motion_module
from .motion.keys import split_key
from .motion.lora import is_motion_lora_key, load_motion_lora
from .torch_file import open_weights


@dataclass(frozen=True)
class Format:
    """The files of one kind of layers.

    owns: whether a key of a file belongs to this format
    load: (path, operations=, dtype=) -> layers; save: (layers, path, metadata)
    convert: (source, target, dtype) -> description of the file that was written
    """

    layers: type[TemporalLayers]
    owns: Callable[[str], object]
    load: Callable[..., TemporalLayers]
    save: Callable[..., None]
    convert: Callable[..., str]


MOTION_MODULE = Format(MotionModule, split_key, load_motion_module, save_motion_module, convert_motion_module)
ADAPTER = Format(TemporalAdapter, is_adapter_key, load_adapter, save_adapter, convert_adapter)
FORMATS = (MOTION_MODULE, ADAPTER)


def format_of(path: str | Path) -> Format:
    """Return the format of a file; the adapter's for a file of no format, because loading then says what is wrong."""
    path = Path(path)
    if path.is_dir() and (path / "config.json").is_file():
        return MOTION_MODULE
    keys = _keys(path)
    return next((known for known in FORMATS if any(map(known.owns, keys))), ADAPTER)


def load_layers(path: str | Path, *, operations: Any = nn, dtype: torch.dtype | None = None) -> TemporalLayers:
    """Return the temporal layers of a file, on the CPU, in `dtype` or else the file's own.

    operations: source of Linear and the norms, as for TemporalSelfAttention.

    Raises ValueError, naming the file, if it holds no sound temporal layers.
    """
    return format_of(path).load(path, operations=operations, dtype=dtype)


def save_layers(layers: TemporalLayers, path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write the layers as a file of their kind, whole or not at all. metadata: added to the layers' own.

    Raises ValueError for a tensor that is not finite and where the file cannot be written.
    """
    next(known for known in FORMATS if known.layers is type(layers)).save(layers, path, metadata)


def inspect_weights(path: str | Path) -> str:
    """Check a file of temporal layers or a motion LoRA as loading does and describe it.

    Raises ValueError, naming the file and its real kind.
    """
    if any(map(is_motion_lora_key, _keys(Path(path)))):
        return load_motion_lora(path).describe()
    return load_layers(path).describe()


def _keys(path: Path) -> Collection[str]:
    """Return the keys of a file, none if it cannot be read."""
    try:
        return open_weights(path, lambda key: is_motion_lora_key(key) or any(f.owns(key) for f in FORMATS)).shapes
    except (WeightsFileError, OSError):
        return ()
