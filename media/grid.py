"""Pictures side by side on one sheet, each with a line of text above it."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, PAPER = (40, 40, 48), (250, 249, 246)
GAP = 8  # pixels between pictures and around them


def image_grid(images: np.ndarray, columns: int = 0, labels: Sequence[str] = ()) -> np.ndarray:
    """One picture float32 `[h, w, 3]`, 0..1, of pictures `[N, H, W, 3]` in rows from left to right, values untouched.

    columns: pictures in a row; 0 makes rows and columns as equal as can be. labels: of the first pictures, in order;
    one that is too long for its picture is cut.

    Raises ValueError for no pictures, fewer than 0 columns, and more labels than pictures.
    """
    count, height, width = images.shape[:3]
    if not count:
        raise ValueError("there are no images; connect at least one")
    if columns < 0:
        raise ValueError(f"columns is {columns}; it must be 1 or more, or 0 for as many as rows")
    if len(labels) > count:
        raise ValueError(f"there are {len(labels)} labels for {count} images; write one line an image")
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    size = max(12, height // 24)
    head = size + GAP if any(labels) else 0
    cell_height, cell_width = head + height + GAP, width + GAP
    shape = rows * cell_height + GAP, columns * cell_width + GAP, 3
    sheet = np.broadcast_to(np.asarray(PAPER, np.float32) / 255, shape).copy()
    for i, image in enumerate(images):
        top, left = GAP + i // columns * cell_height, GAP + i % columns * cell_width
        if i < len(labels) and labels[i]:
            sheet[top : top + head, left : left + width] = _line(labels[i], width, head, size)
        sheet[top + head : top + head + height, left : left + width] = image[..., :3]
    return sheet


def _line(text: str, width: int, height: int, size: int) -> np.ndarray:
    """Text as a picture float32 `[height, width, 3]`."""
    font = ImageFont.load_default(size=size)
    picture = Image.new("RGB", (width, height), PAPER)
    if font.getlength(text) > width:
        # halving: measuring takes as long as the text
        fits = bisect(range(len(text)), width, key=lambda letters: font.getlength(text[: letters + 1] + "..."))
        text = text[:fits] + "..."
    ImageDraw.Draw(picture).text((0, 0), text, fill=INK, font=font)
    return np.asarray(picture, np.float32) / 255
