"""The validation loss: clips that are held out of training, at fixed noise levels, with fixed noise and positions."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..step.batch import Batch
from ..step.data import Data
from ..step.loss import Loss
from .processes import Processes


@torch.no_grad()
def validate(loss: Loss, data: Data, processes: Processes) -> dict[str, float]:
    """Return the mean loss of the held-out clips, by level and in the mean; the processes share the levels.

    `validation_hinted` is the mean with hints at the config's keyframes, where there are hints.
    """
    levels = data.config.validation_levels
    by_level = _losses(loss, data.validation_batches(), levels, processes)
    result = {"validation": sum(by_level) / len(levels)}
    result |= {f"validation_{level}": value for level, value in zip(levels, by_level, strict=True)}
    if data.hints:
        result["validation_hinted"] = sum(_losses(loss, data.validation_batches(hinted=True), levels, processes)) / len(
            levels
        )
    return result


def _losses(loss: Loss, batches: list[Batch], levels: list[float], processes: Processes) -> list[float]:
    """Return the mean loss at each level."""
    means = [0.0] * len(levels)
    for i, level in processes.share(levels):
        step = int(level * len(loss.sigmas))
        losses = [loss(replace(batch, timestep=torch.full_like(batch.timestep, step))) for batch in batches]
        means[i] = torch.cat(losses).mean().item()
    return processes.sum(*means)
