"""Clips cut out of scenes: frames in a bucket's size, on a time grid, cut to length, checked by small grey pictures."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from einops import reduce

from .options import PrepareConfig
from .reading.frames import Shown

SLACK = 0.005  # seconds; Matroska rounds time stamps to 1 ms, GIF to 10 ms
_SMALL = 64  # side of the grey pictures, as in Sakuga-42M


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
    """Return heights and widths, multiples of `multiple`, of at most `resolution` squared pixels and shape 1:4.

    Source: the aspect buckets of SDXL's training (Podell et al. 2023, appendix I).
    """
    area = resolution**2
    found = set()
    for side in range(multiple, 2 * resolution + 1, multiple):
        other = area // side // multiple * multiple
        if other and max(side, other) <= 4 * min(side, other):
            found |= {(side, other), (other, side)}
    return sorted(found)


def fit(height: int, width: int, resolution: int, multiple: int) -> Fit:
    """Return how to scale and crop a picture to the bucket of the nearest shape.

    Raises ValueError if the resolution is below a bucket's smallest side.
    """
    # Sides are multiples of 64 as in SDXL's buckets, of the model's number for small pictures.
    choices = buckets(resolution, math.lcm(64, multiple) if resolution >= 512 else multiple)
    if not choices:
        raise ValueError(f"resolution: {resolution} is too small; raise it to {multiple} or more")
    shape = math.log(height / width)
    rows, columns = min(choices, key=lambda size: (abs(math.log(size[0] / size[1]) - shape), -size[0] * size[1]))
    scale = max(rows / height, columns / width)
    scaled = max(rows, round(height * scale)), max(columns, round(width * scale))
    crop = (scaled[0] - rows) // 2, (scaled[1] - columns) // 2
    return Fit((height, width), scaled, crop, (rows, columns))


class Picture(NamedTuple):
    """A frame of a clip at its place in time."""

    scene: int
    time: float  # seconds
    pixels: np.ndarray  # uint8 [H, W, 3]
    grey: np.ndarray  # uint8 [64, 64]


def on_grid(frames: Iterable[tuple[int, Shown]], fps: float, into: Fit) -> Iterator[Picture]:
    """Yield the frame on screen at each 1/fps from the start of each scene; one frame may come several times."""
    scene, begin, count = None, 0.0, 0
    for number, shown in frames:
        if number != scene:
            scene, begin, count = number, shown.start, 0
        picture = None
        while (time := begin + count / fps) < shown.end - SLACK:
            if picture is None:
                pixels = into.picture(shown.frame)
                picture = Picture(number, time, pixels, grey(pixels))
            yield picture._replace(time=time)
            count += 1


def grey(pixels: np.ndarray) -> np.ndarray:
    """Return the luma uint8 `[64, 64]` of a picture `[H, W, 3]`."""
    import cv2

    small = cv2.resize(pixels, (_SMALL, _SMALL), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)


def cut(pictures: Iterable[Picture], config: PrepareConfig) -> Iterator[list[Picture]]:
    """Yield clips of `frames` pictures of one scene; its last two clips share the rest if it is enough for both.

    Only the last clip of a scene can be shorter than `min_frames`. At most `frames + min_frames` pictures are held.
    """
    longest, shortest, overlap = config.frames, config.min_frames, config.overlap
    for _, scene in groupby(pictures, key=lambda picture: picture.scene):
        held: list[Picture] = []
        for picture in scene:
            held.append(picture)
            if len(held) == longest + shortest:
                yield held[:longest]
                held = held[longest - overlap :]
        first = len(held)
        if first > longest:
            first = (len(held) + overlap + 1) // 2
            if len(held) - first + overlap < shortest:
                first = longest
            yield held[:first]
            held = held[first - overlap if len(held) - first + overlap >= shortest else first :]
        if held:
            yield held


def fault(greys: np.ndarray, config: PrepareConfig) -> str:
    """Return why a clip of grey pictures `[F, 64, 64]` is dropped; empty if it is kept."""
    if len(greys) < config.min_frames:
        return f"short: {len(greys)} frames left of a scene, min_frames is {config.min_frames}"
    black = (greys.mean((1, 2)) < config.black_level).sum()
    if 2 * black > len(greys):
        return f"black: {black} of {len(greys)} frames"
    if config.static_ssim < 1:
        least = min(ssim(greys[0], other) for other in greys[1:])
        if least >= config.static_ssim:
            return f"static: every frame is the first one (SSIM {least:.3f} and above)"
    return ""


def ssim(first: np.ndarray, second: np.ndarray, side: int = 7) -> float:
    """Return the mean structural similarity of grey pictures `[H, W]` 0..255 in square windows (Wang et al. 2004)."""
    import cv2

    x, y = first.astype(np.float64), second.astype(np.float64)

    def mean(values: np.ndarray) -> np.ndarray:
        edge = side // 2
        return cv2.blur(values, (side, side))[edge:-edge, edge:-edge]

    unbiased = side**2 / (side**2 - 1)
    mx, my = mean(x), mean(y)
    vx, vy, cov = (unbiased * (mean(a * b) - p) for a, b, p in ((x, x, mx * mx), (y, y, my * my), (x, y, mx * my)))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float((((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


def look(greys: np.ndarray) -> bytes:
    """Return four frames of a clip at 8x8 pixels, 256 bytes; a repeated clip has the same up to coding noise."""
    chosen = greys[np.linspace(0, len(greys) - 1, 4).round().astype(int)].astype(np.float32)
    cells = reduce(chosen, "f (h a) (w b) -> f h w", "mean", h=8, w=8)
    return cells.round().astype(np.uint8).tobytes()
