"""The log of a run, as a file and as TensorBoard curves."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ...commands.config import ConfigError
from ..config.train import TrainConfig

Tracker = Callable[[dict[str, Any]], None]
"""Takes an event: a step with `loss`, `lr` and `seconds`, and the figures that were measured after it."""


def figures(event: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of an event that make curves."""
    return {
        name: value
        for name, value in event.items()
        if isinstance(value, (int, float)) and name not in ("step", "seconds")
    }


@contextmanager
def trackers(config: TrainConfig, step: int, screen: Tracker, writes: bool) -> Iterator[Tracker]:
    """Yield the tracker of a run that goes on after `step`: log, TensorBoard, screen; nothing unless it `writes`."""
    with ExitStack() as stack:
        every: list[Tracker] = []
        if writes:
            every.append(stack.enter_context(log_file(config.output / "log.jsonl")))
            if config.tensorboard:
                every.append(stack.enter_context(tensorboard(config.output / "tensorboard", step + 1)))
            every.append(screen)

        def report(event: dict[str, Any]) -> None:
            for tracker in every:
                tracker(event)

        yield report


@contextmanager
def log_file(path: Path) -> Iterator[Tracker]:
    """Append every event as a line of JSON. Raises OSError with a remedy."""
    # Unbuffered, so that a full disk raises once, when a line is written, and not again when the file is closed.
    with path.open("ab", buffering=0) as file:

        def write(event: dict[str, Any]) -> None:
            try:
                file.write(json.dumps(event).encode() + b"\n")
            except OSError as error:
                raise _disk(error, path) from None

        yield write


@contextmanager
def tensorboard(folder: Path, first_step: int) -> Iterator[Tracker]:
    """Write curves as event files; points of an earlier start from `first_step` on are hidden.

    Raises ConfigError if TensorBoard is not installed, and OSError with a remedy on a full disk.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            f"tensorboard: not installed ({error}); pip install tensorboard, or give --tensorboard false"
        ) from None
    try:
        writer = SummaryWriter(str(folder), purge_step=first_step)
    except OSError as error:
        raise _disk(error, folder) from None

    def write(event: dict[str, Any]) -> None:
        try:
            for name, value in figures(event).items():
                writer.add_scalar(
                    name.replace("_", "/", 1) if name.startswith("validation_") else name, value, event["step"]
                )
        except OSError as error:
            raise _disk(error, folder) from None

    try:
        yield write
    finally:
        with suppress(OSError):  # the event has raised it already
            writer.close()


def _disk(error: OSError, path: Path) -> OSError:
    why = f"{error.strerror or error}; make room on the disk and go on with --resume latest"
    return OSError(error.errno, why, str(path))


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the events of a run by step; where a step was repeated after a kill, the later one.

    Incomplete lines are left out.
    """
    steps: dict[tuple[int, bool], dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, KeyError, TypeError):
            event = json.loads(line)
            steps[event["step"], "samples" in event] = event
    return [steps[key] for key in sorted(steps)]
