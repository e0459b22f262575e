"""What a person watches while an adapter trains."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .config import TrainConfig


class Bars:
    """A bar for encoding, a bar for training, and lines above them, on stderr."""

    def __init__(self, config: TrainConfig):
        self.config = config
        self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.encoding = self.progress.add_task("encode clips")
        self.training = self.progress.add_task("train", total=config.steps)
        self.recent: deque[float] = deque(maxlen=50)

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None):
        self.progress.stop()

    def say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def encoded(self, done: int, total: int) -> None:
        self.progress.update(self.encoding, completed=done, total=total)

    def step(self, event: dict[str, Any]) -> None:
        """One line of the log: a step with its loss, or a validation."""
        if "loss" in event:
            self.recent.append(event["loss"])
            total = self.config.steps
            if self.config.minutes and event["seconds"] > 0:
                total = min(total, round(event["step"] / event["seconds"] * 60 * self.config.minutes))
            mean = sum(self.recent) / len(self.recent)
            self.progress.update(
                self.training, description=f"train, loss {mean:.5f}", completed=event["step"], total=total
            )
        if "validation" in event:
            self.say(f"step {event['step']}: validation loss {event['validation']:.6f}")
