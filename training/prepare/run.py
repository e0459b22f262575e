"""One run of `sdxl-anime-video prepare`: brings the cache up to date with the videos."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ...temporal.hosts.diffusers.base import Base
from ..clips.identity import changes, probe, read_identity, write_identity
from ..clips.source import DataError
from ..clips.store import MANIFEST, Store, write_rows
from .manifest import add_texts, manifest_rows, write_manifest
from .npz import export_npz
from .options import PrepareConfig
from .reading.captions import apply_manifest, beside
from .reading.sources import Source, find_sources
from .spread import spread
from .walk import encode_row, open_model, walk

Item = TypeVar("Item")


def prepare(config: PrepareConfig) -> Path:
    """Bring the cache up to date with the videos; return its folder. Raises ValueError or OSError with the remedy."""
    sources, passed_over = find_sources(config.videos)
    if config.output.is_file():
        raise DataError(f"output: {config.output} is a file; name a folder")
    config.output.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(config.output / ".lock", timeout=0):
            _update(config, sources, passed_over)
    except Timeout:
        raise DataError(f"output: another prepare is running in {config.output}; wait for it") from None
    except OSError as error:
        raise _plain(error, config.output) from None
    return config.output


def _plain(error: OSError, cache: Path) -> OSError:
    """Return the system's own error where Lance has wrapped it: `LanceError(IO): ... (os error 28)`."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1])), str(cache)) if number else error


def _update(config: PrepareConfig, sources: list[Source], passed_over: Counter[str]) -> None:
    base, multiple = open_model(config)
    sizes = _identify(config, base)
    unknown, failures = _describe(config, sources)
    store = Store(config.output)
    there = store.signatures()
    todo = [source for source in sources if there.get(source.name) != source.signature and source.name not in failures]
    store.remove(source.name for source in todo if source.name in there)
    with Bars() as bars:
        if todo:
            if config.ray:
                done = spread(todo, config, store.path, multiple, base.factor)
            else:
                done = _work(todo, config, store, multiple, base, bars)
            for source, files, error in bars.sources(done, len(todo)):
                if error:
                    failures[source.name] = error
                else:
                    store.add(files)
            store.tidy()
        rows = manifest_rows(store, sources, failures, config.repeat_level)
        add_texts(config.output, store, rows, base, sizes, bars.captions)
        write_manifest(config.output, rows)
        if config.npz:
            export_npz(config.output, store, rows, config.npz, sizes)
    _report(config, rows, failures, passed_over, unknown, len(there.keys() - {source.name for source in sources}))


def _identify(config: PrepareConfig, base: Base) -> dict[str, Any]:
    """Begin a cache, or check that it is of this model and these settings; return the model's sizes."""
    probed, settings = probe(base), config.fixed()
    made = read_identity(config.output)
    if made is None:
        if others := sorted(path.name for path in config.output.iterdir() if not path.name.startswith(".")):
            raise DataError(f"output: {config.output} is no cache and holds {others[0]}; name an empty folder")
        write_identity(config.output, probed, settings, config.checkpoint)
    elif stale := changes(made, probed, settings):
        raise DataError(
            f"output: {config.output} was prepared otherwise: {stale}; use the same, or name another folder"
        )
    return probed["sizes"]


def _describe(config: PrepareConfig, sources: list[Source]) -> tuple[int, dict[str, str]]:
    """Set captions, scenes and signatures; return the number of unknown manifest rows, and unreadable sources."""
    unknown = apply_manifest(config.manifest, sources) if config.manifest else 0
    failures = {}
    for source in sources:
        try:
            if not source.captions:
                source.captions = [beside(source)]
            source.sign()
        except (ValueError, OSError) as error:
            failures[source.name] = str(error)
    return unknown, failures


def _work(
    sources: list[Source], config: PrepareConfig, store: Store, multiple: int, base: Base, bars: Bars
) -> Iterator[tuple[Source, list[str], str]]:
    """Yield each finished source: files to add to the store, or the error."""
    for source in sources:

        def rows(source: Source = source) -> Iterator[dict[str, Any]]:
            for row in walk(source, config, multiple, base.factor):
                bars.clip(source, row)
                yield encode_row(base, row, config.batch, config.precision)

        try:
            yield source, write_rows(store.path, rows()), ""
        except ValueError as error:  # damaged, or the VAE fails on it; a failure to write is an OSError
            yield source, [], str(error)


def _report(
    config: PrepareConfig,
    rows: list[dict[str, Any]],
    failures: dict[str, str],
    passed_over: Counter[str],
    unknown: int,
    others: int,
) -> None:
    """Print the result on stdout. Raises DataError if no clip is left to train on."""
    kept = [row for row in rows if not row["reason"]]
    dropped = Counter(row["reason"].split(":")[0] for row in rows if row["reason"] and row["source"] not in failures)
    silent = sum(not row["caption"] and not row.get("own_text") for row in kept)
    lines = [
        f"{config.output}: {len(kept)} clips, {sum(row['frames'] for row in kept)} frames, of "
        f"{len({row['source'] for row in kept})} videos",
        *(f"dropped: {count} {reason}" for reason, count in sorted(dropped.items())),
        *(f"cannot be read: {name}: {reason}" for name, reason in sorted(failures.items())),
        *(f"passed over: {count} files {suffix}" for suffix, count in sorted(passed_over.items())),
    ]
    if silent:
        lines.append(f"without a caption: {silent} clips")
    if unknown:
        lines.append(f"{config.manifest}: {unknown} rows name no video that is here")
    if others:
        lines.append(
            f"left out: {others} videos that were prepared earlier and are not in {', '.join(map(str, config.videos))}"
        )
    lines.append(f"every clip, kept or dropped, is in {config.output / MANIFEST}")
    sys.stdout.write("\n".join(lines) + "\n")
    if not kept:
        raise DataError("no clip is left to train on; see the reasons above")


class Bars(Progress):
    """On stderr, a bar of videos with the position in the current one, and a bar of captions."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.videos = self.add_task("videos", total=None, visible=False)
        self.texts = self.add_task("captions", total=None, visible=False)

    def sources(self, done: Iterable[Item], total: int) -> Iterator[Item]:
        """Pass finished sources through and count them."""
        self.update(self.videos, total=total, visible=True)
        for item in done:
            yield item
            self.advance(self.videos)
        self.update(self.videos, description="videos")

    def clip(self, source: Source, row: dict[str, Any]) -> None:
        self.update(self.videos, description=f"{escape(source.name[-40:])} at {row['start']:.0f} s")

    def captions(self, done: int, total: int) -> None:
        self.update(self.texts, completed=done, total=total, visible=True)
