"""Hints for ControlNets, drawn frame by frame by networks under ComfyUI's memory management."""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from comfy.model_management import load_models_gpu, throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar

from .....media.detectors import build, files_of
from .....media.hints import canny, hint_size, resized
from .....media.pixels import to_uint8
from ..layers.planned import as_patcher
from .hint_weights import find, obtain, read_tensors, stamp

PIXEL = 4096
"""Bytes of activations for a pixel: the first layers of most networks have 64 channels of float32 at full size."""
Draw = Callable[[np.ndarray], np.ndarray]


def draw_hints(
    images: torch.Tensor,
    rows: list[int],
    kind: str,
    resolution: int,
    thresholds: tuple[int, int],
    hand: bool,
    face: bool,
    download: bool,
) -> torch.Tensor:
    """Return the hints `[K, h, w, 3]` of the frames `rows` of `images` `[F, H, W, 3 or 4]`, drawn one after another.

    kind: one of `media.hints.KINDS`. resolution: see `hint_size`. thresholds: canny's low and high. hand, face: also
    draw these parts of a pose. download: whether missing weights may be fetched.

    Raises ValueError for a size, a picture or a file that cannot be used, and as `obtain` and `build` do.
    """
    height, width = hint_size(images.shape[1], images.shape[2], resolution)
    if kind == "canny":
        draw: Draw = partial(canny, low=thresholds[0], high=thresholds[1])
    else:
        draw = _detector(kind, files_of(kind, hand, face), download, height * width)
    result = torch.empty(len(rows), height, width, 3)
    bar = ProgressBar(len(rows))
    for place, row in enumerate(rows):
        throw_exception_if_processing_interrupted()
        picture = resized(to_uint8(images[row], name=f"frame {row}"), height, width)
        result[place] = torch.from_numpy(draw(picture)) / 255
        bar.update_absolute(place + 1)
    return result


def fingerprint(kind: str, hand: bool, face: bool) -> str:
    """Return a text that changes when the weights of a kind do. It holds no path: it is written into saved clips."""
    return "/".join(str(stamp(file)[1:]) for name in files_of(kind, hand, face) if (file := find(name)))


def _detector(kind: str, names: tuple[str, ...], download: bool, pixels: int) -> Draw:
    """Return the detector of a kind, loaded on the device that core chooses for models.

    Core cannot load it in part, because its layers are not core's. pixels: of a picture.
    """
    files = obtain(names, kind, download)
    patcher = loaded(kind, tuple(zip(names, map(stamp, files), strict=True)))
    load_models_gpu([patcher], memory_required=pixels * PIXEL, force_full_load=True)
    return patcher.model.to(patcher.load_device)  # ComfyUI's --novram leaves some of them behind


@lru_cache(maxsize=1)
def loaded(kind: str, files: tuple[tuple[str, tuple[Path, int, int]], ...]):
    """Return a ModelPatcher of a kind's networks, kept until another one is needed. files: (name, stamp) of each."""
    return as_patcher(build(kind, {name: read_tensors(path) for name, (path, *_) in files}))
