"""Progress bars on stderr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .reading.sources import Source

Item = TypeVar("Item")


class Bars:
    """A bar of videos with the position in the current one, and a bar of captions."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.videos = self.progress.add_task("videos", total=None, visible=False)
        self.texts = self.progress.add_task("captions", total=None, visible=False)

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None):
        self.progress.stop()

    def sources(self, done: Iterable[Item], total: int) -> Iterator[Item]:
        """Pass finished sources through and count them."""
        self.progress.update(self.videos, total=total, visible=True)
        for item in done:
            yield item
            self.progress.advance(self.videos)
        self.progress.update(self.videos, description="videos")

    def clip(self, source: Source, row: dict[str, Any]) -> None:
        self.progress.update(self.videos, description=f"{escape(source.name[-40:])} at {row['start']:.0f} s")

    def captions(self, done: int, total: int) -> None:
        self.progress.update(self.texts, completed=done, total=total, visible=True)
