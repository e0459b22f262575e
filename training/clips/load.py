"""Open the clips to train on: a cache or a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...commands.config import Precision
from ...temporal.hosts.diffusers.base import Base
from .folder import load_folder
from .prepared import is_cache, open_cache
from .source import ClipSource


def load_clips(
    folder: Path,
    base: Base,
    resolution: int | None = None,
    precision: Precision = "fp32",
    progress: Callable[[int, int], None] | None = None,
    shortest: int = 1,
) -> ClipSource:
    """Return the clips of a cache that `prepare` made (`open_cache`), or of a folder of videos (`load_folder`)."""
    if is_cache(folder):
        return open_cache(folder, base, resolution, shortest)
    return load_folder(folder, base, resolution, precision, progress, shortest)
