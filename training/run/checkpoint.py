"""Checkpoints: one safetensors file with the temporal layers, their moving average and the optimizer's moments."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ...files import whole_or_nothing
from ..config.train import TrainConfig

log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or resumed from; the message says why."""


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: dict[str, torch.Tensor],
    progress: dict[str, Any],
) -> None:
    """Write all that later steps depend on; the file appears whole or not at all. Raises CheckpointError."""
    tensors = {f"adapter.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in ema.items()}
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        tensors |= {f"optimizer.{key}.{name}": torch.as_tensor(value) for key, value in state.items()}
    tensors = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
    try:
        with whole_or_nothing(path) as part:
            save_file(tensors, part, metadata={"progress": json.dumps(progress)})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be written: {error}; make room on the disk and go on with --resume latest"
        ) from None


@dataclass
class Checkpoint:
    """The contents of a checkpoint file."""

    path: Path
    tensors: dict[str, torch.Tensor]
    progress: dict[str, Any]  # step, seconds, config


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the contents of a file. Raises CheckpointError if it is missing, damaged, or no checkpoint."""
    if not path.exists():
        raise CheckpointError(f"resume: {path} does not exist; give a checkpoint file or 'latest'")
    try:
        with safe_open(path, "pt") as file:
            progress = json.loads((file.metadata() or {})["progress"])
            return Checkpoint(path, {key: file.get_tensor(key) for key in file.keys()}, progress)  # noqa: SIM118
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"resume: {path} is no checkpoint of this trainer: {error}") from None
    except SafetensorError as error:
        raise CheckpointError(f"resume: {path} is damaged: {error}") from None


def read_latest(folder: Path) -> Checkpoint | None:
    """Return the newest readable checkpoint of a run, with a warning for each damaged one; None if there is none yet.

    Raises CheckpointError if all of them are damaged.
    """
    found = checkpoints(folder)
    for path in reversed(found):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            log.warning("%s; the one before it is tried", error)
    if found:
        raise CheckpointError(f"resume: no checkpoint in {folder} can be read; give another, or another output folder")
    return None


# Fields that a run keeps when it goes on.
FIXED = ("kind", "start", "max_frames", "norm", "pos_value", "motion_places", "motion_attentions", "optimizer")


def require_same(checkpoint: Checkpoint, config: TrainConfig) -> None:
    """Raise CheckpointError if the checkpoint was made with other values of the fields that a run keeps."""
    made, now = {"optimizer": "adamw", **checkpoint.progress["config"]}, json.loads(config.model_dump_json())
    others = [f"{name} {made[name]}, not {now[name]}" for name in FIXED if made.get(name, now[name]) != now[name]]
    if others:
        raise CheckpointError(
            f"resume: {checkpoint.path} was made with {'; '.join(others)}; give the same, or begin anew"
        )


def require_last(folder: Path, step: int) -> None:
    """Raise CheckpointError if the folder holds checkpoints of later steps."""
    here = checkpoint_path(folder, step)
    if later := [path.name for path in checkpoints(folder) if path > here]:
        raise CheckpointError(
            f"resume: {folder} holds later checkpoints ({', '.join(later)}), which a run from step {step} would get in "
            "the way of; give another --output, or remove them"
        )


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Put a checkpoint into model and optimizer; returns the moving average.

    Raises CheckpointError if it belongs to other temporal layers.
    """
    path, tensors = checkpoint.path, checkpoint.tensors

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}

    try:
        model.load_state_dict(part("adapter."))
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()  # the message has a line for each tensor
        raise CheckpointError(f"resume: {path} belongs to another adapter or base: {shorten(first, 200)}") from None
    stored = {tuple(key.split(".", 2)[1:]): value for key, value in tensors.items() if key.startswith("optimizer.")}
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = {
            key: _as_it_was(key, value, parameter.device) for (key, of), value in stored.items() if of == name
        }
    return part("ema.")


def _as_it_was(key: str, value: torch.Tensor, device: torch.device) -> Any:
    """Return one entry of an optimizer's state: 8-bit AdamW counts steps in an int and keeps moments in uint8."""
    if key == "step":
        return value if value.is_floating_point() else int(value)
    return value.to(device)


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, by step."""
    return sorted(folder.glob("checkpoint-*.safetensors"))


def remove_old(folder: Path, keep: int) -> None:
    """Remove all checkpoints but the `keep` newest by age: damaged ones that were skipped may be of later steps."""
    for path in sorted(checkpoints(folder), key=lambda path: path.stat().st_mtime_ns)[:-keep]:
        path.unlink()


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step:08d}.safetensors"
