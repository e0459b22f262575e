"""Convert pictures for the encoder: uint8 RGB of even size."""

from typing import Any

import numpy as np

# Code points of ITU-T H.273 and FFmpeg. BT.709 is 1 among primaries, transfers and matrices alike.
BT709 = 1
LIMITED_RANGE, FULL_RANGE = 1, 2


def to_uint8(picture: Any, name: str = "picture") -> np.ndarray:
    """Return one picture `[H, W, 3]` as contiguous uint8.

    picture: uint8 0..255, or floating point 0..1 (clipped, rounded to nearest), as array or torch tensor on any
    device; a fourth channel (alpha) is dropped. Raises ValueError, starting with `name`, for another shape or dtype,
    or values that are not finite.
    """
    if hasattr(picture, "detach"):  # a torch tensor; numpy knows no bfloat16
        picture = picture.detach().float().cpu() if picture.is_floating_point() else picture.detach().cpu()
    array = np.asarray(picture)
    if array.ndim != 3 or array.shape[2] not in (3, 4) or 0 in array.shape:
        raise ValueError(f"{name} has shape {list(array.shape)}; a colour picture is [height, width, 3]")
    array = array[..., :3]
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise ValueError(
                f"{name} holds NaN or infinite values: it was not decoded properly. With SDXL the usual cause is a "
                "VAE in half precision: use the fp16-fix VAE or run the VAE in fp32 (ComfyUI: --fp32-vae)"
            )
        array = np.rint(array.clip(0, 1) * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(f"{name} has type {array.dtype}; use uint8 0..255 or floating point 0..1")
    return np.ascontiguousarray(array)


def to_even(picture: np.ndarray) -> np.ndarray:
    """Repeat the last row and column of `[H, W, 3]` if the size is odd, because 4:2:0 video needs even sizes."""
    height, width, _ = picture.shape
    if height % 2 == 0 and width % 2 == 0:
        return picture
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
