"""Frames of a clip: the frames in a batch, positions in a clip, and arithmetic along the frame axis."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import torch


@dataclass(frozen=True, eq=False)
class FrameInfo:
    """The frames of the batch that is being denoised.

    index:  LongTensor [F], the frame's place in the whole clip, from 0
    length: frames in the whole clip
    known:  BoolTensor [F], True where the frame's content is given and held at this step
    step:   index of the sampling step, from 0 (evaluations inside a step share it)

    Tensors are on the CPU. Instances are never changed: a new step publishes a new one.
    """

    index: torch.Tensor
    length: int
    known: torch.Tensor
    step: int = 0

    @classmethod
    def whole(cls, length: int, step: int = 0) -> FrameInfo:
        """Return the info of a batch that is the whole clip, with no known frame."""
        return cls(torch.arange(length), length, torch.zeros(length, dtype=torch.bool), step)

    def take(self, rows: list[int]) -> FrameInfo:
        """Return the info of a context window: the frames at `rows` of this batch."""
        return FrameInfo(self.index[rows], self.length, self.known[rows], self.step)

    def __deepcopy__(self, memo: dict) -> FrameInfo:
        return self


def require_equal_frames(name_a: str, frames_a: int, name_b: str, frames_b: int) -> None:
    """Raise ValueError, naming both sides, if two frame counts that must agree differ."""
    if frames_a != frames_b:
        raise ValueError(
            f"{name_a} has {frames_a} frame(s) but {name_b} has {frames_b}; set both to the same frame count"
        )


@dataclass(frozen=True, order=True)
class Position:
    """A place in a clip: a frame number, negative from the end, or a percentage of the way from first to last frame."""

    value: float
    percent: bool = False

    def resolve(self, length: int) -> int:
        """Return the frame number in a clip of `length` frames. A written frame number may lie outside the clip."""
        if self.percent:
            return int(self.value / 100 * (length - 1) + 0.5)
        return int(self.value) + (length if self.value < 0 else 0)

    def __str__(self) -> str:
        return f"{self.value:g}%" if self.percent else str(int(self.value))


_POSITION = re.compile(r"([+-]?\d+)|(\d+(?:\.\d+)?)\s*%")


def parse_positions(text: str) -> tuple[Position, ...]:
    """Return the positions in a text such as `0, 8, -1` or `0, 25%, 100%`; commas, semicolons or spaces separate them.

    Raises ValueError that quotes a position that cannot be read.
    """
    places = []
    for word in re.split(r"[,;\s]+", re.sub(r"\s+%", "%", text.strip())):
        if not word:
            continue
        match = _POSITION.fullmatch(word)
        if match is None or (match[2] and float(match[2]) > 100):
            raise ValueError(
                f"cannot read position {word!r} in {text!r}; write frame numbers such as 0, 8, -1 (the last) or "
                "percentages from 0% to 100%, separated by commas"
            )
        places.append(Position(int(match[1])) if match[1] else Position(float(match[2]), percent=True))
    return tuple(places)


def resolve_positions(places: tuple[Position, ...], length: int) -> list[int]:
    """Return the frame numbers of `places` in a clip of `length` frames, in the order written.

    Raises ValueError for a position outside the clip and for two positions on one frame.
    """
    found: dict[int, Position] = {}
    for place in places:
        frame = place.resolve(length)
        if not 0 <= frame < length:
            raise ValueError(
                f"position {place} is outside the clip of {length} frame(s); use 0 to {length - 1}, or -1 for the last"
            )
        if frame in found:
            raise ValueError(f"positions {found[frame]} and {place} are both frame {frame}; remove one")
        found[frame] = place
    return list(found)


@dataclass(frozen=True, order=True)
class Places:
    """Frames of a clip: the listed ones, or else every Nth from the first."""

    every: int
    listed: tuple[Position, ...] = ()

    def rows(self, length: int) -> list[int]:
        """Return the frame numbers in a clip of `length` frames. Raises ValueError as `resolve_positions` does."""
        if self.listed:
            return resolve_positions(self.listed, length)
        return list(range(0, length, self.every))


def smooth_frames(x: torch.Tensor, amount: float) -> torch.Tensor:
    """Return x_t <- (1 - amount) x_t + amount x_{t-1} for all frames at once; the first frame stays.

    x: `[F, C, H, W]` (frames are the batch) or `[B, F, C, H, W]`. The right-hand side holds the frames before
    smoothing, so a change does not spread down the clip. Amount 0 returns `x` itself.
    """
    if x.ndim not in (4, 5):
        raise ValueError(f"frames must be [F, C, H, W] or [B, F, C, H, W], not {list(x.shape)}")
    axis = x.ndim - 4
    frames = x.shape[axis]
    if amount == 0 or frames < 2:
        return x
    now, before = x.narrow(axis, 1, frames - 1), x.narrow(axis, 0, frames - 1)
    return torch.cat([x.narrow(axis, 0, 1), torch.lerp(now, before, amount)], dim=axis)


@lru_cache(maxsize=32)
def _cosine_projection(size: int, waves: int) -> torch.Tensor:
    """Return the projection `[size, size]` on the `waves` slowest orthonormal DCT-II vectors."""
    grid = (torch.arange(size, dtype=torch.float64) + 0.5) * torch.pi / size
    basis = torch.cos(torch.arange(min(waves, size), dtype=torch.float64)[:, None] * grid)
    basis /= basis.norm(dim=1, keepdim=True)
    return basis.T @ basis


def low_band(x: torch.Tensor, waves: int = 4) -> torch.Tensor:
    """Return the part of `x` `[..., H, W]` that varies slowly over the picture.

    Keeps the `waves` lowest cosine frequencies of each axis (0, 1/2, 1, ... periods over the picture), at any
    resolution. It is a projection: the low band of a low band is itself, and the rest of `x` has no low band.
    """
    rows, columns = (_cosine_projection(size, waves).to(x) for size in x.shape[-2:])
    return rows @ x @ columns


def pull_to_reference(
    x: torch.Tensor, rows: torch.Tensor, reference: torch.Tensor, strength: float, band: str
) -> torch.Tensor:
    """Return `x` `[F, C, H, W]` with the frames `rows` moved toward `reference` `[C, H, W]` by `strength` (0 to 1).

    band "low": only the low spatial frequencies move, so that colour and identity hold while detail changes. band
    "all": the whole frame moves; strength 1 freezes it. Strength 0 and empty `rows` return `x` itself.
    """
    if strength == 0 or rows.numel() == 0:
        return x
    rows = rows.to(x.device)
    change = reference - x[rows]  # [rows, C, H, W]
    if band == "low":
        change = low_band(change.float()).to(x.dtype)
    elif band != "all":
        raise ValueError(f"band must be 'low' or 'all', not {band!r}")
    return x.index_add(0, rows, change, alpha=strength)
