"""Clips in and out: the names that the rest of the package uses."""

from .rates import exact_fps
from .reader import ClipInfo, iter_clip, probe_clip, read_clip
from .writer import write_clip

__all__ = ["ClipInfo", "exact_fps", "iter_clip", "probe_clip", "read_clip", "write_clip"]
