"""Flat polygons to pixels: one label image a frame, from which colours, outline, parts and flow all follow.

A clip is a fixed list of `Shape`s in the coordinates of their parts and, for each frame, one affine map per part to
pixels. Coordinates are continuous: pixel i covers [i, i + 1).
"""

from dataclasses import dataclass
from itertools import groupby

import cv2
import numpy as np

SUPERSAMPLE = 3
_SHIFT = 4


@dataclass(frozen=True)
class Shape:
    """A filled polygon `[N,2]` that moves with `part`. Shapes of one `group` share a common outline."""

    part: str
    points: np.ndarray
    colour: tuple[int, int, int]
    group: str
    line: float = 0.0  # width of the outline outside of the fill, in units of the part
    period: float = 0.0  # repeats along x with this period


@dataclass
class Picture:
    """One rasterised frame: `frame` uint8 `[H,W,3]`, `outline` uint8 `[H,W]` (coverage), `part` uint8 `[H,W]`."""

    frame: np.ndarray
    outline: np.ndarray
    part: np.ndarray


class Raster:
    """Draws the shapes of a clip at a size. `parts` lists part names; `Picture.part` indexes into it."""

    def __init__(self, shapes: list[Shape], height: int, width: int, outline: tuple[int, int, int]) -> None:
        self.shapes, self.height, self.width = shapes, height, width
        self.parts = list(dict.fromkeys(shape.part for shape in shapes))
        # Label 2i is the fill of shape i, 2i + 1 its outline.
        self._palette = np.zeros((2 * len(shapes), 3), np.uint8)
        self._part = np.zeros(2 * len(shapes), np.uint8)
        if len(self._palette) > 256:
            raise ValueError(f"painter: {len(shapes)} shapes, at most 128 fit into a label image")
        for i, shape in enumerate(shapes):
            self._palette[2 * i], self._palette[2 * i + 1] = shape.colour, outline
            self._part[2 * i : 2 * i + 2] = self.parts.index(shape.part)

    def draw(self, maps: dict[str, np.ndarray]) -> Picture:
        """`maps`: part name -> affine `[2,3]` from part coordinates to pixels."""
        labels = np.zeros((self.height * SUPERSAMPLE, self.width * SUPERSAMPLE), np.uint8)
        for _, group in groupby(enumerate(self.shapes), key=lambda member: member[1].group):
            members = [(i, shape, self._pixels(shape, maps)) for i, shape in group]
            for i, shape, points in members:
                width = round(2 * shape.line * (np.hypot(*maps[shape.part][:, 0]) * SUPERSAMPLE))
                if width > 0:
                    cv2.polylines(labels, [points], True, 2 * i + 1, width, cv2.LINE_8, _SHIFT)
            for i, _, points in members:
                cv2.fillPoly(labels, [points], 2 * i, cv2.LINE_8, _SHIFT)
        size = (self.width, self.height)
        frame = cv2.resize(self._palette[labels], size, interpolation=cv2.INTER_AREA)
        outline = cv2.resize((labels & 1) * np.uint8(255), size, interpolation=cv2.INTER_AREA)
        middle = labels[SUPERSAMPLE // 2 :: SUPERSAMPLE, SUPERSAMPLE // 2 :: SUPERSAMPLE]
        return Picture(frame, outline, self._part[middle])

    def _pixels(self, shape: Shape, maps: dict[str, np.ndarray]) -> np.ndarray:
        matrix, points = maps[shape.part], shape.points
        if shape.period:
            # Only the copies near the middle of the picture exist: move by whole periods.
            middle = np.linalg.solve(matrix[:, :2], np.array([self.width, self.height]) / 2 - matrix[:, 2])
            points = points + np.array([np.floor(middle[0] / shape.period) * shape.period, 0.0])
        pixels = points @ matrix[:, :2].T + matrix[:, 2]
        return np.round((pixels * SUPERSAMPLE - 0.5) * (1 << _SHIFT)).astype(np.int32)


def part_flow(part: np.ndarray, names: list[str], now: dict, then: dict) -> np.ndarray:
    """Forward flow `[H,W,2]` (x, y in pixels): where the surface seen at each pixel is in the next frame."""
    height, width = part.shape
    table = np.zeros((len(names), 2, 3))
    for i, name in enumerate(names):
        linear = then[name][:, :2] @ np.linalg.inv(now[name][:, :2])
        table[i, :, :2] = linear - np.eye(2)
        table[i, :, 2] = then[name][:, 2] - linear @ now[name][:, 2]
    y, x = np.mgrid[:height, :width] + 0.5
    rows = table[part].astype(np.float32)
    return (
        rows[..., 0] * x[..., None].astype(np.float32) + rows[..., 1] * y[..., None].astype(np.float32) + rows[..., 2]
    )
