"""The validation loss: clips that are kept out of training, at fixed noise levels, with fixed noise and positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..config.schedule import last_noise
from ..step.draws import draw_noise, step_generator

if TYPE_CHECKING:
    from ..step.hints import Hints, Steered
    from .trainer import Trainer

_VALIDATION_STEP = -1  # takes the place of the step in seeds
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]


def hold_out(buckets: list[list[int]], count: int) -> list[int]:
    """`count` clips, or all if there are fewer: the first of each bucket, as many as is its share of the clips.

    Shares are rounded by the method of Sainte-Laguë, so a larger `count` adds clips and changes none.
    """
    taken, chosen = [0] * len(buckets), []
    for _ in range(min(count, sum(map(len, buckets)))):
        i = max(range(len(buckets)), key=lambda i: len(buckets[i]) / (2 * taken[i] + 1))
        chosen.append(buckets[i][taken[i]])
        taken[i] += 1
    return chosen


def none_left(kept_out: int, clips: int) -> ValueError:
    """What is wrong if all clips are kept out."""
    return ValueError(
        f"validation_clips: {kept_out} leaves none of {clips} clips to train on; keep fewer out, or give more clips"
    )


@torch.no_grad()
def validate(trainer: Trainer) -> dict[str, float]:
    """Mean loss of the held-out clips, by level and in the mean; `validation_hinted` is that with hints at keyframes,
    where there are any. The processes share the levels."""
    levels = trainer.stage.validation_levels
    sizes = sorted({trainer.clips.sizes[i] for i in trainer.held_out})
    batches = [_batch(trainer, size, part) for part, size in enumerate(sizes)]
    found = _losses(trainer, batches, [None] * len(batches))
    by_level = {f"validation_{level}": loss for level, loss in zip(levels, found, strict=True)}
    result = {"validation": sum(found) / len(found), **by_level}
    if trainer.hints:
        found = _losses(trainer, batches, [_steered(trainer.hints, batch) for batch in batches])
        result["validation_hinted"] = sum(found) / len(found)
    return result


def _losses(trainer: Trainer, batches: list[Batch], steered: list[Steered | None]) -> list[float]:
    """Mean loss at each level."""
    levels = trainer.stage.validation_levels
    found = [0.0] * len(levels)
    with trainer.averaged():
        for i, level in trainer.processes.share(levels):
            timestep = int(level * len(trainer.sigmas))
            losses = [
                trainer.clip_losses(latents, noise, torch.full((len(chosen),), timestep), caption, None, chosen, shown)
                for (latents, noise, caption, chosen), shown in zip(batches, steered, strict=True)
            ]
            found[i] = torch.cat(losses).mean().item()
    return trainer.processes.sum(*found)


def _steered(hints: Hints, batch: Batch) -> Steered:
    """The batch's clips, which begin at their first frame, with hints at the config's keyframes."""
    frames, chosen = batch[0].shape[1], batch[3]
    return hints.show(chosen, [0] * len(chosen), torch.arange(frames), hints.keyframes(frames))


def _batch(trainer: Trainer, size: tuple[int, int], part: int) -> Batch:
    """Latents and noise `[B, F, 4, h, w]`, captions and numbers of the held-out clips of one size."""
    config, clips = trainer.stage, trainer.clips
    chosen = [i for i in trainer.held_out if clips.sizes[i] == size]
    frames = min([max(config.frames), *(clips.lengths[i] for i in chosen)])
    latents = torch.stack([clips.frames(i, 0, frames) for i in chosen])
    noise = draw_noise(latents.shape, step_generator(config.seed, _VALIDATION_STEP, part), last_noise(config))
    return latents, noise, torch.tensor([clips.caption[i] for i in chosen]), chosen
