"""Conditioning of some frames of a clip: equal to what core gives these rows of the whole batch."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

Conds = Sequence[Mapping[str, Any]]
_ADVANCED = "ad_params"


def take_frames(conds: Conds | None, rows: Sequence[int], controls: dict | None = None) -> list | None:
    """Return copies of core's conditioning dictionaries that hold only the frames `rows` of a clip.

    Works before and after core has processed them (`process_conds`). With fewer or more rows than frames, core repeats
    or cuts the rows, so frame i has row i modulo their number; a single row serves every frame.
    controls: ControlNets already cut for these rows, by id; read and filled, so that a ControlNet keeps its state from
    step to step.
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
    """Return rows of a batch that core repeats or cuts to the clip's length."""
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
    """Return a copy of a ControlNet, and of those chained before it, with the hints of these frames.

    The copy shares model and settings. Advanced-ControlNet's objects are returned as they are: their methods are bound
    to the original, so a copy would change it, and they choose their frames themselves (`tell_advanced`).
    """
    if is_advanced(control):
        return control
    if controls is not None and id(control) in controls:
        return controls[id(control)]
    cut = copy.copy(control)
    cut.cond_hint = None  # a cache: the original, resized
    if isinstance(control.cond_hint_original, torch.Tensor):
        cut.cond_hint_original = take_rows(control.cond_hint_original, rows)
    cut.extra_concat = None
    cut.extra_concat_orig = [take_rows(extra, rows) for extra in getattr(control, "extra_concat_orig", [])]
    if control.previous_controlnet is not None:
        cut.previous_controlnet = take_control(control.previous_controlnet, rows, controls)
    if controls is not None:
        controls[id(control)] = cut
    return cut


def is_advanced(control: Any) -> bool:
    """Return whether it is Advanced-ControlNet's: those cannot be cut, and read their frames from the options."""
    return hasattr(control, "sub_idxs")


def tell_advanced(transformer_options: dict[str, Any], rows: Sequence[int], frames: int) -> None:
    """Record the frames in the batch where Advanced-ControlNet reads them, so that it chooses their hints and weights.

    rows: of a clip of `frames` frames; of the segment, if one is recorded already and this is a window in it.
    """
    before = transformer_options.get(_ADVANCED)
    index = [before["sub_idxs"][row] for row in rows] if before else list(rows)
    full = before["full_length"] if before else frames
    transformer_options[_ADVANCED] = {"sub_idxs": index, "full_length": full, "context_length": len(index)}
