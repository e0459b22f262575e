"""Conditioning of some frames of a clip: what core would have given those rows of a whole batch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

Conds = Sequence[Mapping[str, Any]]
_ADVANCED = "ad_params"


def take_frames(conds: Conds | None, rows: Sequence[int], controls: dict | None = None) -> list | None:
    """Fresh copies of core's conditioning dictionaries that hold only the frames `rows` of a clip.

    Works before and after core has processed them (`process_conds`). Where there are fewer or more rows than frames,
    core repeats or cuts them, and so frame i is row i modulo their number; a single row serves every frame.
    controls: ControlNets that were cut for these rows before, by id; used and filled, so that what a ControlNet keeps
    from step to step is kept.
    """
    if conds is None:
        return None
    return [{key: _take(key, value, rows, controls) for key, value in cond.items()} for cond in conds]


def _take(key: str, value: Any, rows: Sequence[int], controls: dict | None) -> Any:
    if key == "control" and value is not None:
        return take_control(value, rows, controls)
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


def take_control(control: Any, rows: Sequence[int], controls: dict | None = None) -> Any:
    """A copy of a ControlNet, and of those chained before it, that sees the hints of these frames.

    The copy shares model and settings. Advanced-ControlNet's objects are returned as they are: bound to themselves, a
    copy would go on working for the original, and they see to their frames themselves (`tell_advanced`).
    """
    if hasattr(control, "sub_idxs"):
        return control
    if controls is not None and id(control) in controls:
        return controls[id(control)]
    cut = copy.copy(control)
    cut.cond_hint = None  # the original resized, made anew at need
    if isinstance(control.cond_hint_original, torch.Tensor):
        cut.cond_hint_original = take_rows(control.cond_hint_original, rows)
    cut.extra_concat = None
    cut.extra_concat_orig = [take_rows(extra, rows) for extra in getattr(control, "extra_concat_orig", [])]
    if control.previous_controlnet is not None:
        cut.previous_controlnet = take_control(control.previous_controlnet, rows, controls)
    if controls is not None:
        controls[id(control)] = cut
    return cut


def tell_advanced(transformer_options: dict[str, Any], rows: Sequence[int], frames: int) -> None:
    """Note which frames are at hand where Advanced-ControlNet looks for them: it then chooses their hints and weights.

    rows: of a clip of `frames` frames, or of what a segment around a window has noted.
    """
    before = transformer_options.get(_ADVANCED)
    index = [before["sub_idxs"][row] for row in rows] if before else list(rows)
    full = before["full_length"] if before else frames
    transformer_options[_ADVANCED] = {"sub_idxs": index, "full_length": full, "context_length": len(index)}
