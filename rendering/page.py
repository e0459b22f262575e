"""Clips beside each other on one page that plays them in step; it needs no network and can be sent as one file."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..media.pixels import to_uint8

TEMPLATE = Path(__file__).with_name("page.html")
_WIDEST = 384  # pixels: wider frames are made smaller
_SHEET = 16_000  # pixels of a side of a sheet of frames: WebP ends at 16,383


@dataclass(frozen=True)
class Figure:
    """A figure of the page. digits: after the point; note: what it says and which value is good."""

    title: str
    digits: int
    note: str


@dataclass(frozen=True)
class PageClip:
    """A clip of the page. frames: `[F, H, W, 3]`, uint8 or float 0..1; figures: name -> value, NaN where unknown."""

    label: str
    frames: Any
    figures: Mapping[str, float] = field(default_factory=dict)


def clips_page(
    title: str,
    lead: str,
    rows: Sequence[tuple[str, Sequence[PageClip]]],
    figures: Mapping[str, Figure],
    means: Mapping[str, Mapping[str, float]],
    fps: float,
    further: Sequence[str] = (),
    target: str | None = None,
    base: str | None = None,
) -> str:
    """Return the page as HTML.

    rows: (caption, its clips); means: label -> figures over all captions; further: lines of HTML under the table.
    target: label of the clip that the others should be like; base: label of the one that they should do better than.
    With both, a value nearer to the target's than the base's is has an arrow up, one farther away an arrow down.
    """
    told = {
        "title": title,
        "lead": lead,
        "fps": fps,
        "target": target,
        "base": base,
        "figures": {name: asdict(figure) for name, figure in figures.items()},
        "means": {label: _known(values, figures) for label, values in means.items()},
        "rows": [
            {
                "caption": caption,
                "clips": [
                    {"label": clip.label, "figures": _known(clip.figures, figures), **_sheet(clip.frames)}
                    for clip in clips
                ],
            }
            for caption, clips in rows
        ],
        "further": list(further),
    }
    data = json.dumps(told, ensure_ascii=False).replace("<", "\\u003c")  # no caption ends the script element
    return TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/null", data)


def _known(values: Mapping[str, float], figures: Mapping[str, Figure]) -> dict[str, float | None]:
    return {name: values[name] if math.isfinite(values.get(name, math.nan)) else None for name in figures}


def _sheet(frames: Any) -> dict[str, Any]:
    """Return all frames of a clip on one WebP sheet, as a data address, with its number of frames and columns."""
    pictures = [Image.fromarray(to_uint8(frame, "frame")) for frame in frames]
    width, height = pictures[0].size
    columns = math.ceil(math.sqrt(len(pictures)))
    shrink = min(1.0, _WIDEST / width, _SHEET / columns / max(width, height))
    width, height = max(1, round(width * shrink)), max(1, round(height * shrink))
    sheet = np.zeros((math.ceil(len(pictures) / columns) * height, columns * width, 3), np.uint8)
    for i, picture in enumerate(pictures):
        y, x = i // columns * height, i % columns * width
        sheet[y : y + height, x : x + width] = picture.resize((width, height), Image.Resampling.LANCZOS)
    stored = BytesIO()
    Image.fromarray(sheet).save(stored, "WEBP", quality=92)
    address = "data:image/webp;base64," + base64.b64encode(stored.getvalue()).decode()
    return {"sheet": address, "frames": len(pictures), "columns": columns, "shape": [width, height]}
