"""Pictures for ControlNets out of frames: their kinds and sizes, and the one kind that needs no weights."""

from __future__ import annotations

import numpy as np

STEP = 64
"""Sides of hints are multiples of this, in pixels, as ControlNets were trained on."""
LONGEST = 16384
"""Most pixels a side: ten times what anything is sampled at."""
KINDS = ("openpose", "depth", "lineart", "lineart_anime", "softedge", "canny")


def hint_size(height: int, width: int, resolution: int) -> tuple[int, int]:
    """Height and width of a hint whose shorter side is `resolution` pixels, both rounded to `STEP`; 0: as they are.

    Raises ValueError if that makes the longer side longer than LONGEST.
    """
    if resolution == 0:
        return height, width
    scale = resolution / min(height, width)
    rounded = [max(round(side * scale / STEP), 1) * STEP for side in (height, width)]
    if max(rounded) > LONGEST:
        raise ValueError(
            f"resolution {resolution} makes hints of {rounded[1]} x {rounded[0]} pixels out of pictures of {width} x "
            f"{height}; crop the pictures, or lower the resolution"
        )
    return rounded[0], rounded[1]


def resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture `[H, W, 3]` at another size; the mean of what a pixel covers when it shrinks."""
    import cv2

    if picture.shape[:2] == (height, width):
        return picture
    shrinks = height * width < picture.shape[0] * picture.shape[1]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4)


def canny(picture: np.ndarray, low: int, high: int) -> np.ndarray:
    """White edges, one pixel wide, on black, `[H, W, 3]` uint8 (Canny 1986, in OpenCV's form, on each colour).

    picture: uint8 `[H, W, 3]`. high: how steep, 0 to 1020 or so, an edge is that is drawn; low: how steep a pixel that
    continues one.
    """
    import cv2

    return np.repeat(cv2.Canny(picture, low, high)[..., None], 3, axis=2)
