"""Keyframes of a ControlNet: the frames of a clip that it steers, its strength at each frame, and their hint pictures.

Strength is full at keyframes and falls off around them. At strength 0 the ControlNet does not run, and the frame
follows its neighbours through temporal attention.
"""

import math
from collections.abc import Sequence

import torch

from .frames import parse_positions, resolve_positions

ALL = "all"
FALLOFFS = ("none", "linear", "smooth")


def keyframe_rows(text: str, frames: int) -> list[int]:
    """Return the frame numbers in a text such as `0, 25%, -1` or `all`, in the order written, for a clip of `frames`.

    Raises ValueError for an empty text and for a position that cannot be read, lies outside the clip or stands twice.
    """
    if text.strip().lower() == ALL:
        return list(range(frames))
    places = parse_positions(text)
    if not places:
        raise ValueError(f"keyframes is empty; write positions such as 0, 50%, 100%, or {ALL} for every frame")
    return resolve_positions(places, frames)


def strength_curve(rows: Sequence[int], frames: int, falloff: str, reach: int) -> torch.Tensor:
    """Return the strength of each frame, float32 `[frames]`: exactly 1 at the keyframes `rows`, less around them.

    reach: the distance from a keyframe, in frames, at which strength is 0. At a smaller distance d to the nearest
    keyframe, "linear" gives 1 - d/reach and "smooth" (1 + cos(pi d/reach)) / 2; "none" gives 0 between keyframes.

    Raises ValueError for an unknown falloff and for a reach below 1.
    """
    if falloff not in FALLOFFS:
        raise ValueError(f"falloff is {falloff!r}; choose one of {', '.join(FALLOFFS)}")
    if reach < 1:
        raise ValueError(f"falloff_frames is {reach}; it must be 1 or more")
    distance = _distances(rows, frames).amin(1)  # [frames]
    if falloff == "none":
        return (distance == 0).float()
    left = (1 - distance / reach).clamp(min=0)
    return left if falloff == "linear" else torch.sin(left * (math.pi / 2)).square()


def picture_of_frame(rows: Sequence[int], frames: int, pictures: int) -> list[int]:
    """Return the index of each frame's hint picture: its own, that of the nearest keyframe, or the only one.

    pictures: their number. Of two keyframes at the same distance, the one listed first counts.

    Raises ValueError for any other number of pictures.
    """
    if pictures == 1:
        return [0] * frames
    if pictures == frames:
        return list(range(frames))
    if pictures == len(rows):
        return _distances(rows, frames).argmin(1).tolist()
    raise ValueError(
        f"{pictures} hint picture(s) for {frames} frames and {len(rows)} keyframe(s); give one for each frame, "
        "one for each keyframe, or a single one"
    )


def parse_layer_weights(text: str) -> tuple[float, ...]:
    """Return the weights of a ControlNet's layers in a text such as `1, 0.8, 0.5`; none if it is empty.

    Raises ValueError that quotes a word that is not a finite number.
    """
    weights = []
    for word in text.replace(";", ",").replace(",", " ").split():
        try:
            weights.append(float(word))
        except ValueError:
            weights.append(math.nan)
        if not math.isfinite(weights[-1]):
            raise ValueError(f"layer_weights has {word!r}, which is not a number; write numbers such as 1, 0.8, 0.5")
    return tuple(weights)


def _distances(rows: Sequence[int], frames: int) -> torch.Tensor:
    """Return the distance from each frame to each keyframe, `[frames, rows]`."""
    return (torch.arange(frames)[:, None] - torch.tensor(rows)[None]).abs()
