"""Which frames of a clip a ControlNet steers, how strongly, and by which picture.

A clip is steered at keyframes. Around each of them its strength falls off over some frames; where nothing is left the
ControlNet is not asked at all, and the frame follows its neighbours by temporal attention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from .frames import parse_positions, resolve_positions

ALL = "all"
FALLOFFS = ("none", "linear", "smooth")


def keyframe_rows(text: str, frames: int, who: str) -> list[int]:
    """Frame numbers of keyframes written as `0, 25%, -1` or `all`, in the order written, for a clip of `frames` frames.

    Raises ValueError, prefixed with `who`, for a place that cannot be read, lies outside the clip or is there twice,
    and if there is none.
    """
    if text.strip().lower() == ALL:
        return list(range(frames))
    places = parse_positions(text, who)
    if not places:
        raise ValueError(f"{who}: keyframes is empty; write places such as 0, 50%, 100%, or {ALL} for every frame")
    return resolve_positions(places, frames, who)


def strength_curve(rows: Sequence[int], frames: int, falloff: str, reach: int) -> torch.Tensor:
    """Strength of each frame, float32 `[frames]`: exactly 1 at the keyframes `rows`, less around them.

    reach: frames from a keyframe at which nothing is left. At distance d below it, "linear" has 1 - d/reach and
    "smooth" (1 + cos(pi d/reach)) / 2; with "none" there is nothing between keyframes. The nearest keyframe counts.

    Raises ValueError for an unknown falloff, and for a reach below 1.
    """
    if falloff not in FALLOFFS:
        raise ValueError(f"unknown falloff {falloff!r}; choose one of {', '.join(FALLOFFS)}")
    if reach < 1:
        raise ValueError(f"strength cannot fall off over {reach} frames; write 1 or more")
    distance = _distances(rows, frames).amin(1)  # [frames]
    if falloff == "none":
        return (distance == 0).float()
    left = (1 - distance / reach).clamp(min=0)
    return left if falloff == "linear" else torch.sin(left * (math.pi / 2)).square()


def picture_of_frame(rows: Sequence[int], frames: int, pictures: int, who: str) -> list[int]:
    """Which of `pictures` hint pictures each frame is shown: its own, that of the nearest keyframe, or the only one.

    Between two keyframes that are equally near, the one listed first counts.

    Raises ValueError, prefixed with `who`, for any other number of pictures.
    """
    if pictures == 1:
        return [0] * frames
    if pictures == frames:
        return list(range(frames))
    if pictures == len(rows):
        return _distances(rows, frames).argmin(1).tolist()
    raise ValueError(
        f"{who}: {pictures} hint picture(s) for {frames} frames and {len(rows)} keyframe(s); give one for each frame, "
        "one for each keyframe, or a single one"
    )


def parse_layer_weights(text: str, who: str) -> tuple[float, ...]:
    """Weights of a ControlNet's layers, written as `1, 0.8, 0.5`; none if `text` is empty.

    Raises ValueError, prefixed with `who`, that names what is no number.
    """
    weights = []
    for word in text.replace(";", ",").replace(",", " ").split():
        try:
            weights.append(float(word))
        except ValueError:
            weights.append(math.nan)
        if not math.isfinite(weights[-1]):
            raise ValueError(f"{who}: layer_weights has {word!r}, which is no number; write such as 1, 0.8, 0.5")
    return tuple(weights)


def _distances(rows: Sequence[int], frames: int) -> torch.Tensor:
    """Frames between each frame and each keyframe, `[frames, rows]`."""
    return (torch.arange(frames)[:, None] - torch.tensor(rows)[None]).abs()
