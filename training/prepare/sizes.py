"""Aspect buckets: picture sizes of about one area, as SDXL was trained on (Podell et al. 2023, appendix I)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Fit:
    """How pictures of a source get into their bucket: scaled, then cut out. All in pixels."""

    original: tuple[int, int]  # height, width
    scaled: tuple[int, int]
    crop: tuple[int, int]  # top, left
    target: tuple[int, int]

    @property
    def enlargement(self) -> float:
        return self.scaled[0] / self.original[0]

    def picture(self, frame: Any) -> np.ndarray:
        """uint8 RGB `[H, W, 3]` of an av.VideoFrame."""
        from ...media.pixels import FULL_RANGE

        how = "LANCZOS" if self.enlargement > 1 else "AREA"
        (height, width), (top, left) = self.scaled, self.crop
        # Naming the range makes FFmpeg heed the file's colour matrix.
        whole = frame.reformat(width, height, format="rgb24", interpolation=how, dst_color_range=FULL_RANGE)
        return whole.to_ndarray()[top : top + self.target[0], left : left + self.target[1]]


def buckets(resolution: int, multiple: int) -> list[tuple[int, int]]:
    """Heights and widths, multiples of `multiple`, of at most `resolution` squared pixels and 1:4."""
    area = resolution**2
    found = set()
    for side in range(multiple, 2 * resolution + 1, multiple):
        other = area // side // multiple * multiple
        if other and max(side, other) <= 4 * min(side, other):
            found |= {(side, other), (other, side)}
    return sorted(found)


def step(resolution: int, multiple: int) -> int:
    """What sides are multiples of: 64 as in SDXL's buckets, less for small pictures; `multiple` is the model's."""
    return math.lcm(64, multiple) if resolution >= 512 else multiple


def fit(height: int, width: int, resolution: int, multiple: int) -> Fit:
    """The bucket whose shape is nearest a picture's, and the middle of the picture scaled to cover it.

    Raises ValueError if the resolution is below a bucket's smallest side.
    """
    choices = buckets(resolution, step(resolution, multiple))
    if not choices:
        raise ValueError(f"resolution: {resolution} is too small; pictures are multiples of {multiple} pixels")
    shape = math.log(height / width)
    rows, columns = min(choices, key=lambda size: (abs(math.log(size[0] / size[1]) - shape), -size[0] * size[1]))
    scale = max(rows / height, columns / width)
    scaled = max(rows, round(height * scale)), max(columns, round(width * scale))
    crop = (scaled[0] - rows) // 2, (scaled[1] - columns) // 2
    return Fit((height, width), scaled, crop, (rows, columns))
