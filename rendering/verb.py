"""`sdxl-anime-video render CONFIG.json [--field value ...]`."""

from __future__ import annotations

import sys
from collections.abc import Callable
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
        with _Bars() as report:
            render(config, report, lambda line: sys.stderr.write(f"{line}\n"))
    except torch.OutOfMemoryError:
        raise MemoryError(
            f"the GPU has no room for {config.segment_frames or config.frames} frames of "
            f"{config.width}x{config.height} at once; lower segment_frames, width or height"
        ) from None
    sys.stdout.write(f"{config.output}\n")


class _Bars:
    """A bar on stderr for each part of the work."""

    def __enter__(self) -> Callable[[str, int, int], Any]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=Console(stderr=True))
        self.progress.start()
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = self.progress.add_task(what, total=total)
            self.progress.update(tasks[what], completed=done)

        return report

    def __exit__(self, *_: Any) -> None:
        self.progress.stop()
