"""Progress bars of a run, and the time it still takes."""

import time
from collections import deque
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..config.train import TrainConfig


class Eta:
    """Estimates the seconds that a run still takes, from its last 50 steps and the pauses between steps.

    limit: seconds of the whole run. every: name of each kind of pause (validation, samples, checkpoint) -> steps
    between two of them. A kind is counted once it has happened, because its duration is unknown before.
    """

    def __init__(self, total: int, limit: float | None = None, every: dict[str, int] | None = None):
        self.total, self.limit, self.every = total, limit, every or {}
        self.recent: deque[float] = deque(maxlen=50)
        self.durations: dict[str, float] = {}

    def step(self, seconds: float) -> None:
        self.recent.append(seconds)

    def other(self, name: str, seconds: float) -> None:
        self.durations[name] = seconds

    def remaining(self, done: int, spent: float) -> float | None:
        """Return the seconds left after `done` steps, which took `spent` seconds; None before the first step."""
        if not self.recent:
            return None
        left = self.total - done
        seconds = left * sum(self.recent) / len(self.recent)
        for name, duration in self.durations.items():
            if name in self.every:
                seconds += duration * (self.total // self.every[name] - done // self.every[name])
        return seconds if self.limit is None else max(0.0, min(seconds, self.limit - spent))


def clock(seconds: float | None) -> str:
    """Return seconds such as `2:03:04`; dashes where they are unknown."""
    if seconds is None:
        return "-:--:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


LOG_SECONDS = 60.0


class Bars(Progress):
    """Bars for checking, encoding and training, and lines above them, on stderr; nothing where `quiet`.

    A file shows bars only at the end, so where stderr is a file, a line a minute tells the progress.
    """

    def __init__(self, config: TrainConfig, quiet: bool = False):
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=Console(stderr=True, quiet=quiet),
        )
        self.config = config
        self.checking = self.add_task("check hints", left="", visible=False)
        self.encoding = self.add_task("encode clips", left="", visible=False)
        self.training = self.add_task("train", total=config.steps, left="", visible=False)
        every = {"validation": config.validation_steps, "samples": config.sample_steps}
        every["checkpoint"] = config.checkpoint_steps
        limit = 60 * config.minutes if config.minutes else None
        self.eta = Eta(config.steps, limit, {name: steps for name, steps in every.items() if steps})
        self.losses: deque[float] = deque(maxlen=50)
        self.logged = time.monotonic()

    def say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def say_each_minute(self, line: str) -> None:
        """Print a line where stderr is a file, at most one in LOG_SECONDS."""
        if not self.console.is_terminal and time.monotonic() - self.logged >= LOG_SECONDS:
            self.logged = time.monotonic()
            self.say(line)

    def checked(self, done: int, total: int) -> None:
        self.update(self.checking, completed=done, total=total, visible=True)
        self.say_each_minute(f"check hints: {done} of {total}")

    def encoded(self, done: int, total: int) -> None:
        self.update(self.encoding, completed=done, total=total, visible=True)
        self.say_each_minute(f"encode clips: {done} of {total}")

    def event(self, event: dict[str, Any]) -> None:
        """Show an event of the log: a step with its loss, a validation, or rendered clips."""
        if "loss" in event:
            self.losses.append(event["loss"])
            mean = sum(self.losses) / len(self.losses)
            left = clock(self.eta.remaining(event["step"], event["seconds"]))
            self.update(
                self.training,
                description=f"train, loss {mean:.5f}",
                completed=event["step"],
                left=f"{left} left",
                visible=True,
            )
            self.say_each_minute(f"step {event['step']} of {self.config.steps}: loss {mean:.5f}, {left} left")
        if "validation" in event:
            hinted = f", with hints {event['validation_hinted']:.6f}" if "validation_hinted" in event else ""
            self.say(f"step {event['step']}: validation loss {event['validation']:.6f}{hinted}")
        if "samples" in event:
            said = ", ".join(f"{name} {event[name]:.4g}" for name in ("flicker", "warp_error", "motion"))
            self.say(f"step {event['step']}: {event['samples']}: {said}")
