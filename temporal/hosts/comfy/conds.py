"""Conditioning of some frames of a clip: what core would have given those rows of a whole batch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

Conds = Sequence[Mapping[str, Any]]


def take_frames(conds: Conds | None, rows: Sequence[int], frames: int, controls: dict | None = None) -> list | None:
    """Fresh copies of core's conditioning dictionaries that hold only the frames `rows` of a clip of `frames`.

    Works before and after core has processed them (`process_conds`). Where there are fewer or more rows than frames,
    core repeats or cuts them, and so frame i is row i modulo their number; a single row serves every frame.
    controls: ControlNets that were cut for these rows before, by id; used and filled, so that what a ControlNet keeps
    from step to step is kept.
    """
    if conds is None:
        return None
    return [{key: _take(key, value, rows, frames, controls) for key, value in cond.items()} for cond in conds]


def _take(key: str, value: Any, rows: Sequence[int], frames: int, controls: dict | None) -> Any:
    if key == "control" and value is not None:
        return take_control(value, rows, frames, controls)
    if key == "model_conds":
        return {name: _take_processed(cond, rows) for name, cond in value.items()}
    return take_rows(value, rows) if isinstance(value, torch.Tensor) else value


def take_rows(batch: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """Rows of a batch that core would repeat or cut to the clip's length."""
    if batch.ndim < 2 or len(batch) < 2:
        return batch
    return batch[[row % len(batch) for row in rows]]


def _take_processed(cond: Any, rows: Sequence[int]) -> Any:
    """One of core's COND objects."""
    value = cond.cond
    if isinstance(value, torch.Tensor):
        return cond._copy_with(take_rows(value, rows))
    if isinstance(value, list):
        return cond._copy_with([take_rows(v, rows) if isinstance(v, torch.Tensor) else v for v in value])
    return cond


def take_control(control: Any, rows: Sequence[int], frames: int, controls: dict | None = None) -> Any:
    """A copy of a ControlNet, and of those chained before it, that sees the hints of these frames.

    The copy shares model and settings. Advanced-ControlNet's objects choose their own hints and per-frame weights when
    told the frames (`sub_idxs`).
    """
    if controls is not None and id(control) in controls:
        return controls[id(control)]
    cut = copy.copy(control)
    cut.cond_hint = None  # the original resized, made anew at need
    if hasattr(control, "sub_idxs"):
        cut.sub_idxs, cut.full_latent_length, cut.context_length = list(rows), frames, len(rows)
    else:
        if isinstance(control.cond_hint_original, torch.Tensor):
            cut.cond_hint_original = take_rows(control.cond_hint_original, rows)
        cut.extra_concat = None
        cut.extra_concat_orig = [take_rows(extra, rows) for extra in getattr(control, "extra_concat_orig", [])]
    if control.previous_controlnet is not None:
        cut.previous_controlnet = take_control(control.previous_controlnet, rows, frames, controls)
    if controls is not None:
        controls[id(control)] = cut
    return cut
