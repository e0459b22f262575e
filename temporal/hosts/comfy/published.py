"""What the frame contract publishes in `transformer_options` while a model runs, and how layers read it."""

from collections.abc import Mapping
from typing import Any

from ...clip.frames import FrameInfo

FRAMES_KEY = "sav_frames"
"""Where `transformer_options` hold the FrameInfo of the batch."""


def frames_of(transformer_options: Mapping[str, Any], batch: int) -> FrameInfo:
    """Return the frames of a UNet batch of `batch` rows, laid out `[(passes f) ...]` with the cond and uncond passes.

    Reads what the frame contract published. Without it, or when another extension has cut the batch by rules of its
    own, the frames are numbered from 0. Core's context windows name the rows that they took.

    Raises ValueError if `batch` is no multiple of the number of passes.
    """
    passes = len(transformer_options.get("cond_or_uncond") or (0,))
    frames, rest = divmod(batch, passes)
    if rest:
        raise ValueError(f"a batch of {batch} rows cannot hold {passes} passes over the same frames")
    info: FrameInfo | None = transformer_options.get(FRAMES_KEY)
    if info is None:
        return FrameInfo.whole(frames)
    if len(info.index) == frames:
        return info
    rows = window_rows(transformer_options)
    if len(rows) == frames and max(rows) < len(info.index):
        return info.take(rows)
    return FrameInfo.whole(frames, info.step)


def window_rows(transformer_options: Mapping[str, Any]) -> list[int]:
    """Return the rows of the clip in ComfyUI's own context window; empty without one.

    Newer versions put the frame before the window in front of it.
    """
    window = transformer_options.get("context_window")
    rows: list[int] = list(getattr(window, "index_list", ()))
    before = getattr(window, "causal_anchor_index", None)
    return rows if before is None or before < 0 else [before, *rows]
