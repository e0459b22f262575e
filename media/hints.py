"""Hint pictures for ControlNets: their kinds and sizes, and the one kind that needs no weights."""

import numpy as np

STEP = 64
"""Sides of hints are multiples of this, in pixels, as in the training of ControlNets."""
LONGEST = 16384
"""Most pixels along a side: about ten times the size of any sampled picture."""
KINDS = ("openpose", "depth", "lineart", "lineart_anime", "softedge", "canny")


def hint_size(height: int, width: int, resolution: int) -> tuple[int, int]:
    """Return height and width of a hint whose shorter side is `resolution` pixels, rounded to `STEP`; 0: unchanged.

    Raises ValueError if the longer side is then longer than `LONGEST`.
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
    """Return a picture `[H, W, 3]` at another size; shrinking averages over the area of a pixel."""
    import cv2

    if picture.shape[:2] == (height, width):
        return picture
    shrinks = height * width < picture.shape[0] * picture.shape[1]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4)


def canny(picture: np.ndarray, low: int, high: int) -> np.ndarray:
    """Return white edges on black, one pixel wide, uint8 `[H, W, 3]` (Canny 1986, as in OpenCV, on each colour).

    picture: uint8 `[H, W, 3]`. high: least gradient that starts an edge, 0 to about 1020; low: least gradient that
    continues it.
    """
    import cv2

    return np.repeat(cv2.Canny(picture, low, high)[..., None], 3, axis=2)
