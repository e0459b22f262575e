"""The loop of every toon training: AdamW on a cosine, an averaged copy, a checkpoint to resume from."""

import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...files import whole_or_nothing
from ...temporal.weights.values import write_finite
from ...training.step.optimizers import Average


class Training:
    """What is trained, the loss of a step, what is shown and what is written; made from the command line's options.

    frames, steps, file: defaults of painted frames, of steps, and of the weights file below demo/weights.
    every, warmup: steps between checkpoints, and to the peak of the learning rate.
    about, prefix: metadata of the weights; the start of the names of metadata that every training has.
    """

    name, frames, steps, file, prefix = "", 0, 0, "", ""
    every, warmup, peak, weight_decay = 250, 30, 1e-3, 1e-2
    about: dict[str, str]
    module: Any

    def loss(self, random: np.random.Generator, step: int) -> Tensor:
        """Return the loss of a batch, drawn with `random` and torch's own generator, after `step` steps."""
        raise NotImplementedError

    def figures(self, loss: float) -> str:
        """Return what the log says of the last 50 steps, whose mean loss this is."""
        return f"loss {loss:.4f}"

    def rows(self) -> list[np.ndarray]:
        """Return pictures uint8 `[8, H, W, 3]` by the weights so far, a row of the sheet each; none: nothing to see."""
        return []

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights by their names in the file."""
        raise NotImplementedError


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def write_half(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write fp16 safetensors, whole or not at all. Raises WeightsFileError, also for numbers that are not finite."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_finite(path, {key: value.half() for key, value in tensors.items()}, {"format": "pt", **metadata})


def train(
    training: Training, checkpoint: Path, seed: int, steps: int, minutes: float | None, show: Callable[[int], None]
) -> int:
    """Train for `steps` or `minutes`, whichever ends first; return the steps, with the averaged weights in the module.

    Resumes from `checkpoint`, with a new random sequence. After each checkpoint `show` is called with the number of
    steps, and with the averaged weights in the module.
    """
    module, decay = training.module, training.weight_decay
    optimizer = torch.optim.AdamW(module.parameters(), training.peak, betas=(0.9, 0.99), weight_decay=decay)
    average, random = Average(module, 0.998), np.random.default_rng(seed)
    step, start, total = 0, time.monotonic(), 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.restart(state["average"])
        step, start = state["step"], start - state["seconds"]
        random = np.random.default_rng((seed, step))

    def progress() -> float:
        return min(1.0, max(step / steps, (time.monotonic() - start) / (60 * (minutes or math.inf))))

    while progress() < 1:
        loss = training.loss(random, step)
        cosine = 0.02 + 0.98 * (1 + math.cos(math.pi * progress())) / 2
        optimizer.param_groups[0]["lr"] = training.peak * min(1.0, (step + 1) / training.warmup) * cosine
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        step += 1
        average.update(step)
        total += float(loss.detach())
        seconds = time.monotonic() - start
        if step % 50 == 0:
            say(f"{training.name} step {step} ({progress():.0%}, {seconds:.0f} s): {training.figures(total / 50)}")
            total = 0.0
        if step % training.every == 0 or progress() >= 1:
            state = {"model": module.state_dict(), "optimizer": optimizer.state_dict(), "average": average.values}
            with whole_or_nothing(checkpoint) as part:
                torch.save({**state, "step": step, "seconds": seconds}, part)
            with average.in_place():
                show(step)
    module.load_state_dict(average.values)
    return step
