"""Labelled pictures on one sheet: a grid, a row for each clip, clips that play beside each other."""

import math
from bisect import bisect
from collections.abc import Sequence
from io import BytesIO
from itertools import zip_longest
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .pixels import to_uint8

INK, PAPER = (40, 40, 48), (250, 249, 246)
GAP = 8  # pixels between the pictures of a grid and around them
_NARROW, _LETTERS = 4, 13  # pixels between frames of a clip, height of letters above them


def image_grid(images: np.ndarray, columns: int = 0, labels: Sequence[str] = ()) -> np.ndarray:
    """Return one picture float32 `[h, w, 3]`, 0..1, of pictures `[N, H, W, 3]` in rows, their values untouched.

    columns: pictures in a row; 0 makes rows and columns as equal as possible.
    labels: of the first pictures, in order; a label longer than its picture is cut.
    Raises ValueError for no pictures, fewer than 0 columns, and more labels than pictures.
    """
    count, height = images.shape[:2]
    if not count:
        raise ValueError("there are no images; connect at least one")
    if columns < 0:
        raise ValueError(f"columns is {columns}; it must be 1 or more, or 0 for as many as rows")
    if len(labels) > count:
        raise ValueError(f"there are {len(labels)} labels for {count} images; write one line an image")
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    size = max(12, height // 24)
    head = size + GAP if any(labels) else 0
    cells = [
        _labelled(image[..., :3].astype(np.float32), label, size, head)
        for image, label in zip_longest(images, labels, fillvalue="")
    ]
    rows = [_arranged(cells[start : start + columns], 1, GAP) for start in range(0, count, columns)]
    inner = _arranged(rows, 0, GAP)
    sheet = _paper(inner.shape[0] + 2 * GAP, inner.shape[1] + 2 * GAP, np.float32)
    sheet[GAP:-GAP, GAP:-GAP] = inner
    return sheet


def contact_sheet(rows: Sequence[tuple[str, Sequence[Any]]], columns: int = 8, side: int = 144) -> Image.Image:
    """Return a sheet with one row for each clip: its label above `columns` of its frames, evenly spaced in time.

    rows: (label, frames `[F, H, W, 3]`, uint8 or float 0..1). side: height of a frame on the sheet, in pixels.
    """
    strips = []
    for label, frames in rows:
        shown = np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int)
        strips.append(_titled(_arranged([_scaled(frames[i], side) for i in shown], 1, _NARROW), label))
    return Image.fromarray(_arranged(strips, 0, _NARROW))


def side_by_side(rows: Sequence[Sequence[tuple[str, np.ndarray]]], side: int = 256) -> np.ndarray:
    """Return a clip uint8 `[F, H, W, 3]` in which every cell of a table plays, as long as the shortest cell.

    rows: the table; a cell is (label, frames `[F, h, w, 3]`), `side` pixels high.
    """
    length = min(len(frames) for row in rows for _, frames in row)

    def table(i: int) -> np.ndarray:
        strips = [
            _arranged([_titled(_scaled(clip[i], side), label) for label, clip in row], 1, _NARROW) for row in rows
        ]
        return _arranged(strips, 0, _NARROW)

    return np.stack([table(i) for i in range(length)])


def animated_webp(frames: np.ndarray, fps: float, quality: int = 80) -> bytes:
    """Return an endless animated WebP of a clip uint8 `[F, H, W, 3]`."""
    first, *rest = map(Image.fromarray, frames)
    stored = BytesIO()
    first.save(stored, "WEBP", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, quality=quality)
    return stored.getvalue()


def _scaled(frame: Any, height: int) -> np.ndarray:
    picture = Image.fromarray(to_uint8(frame, "frame"))
    width = round(picture.width * height / picture.height)
    return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))


def _titled(picture: np.ndarray, label: str) -> np.ndarray:
    return _labelled(picture, label, _LETTERS, (_LETTERS + _NARROW) * (label.count("\n") + 1) + _NARROW)


def _labelled(picture: np.ndarray, label: str, size: int, head: int) -> np.ndarray:
    """A picture `[H, W, 3]`, uint8 or float32, under `head` rows of pixels with a label in letters of `size`."""
    if not head:
        return picture
    text = _text(label, picture.shape[1], head, size)
    if picture.dtype != np.uint8:
        text = text.astype(picture.dtype) / 255
    return np.concatenate([text, picture])


def _text(text: str, width: int, height: int, size: int) -> np.ndarray:
    """Text as a picture uint8 `[height, width, 3]`; lines longer than `width` are cut."""
    font = ImageFont.load_default(size=size)
    picture = Image.new("RGB", (width, height), PAPER)
    for number, line in enumerate(text.split("\n")):
        if font.getlength(line) > width:
            # By halving, because measuring a text takes as long as the text.
            fits = bisect(range(len(line)), width, key=lambda letters: font.getlength(line[: letters + 1] + "..."))
            line = line[:fits] + "..."
        ImageDraw.Draw(picture).text((0, number * (size + _NARROW)), line, fill=INK, font=font)
    return np.asarray(picture)


def _arranged(pictures: Sequence[np.ndarray], axis: int, gap: int) -> np.ndarray:
    """Pictures of one type below each other (axis 0) or beside each other (axis 1), on paper."""
    size = [max(picture.shape[side] for picture in pictures) for side in (0, 1)]
    size[axis] = sum(picture.shape[axis] for picture in pictures) + gap * (len(pictures) - 1)
    sheet, at = _paper(*size, pictures[0].dtype), [0, 0]
    for picture in pictures:
        sheet[at[0] : at[0] + picture.shape[0], at[1] : at[1] + picture.shape[1]] = picture
        at[axis] += picture.shape[axis] + gap
    return sheet


def _paper(height: int, width: int, dtype: Any) -> np.ndarray:
    colour = np.asarray(PAPER, np.uint8) if dtype == np.uint8 else np.asarray(PAPER, dtype) / 255
    return np.broadcast_to(colour, (height, width, 3)).copy()
