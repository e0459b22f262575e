"""Checkpoints: one safetensors file with the adapter, its moving average and the optimizer's moments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn


class CheckpointError(ValueError):
    """A checkpoint that cannot be resumed from; the message says why."""


def _named_states(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    return {name: optimizer.state[parameter] for name, parameter in model.named_parameters()}


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: dict[str, torch.Tensor],
    progress: dict[str, Any],
) -> None:
    """Write everything that later steps depend on; the file appears whole or not at all."""
    from safetensors.torch import save_file

    tensors = {f"adapter.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in ema.items()}
    for name, state in _named_states(model, optimizer).items():
        tensors |= {f"optimizer.{key}.{name}": value for key, value in state.items()}
    tensors = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata={"progress": json.dumps(progress)})
    part.replace(path)


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Put a checkpoint into model and optimizer; returns the moving average and the progress.

    Raises CheckpointError if the file is no checkpoint or is one of another adapter.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            progress = json.loads((file.metadata() or {})["progress"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"resume: {path} is no checkpoint of this trainer: {error}") from None
    except Exception as error:  # safetensors' own error has no common base
        raise CheckpointError(f"resume: {path} cannot be read: {error}") from None

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}

    try:
        model.load_state_dict(part("adapter."))
    except RuntimeError as error:
        raise CheckpointError(f"resume: {path} belongs to another adapter or base: {error}") from None
    stored = {tuple(key.split(".", 2)[1:]): value for key, value in tensors.items() if key.startswith("optimizer.")}
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = {
            key: value if key == "step" else value.to(parameter) for (key, of), value in stored.items() if of == name
        }
    return part("ema."), progress


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    return sorted(folder.glob("checkpoint-*.safetensors"))


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step:08d}.safetensors"
