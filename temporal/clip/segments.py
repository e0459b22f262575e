"""Pieces of a long clip: segments, sampled one after another, and windows, which share every step."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

CARRIES = ("overlap", "last_frame")
SCHEDULES = ("uniform", "static", "looped")
FUSES = ("pyramid", "overlap_linear", "flat")


@dataclass(frozen=True)
class Segment:
    """Frames `start` to `stop` (excluded) of a clip; the first `known` of them are finished already."""

    start: int
    stop: int
    known: int = 0

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def frames(self) -> range:
        return range(self.start, self.stop)

    @property
    def finished(self) -> slice:
        """Frames that the segment knows of the clip before it."""
        return slice(self.start, self.start + self.known)

    @property
    def new(self) -> slice:
        """Frames that this segment adds to the clip."""
        return slice(self.start + self.known, self.stop)


def plan_segments(frames: int, length: int, overlap: int) -> list[Segment]:
    """Return segments of `length` frames that cover a clip; each knows the last `overlap` frames before it.

    The last segment keeps its length and knows more frames instead, because a temporal adapter does worse on few
    frames. Without overlap it cannot know any, so it is shorter. A clip of at most `length` frames is one segment.

    Raises ValueError unless 0 <= overlap < length and both fit a clip of at least one frame.
    """
    if frames < 1 or length < 1 or not 0 <= overlap < length:
        raise ValueError(f"segments of {length} frames cannot overlap by {overlap}; the overlap must be smaller")
    segments = [Segment(0, min(length, frames))]
    while (done := segments[-1].stop) < frames:
        stop = min(done - overlap + length, frames)
        start = max(stop - length, 0) if overlap else done
        segments.append(Segment(start, stop, done - start))
    return segments


def plan_windows(frames: int, length: int, overlap: int, schedule: str, step: int = 0) -> list[list[int]]:
    """Return the frame numbers of each window of one step; together the windows cover the clip.

    static    windows start every `length - overlap` frames; the last one is moved back to end with the clip.
    uniform   the same grid, shifted from step to step, so that no border stays in place. Windows that reach beyond
              either end are moved inside.
    looped    the clip is a circle: windows continue past its end at its beginning. The grid shifts as in `uniform`.

    The grid shifts by multiples of the golden ratio of its pitch, which visit all offsets evenly and never repeat.

    Raises ValueError for an unknown schedule and unless 0 <= overlap < length.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule is {schedule!r}; choose one of {', '.join(SCHEDULES)}")
    if frames < 1 or not 0 <= overlap < length:
        raise ValueError(f"windows of {length} frames cannot overlap by {overlap}; the overlap must be smaller")
    if frames <= length:
        return [list(range(frames))]
    pitch = length - overlap
    offset = 0 if schedule == "static" else int(step * 0.6180339887498949 % 1 * pitch)
    if schedule == "looped":
        return [[(offset + start + i) % frames for i in range(length)] for start in range(0, frames, pitch)]
    last = frames - length
    starts = [min(max(start, 0), last) for start in range(offset - pitch if offset else 0, last + pitch, pitch)]
    return [list(range(start, start + length)) for start in dict.fromkeys(starts)]


def window_weights(length: int, overlap: int, fuse: str) -> torch.Tensor:
    """Return the weights of a window's frames, `[length]` float32, for blending windows where they overlap.

    pyramid         rises from the borders to the middle.
    overlap_linear  1, falling linearly over the `overlap` frames at each border.
    flat            1.

    Raises ValueError for an unknown fuse.
    """
    from_border = torch.minimum(torch.arange(1, length + 1), torch.arange(length, 0, -1)).float()
    weights: dict[str, Callable[[], torch.Tensor]] = {
        "pyramid": lambda: from_border / from_border.max(),
        "overlap_linear": lambda: (from_border / (overlap + 1)).clamp(max=1),
        "flat": lambda: torch.ones(length),
    }
    if fuse not in weights:
        raise ValueError(f"fuse is {fuse!r}; choose one of {', '.join(FUSES)}")
    return weights[fuse]()
