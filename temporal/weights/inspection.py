"""What a file of temporal weights is, for the verbs that take any of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from .adapter_file import inspect_adapter
from .header import WeightsFileError
from .motion_lora import is_motion_lora_key, load_motion_lora
from .motion_module_format import describe
from .motion_module_keys import split_key
from .torch_file import open_weights


def kind_of(path: str | os.PathLike) -> Literal["adapter", "motion module", "motion LoRA"]:
    """What a file is, by its contents; "adapter" for one that is none of these: loading it says what is wrong."""
    path = Path(path)
    if path.is_dir() and (path / "config.json").is_file():
        return "motion module"
    try:
        keys = open_weights(path, lambda key: is_motion_lora_key(key) or split_key(key)).shapes
    except (WeightsFileError, OSError):
        return "adapter"
    if any(map(is_motion_lora_key, keys)):
        return "motion LoRA"
    return "motion module" if any(split_key(key) for key in keys) else "adapter"


def inspect_weights(path: str | os.PathLike) -> str:
    """Check a temporal adapter, a motion module or a motion LoRA as loading does and describe it.

    Raises AdapterError or MotionModuleError, naming the file and saying what it is instead.
    """
    kind = kind_of(path)
    if kind == "motion LoRA":
        return load_motion_lora(path).describe()
    return describe(path) if kind == "motion module" else inspect_adapter(path)
