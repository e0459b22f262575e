"""`sdxl-anime-video render CONFIG.json [--field value ...]`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..commands.overrides import parse_overrides, read_config
from ..commands.verbs import answer, run_verb
from .config import RenderConfig

USAGE = """usage: sdxl-anime-video render CONFIG.json [--field value ...]

Renders a clip. Fields of the config, all of which can be overridden here:
"""


def main(arguments: list[str]) -> int:
    """Run the verb; returns the exit status. Errors of the user's making are one line on stderr."""
    status = answer(arguments, USAGE, RenderConfig)
    return run_verb("render", lambda: _render(*arguments)) if status is None else status


def _render(path: str, *words: str) -> None:
    config = read_config(Path(path), parse_overrides(list(words), RenderConfig), RenderConfig)
    import torch  # only now: it takes seconds to load

    from .render import render

    try:
        with _bars() as report:
            render(config, report, lambda line: sys.stderr.write(f"{line}\n"))
    except torch.OutOfMemoryError:
        raise MemoryError(
            f"the GPU has no room for {config.segment_frames or config.frames} frames of "
            f"{config.width}x{config.height} at once; lower segment_frames, width or height"
        ) from None
    sys.stdout.write(f"{config.output}\n")


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], Any]]:
    """A bar on stderr for each part of the work."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield report
