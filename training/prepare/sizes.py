"""Aspect buckets: picture sizes of about equal area, as in SDXL's training (Podell et al. 2023, appendix I)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Fit:
    """How the pictures of a source are scaled and then cropped to their bucket, in pixels."""

    original: tuple[int, int]  # height, width
    scaled: tuple[int, int]
    crop: tuple[int, int]  # top, left
    target: tuple[int, int]

    @property
    def enlargement(self) -> float:
        return self.scaled[0] / self.original[0]

    def picture(self, frame: Any) -> np.ndarray:
        """Return uint8 RGB `[H, W, 3]` of an av.VideoFrame."""
        from ...media.pixels import FULL_RANGE

        how = "LANCZOS" if self.enlargement > 1 else "AREA"
        (height, width), (top, left) = self.scaled, self.crop
        # Only with the range given does FFmpeg use the file's colour matrix.
        whole = frame.reformat(width, height, format="rgb24", interpolation=how, dst_color_range=FULL_RANGE)
        return whole.to_ndarray()[top : top + self.target[0], left : left + self.target[1]]


def buckets(resolution: int, multiple: int) -> list[tuple[int, int]]:
    """Return heights and widths, multiples of `multiple`, of at most `resolution` squared pixels and shape 1:4."""
    area = resolution**2
    found = set()
    for side in range(multiple, 2 * resolution + 1, multiple):
        other = area // side // multiple * multiple
        if other and max(side, other) <= 4 * min(side, other):
            found |= {(side, other), (other, side)}
    return sorted(found)


def step(resolution: int, multiple: int) -> int:
    """Return the number that sides are multiples of: 64 as in SDXL's buckets, the model's for small pictures."""
    return math.lcm(64, multiple) if resolution >= 512 else multiple


def fit(height: int, width: int, resolution: int, multiple: int) -> Fit:
    """Return how to scale and crop a picture to the bucket of the nearest shape.

    Raises ValueError if the resolution is below a bucket's smallest side.
    """
    choices = buckets(resolution, step(resolution, multiple))
    if not choices:
        raise ValueError(f"resolution: {resolution} is too small; raise it to {multiple} or more")
    shape = math.log(height / width)
    rows, columns = min(choices, key=lambda size: (abs(math.log(size[0] / size[1]) - shape), -size[0] * size[1]))
    scale = max(rows / height, columns / width)
    scaled = max(rows, round(height * scale)), max(columns, round(width * scale))
    crop = (scaled[0] - rows) // 2, (scaled[1] - columns) // 2
    return Fit((height, width), scaled, crop, (rows, columns))
