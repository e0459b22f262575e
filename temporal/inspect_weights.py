"""What a file of temporal weights is, for `sdxl-anime-video inspect`."""

from __future__ import annotations

import os
from pathlib import Path

from .adapter import inspect_adapter
from .motion_lora import is_motion_lora, load_motion_lora
from .motion_module_format import describe, open_weights
from .motion_module_keys import MotionModuleError, split_key
from .weights_file import WeightsFileError


def inspect_weights(path: str | os.PathLike) -> str:
    """Check a temporal adapter, a motion module or a motion LoRA as loading does and describe it.

    Raises AdapterError or MotionModuleError, naming the file and saying what it is instead.
    """
    path = Path(path)
    if path.is_dir() and (path / "config.json").is_file():
        return describe(path)
    try:
        keys = list(open_weights(path)[0])
    except (WeightsFileError, MotionModuleError, OSError):
        return inspect_adapter(path)  # says what is wrong with it
    if is_motion_lora(keys):
        return load_motion_lora(path).describe()
    if any(split_key(key) for key in keys):
        return describe(path)
    return inspect_adapter(path)
