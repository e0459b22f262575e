"""Pictures of a comparison: a contact sheet of many clips, and clips side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_INK, _PAPER = (40, 40, 48), (250, 249, 246)
_GAP = 4


def contact_sheet(rows: Sequence[tuple[str, np.ndarray]], columns: int = 8, side: int = 144) -> Image.Image:
    """One row a clip: its label above `columns` of its frames, evenly spaced in time, each `side` pixels high.

    rows: (label, uint8 frames [F, H, W, 3]).
    """
    strips = [_labelled(label, _strip(_spread(frames, columns), side)) for label, frames in rows]
    sheet = Image.new("RGB", (max(s.width for s in strips), sum(s.height for s in strips)), _PAPER)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def side_by_side(rows: Sequence[Sequence[tuple[str, np.ndarray]]], side: int = 256) -> np.ndarray:
    """A clip in which every cell of a table plays: uint8 [F, H, W, 3], as long as the shortest of them.

    rows: the table; a cell is (label, uint8 frames [F, h, w, 3]) and comes out `side` pixels high.
    """
    length = min(len(frames) for row in rows for _, frames in row)
    pictures = []
    for index in range(length):
        lines = [[_labelled(label, _scaled(frames[index], side)) for label, frames in row] for row in rows]
        width = max(sum(cell.width + _GAP for cell in line) for line in lines)
        height = sum(line[0].height for line in lines)
        picture = Image.new("RGB", (width + width % 2, height + height % 2), _PAPER)  # H.264 wants even sides
        top = 0
        for line in lines:
            left = 0
            for cell in line:
                picture.paste(cell, (left, top))
                left += cell.width + _GAP
            top += line[0].height
        pictures.append(np.asarray(picture))
    return np.stack(pictures)


def _spread(frames: np.ndarray, count: int) -> np.ndarray:
    return frames[np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)]


def _scaled(frame: np.ndarray, side: int) -> Image.Image:
    picture = Image.fromarray(frame)
    return picture.resize((round(picture.width * side / picture.height), side), Image.Resampling.LANCZOS)


def _strip(frames: np.ndarray, side: int) -> Image.Image:
    cells = [_scaled(frame, side) for frame in frames]
    strip = Image.new("RGB", (sum(cell.width + _GAP for cell in cells) - _GAP, side), _PAPER)
    left = 0
    for cell in cells:
        strip.paste(cell, (left, 0))
        left += cell.width + _GAP
    return strip


def _labelled(label: str, picture: Image.Image) -> Image.Image:
    head = 6 + 17 * (label.count("\n") + 1)
    out = Image.new("RGB", (picture.width, head + picture.height + _GAP), _PAPER)
    ImageDraw.Draw(out).text((4, 3), label, fill=_INK, font=ImageFont.load_default(size=13))
    out.paste(picture, (0, head))
    return out
