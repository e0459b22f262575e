"""Videos and pictures by the suffixes of their names."""

from __future__ import annotations

import re
from pathlib import Path

_VIDEO = re.compile(
    r"\.(mp4|m4v|mkv|webm|mov|avi|gif|apng|flv|f4v|wmv|asf|mpe?g|m2v|vob|m?2?ts|mts|og[vm]|3g[p2]|mxf|nut|ivf|y4m|divx|"
    r"rm|rmvb|dv|h?264|h?265|hevc)"
)
_PICTURE = re.compile(r"\.(png|jpe?g|webp|bmp|tiff?)")


def is_video(path: Path) -> bool:
    """Return whether a file is named as a video or an animated picture that FFmpeg reads."""
    return bool(_VIDEO.fullmatch(path.suffix.lower()))


def is_picture(path: Path) -> bool:
    """Return whether a file is named as a picture that Pillow reads."""
    return bool(_PICTURE.fullmatch(path.suffix.lower()))
