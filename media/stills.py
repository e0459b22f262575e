"""Write frames as numbered PNG files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .metadata import to_tags
from .pixels import to_uint8

PATTERN = "frame_%05d.png"


def save_stills(frames: Iterable[Any], folder: Path, metadata: Mapping[str, Any] | None = None) -> Iterator[np.ndarray]:
    """Write each frame to `folder/frame_00000.png`, `frame_00001.png`, ... and yield it as uint8 `[H, W, 3]`.

    metadata: text chunks of every PNG; values other than strings as JSON, as ComfyUI's page reads them. Keys of a PNG
        are Latin-1; their other letters are written as `\\u043a`.
    Raises ValueError as `to_uint8` does.
    """
    text = PngInfo()
    for key, value in to_tags(metadata).items():
        text.add_text(key.encode("latin-1", "backslashreplace").decode("latin-1"), value)
    for index, frame in enumerate(frames):
        picture = to_uint8(frame, name=f"frame {index}")
        Image.fromarray(picture).save(folder / (PATTERN % index), pnginfo=text, compress_level=4)
        yield picture
