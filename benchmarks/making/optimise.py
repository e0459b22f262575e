"""What the toon trainings have in common: AdamW on a cosine, an averaged copy, a checkpoint to go on from."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...files import whole_or_nothing
from ...training.step.optimizers import Average


class Clock:
    """Progress from 0 to 1 by steps or by minutes, whichever comes first; learning rate by cosine."""

    def __init__(self, steps: int, minutes: float | None, warmup: int = 100) -> None:
        self.steps, self.seconds, self.warmup = steps, (minutes or math.inf) * 60, warmup
        self.step, self.spent, self._start = 0, 0.0, time.monotonic()

    @property
    def elapsed(self) -> float:
        return self.spent + time.monotonic() - self._start

    @property
    def progress(self) -> float:
        return min(1.0, max(self.step / self.steps, self.elapsed / self.seconds))

    def rate(self, peak: float) -> float:
        return (
            peak * min(1.0, (self.step + 1) / self.warmup) * (0.02 + 0.98 * (1 + math.cos(math.pi * self.progress)) / 2)
        )


class Optimisation:
    """One module in training. Goes on from `checkpoint` if that exists; `random` then starts a new sequence."""

    def __init__(
        self, module: nn.Module, checkpoint: Path, clock: Clock, *, peak: float, weight_decay: float, seed: int
    ) -> None:
        self.module, self.checkpoint, self.clock, self.peak = module, checkpoint, clock, peak
        self.optimizer = torch.optim.AdamW(module.parameters(), peak, betas=(0.9, 0.99), weight_decay=weight_decay)
        self.average = Average(module, 0.998)
        self.random = np.random.default_rng(seed)
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            module.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average.restart(state["average"])
            clock.step, clock.spent = state["step"], state["seconds"]
            self.random = np.random.default_rng((seed, clock.step))

    def step(self, loss: Tensor) -> None:
        self.optimizer.param_groups[0]["lr"] = self.clock.rate(self.peak)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.clock.step += 1
        self.average.update(self.clock.step)

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "model": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.values,
            "step": self.clock.step,
            "seconds": self.clock.elapsed,
        }
        with whole_or_nothing(self.checkpoint) as part:
            torch.save(state, part)
