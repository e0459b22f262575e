"""Clips of a cache, read from disk as they are drawn."""

import hashlib
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...temporal.hosts.diffusers.base import Base, Text
from ...temporal.weights.listing import listed
from .identity import NAME, changes, probe, read_identity
from .source import ClipSource, DataError
from .store import MANIFEST, SIZES, Store, Texts, read_manifest

log = logging.getLogger(__name__)


def is_cache(folder: Path) -> bool:
    """Return whether `prepare` made this folder."""
    return (folder / NAME).exists()


def require_resolution(folder: Path, resolution: int | None) -> None:
    """Raise DataError if `resolution` is not the one that the cache was prepared at."""
    made = read_identity(folder)
    assert made is not None  # is_cache
    if resolution not in (None, prepared := made["settings"]["resolution"]):
        raise DataError(
            f"resolution: {folder} was prepared at {prepared}, not {resolution}; set resolution to {prepared}, or "
            f"prepare the videos with --resolution {resolution} into another folder and give that as clips"
        )


def open_cache(folder: Path, base: Base, resolution: int | None = None, shortest: int = 1) -> ClipSource:
    """Return the kept clips of a cache; those of fewer than `shortest` frames are left out, with a warning.

    Raises DataError if the cache was made with another VAE, other text encoders or another `resolution`, is not
    finished, or holds no clip that is long enough.
    """
    made = read_identity(folder)
    assert made is not None  # is_cache
    require_resolution(folder, resolution)
    if stale := changes(made, probe(base)):
        raise DataError(f"clips: {folder} does not fit the base: {stale}; prepare the videos with this checkpoint")
    try:
        rows = [row for row in read_manifest(folder) if row["kept"]]
    except FileNotFoundError:
        raise DataError(f"clips: {folder} is not finished; run the same `prepare` again to finish it") from None
    long = [row for row in rows if row["frames"] >= shortest]
    if not long:
        most = max((row["frames"] for row in rows), default=0)
        raise DataError(f"frames: {shortest} is more than any clip in {folder} has ({most}); lower it")
    if short := [row["id"] for row in rows if row["frames"] < shortest]:
        log.warning("%d clips of fewer than %d frames are left out: %s", len(short), shortest, listed(short))
    return PreparedClips(folder, made["sizes"], long)


class Unchanged:
    """The state of a cache when a run opened it. Comparing it takes a few calls of `stat`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.stamp, self.content = self._stamp(), self._content()

    def require(self) -> None:
        """Raise DataError if the content of the cache has changed."""
        stamp = self._stamp()
        if stamp == self.stamp:
            return
        if self._content() != self.content:
            raise DataError(
                f"clips: {self.folder} has been changed since this run opened it; finish preparing it, then go on with "
                "--resume latest"
            )
        self.stamp = stamp  # prepared again with the same result

    def _stamp(self) -> list[tuple[int, int] | None]:
        """Return time and size of the manifest and of the folders with the versions of clips and captions."""
        places = (MANIFEST, "clips.lance/_versions", "captions.lance/_versions")
        stats = [(self.folder / place).stat() if (self.folder / place).exists() else None for place in places]
        return [stat and (stat.st_mtime_ns, stat.st_size) for stat in stats]

    def _content(self) -> tuple[Any, ...]:
        manifest = self.folder / MANIFEST
        digest = hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.exists() else None
        versions = (self.folder / name / "_versions" for name in ("clips.lance", "captions.lance"))
        return digest, *(sorted(path.name for path in folder.glob("*")) for folder in versions)


class PreparedClips(ClipSource):
    """The clips of a cache. The manifest is in memory; latents and embeddings are read when they are drawn.

    Reading raises DataError if the cache has changed since it was opened, because its rows may differ.
    """

    def __init__(self, folder: Path, sizes: dict, rows: list[dict]):
        self.unchanged = Unchanged(folder)
        self.store, self.texts = Store(folder), Texts(folder).open()
        self.sizes_of_text = (sizes["tokens"], sizes["pooled"])
        self.scale = sizes["scaling_factor"]
        place = {name: row for row, name in enumerate(self.store.dataset.to_table(columns=["id"])["id"].to_pylist())}
        text = Texts(folder).rows()
        try:
            self.rows = [place[row["id"]] for row in rows]
            self.caption = [text[row["text"]] for row in rows]
        except KeyError as error:
            raise DataError(f"clips: {folder} lacks {error}; run the same `prepare` again to complete it") from None
        self.names = [row["id"] for row in rows]
        self.lengths = [row["frames"] for row in rows]
        self.sizes = [(row["height"] // sizes["factor"], row["width"] // sizes["factor"]) for row in rows]
        self.ids = torch.tensor([[row[name] for name in SIZES] for row in rows], dtype=torch.float32)
        self.fps = Counter(row["fps"] for row in rows).most_common(1)[0][0]

    def frames(self, i: int, start: int, count: int, generator: torch.Generator | None = None) -> torch.Tensor:
        self.unchanged.require()
        parts = self.store.take(self.rows[i], ["mean", "deviation"])
        shape = (self.lengths[i], 4, *self.sizes[i])
        mean, deviation = (
            torch.from_numpy(np.frombuffer(parts[name], np.float16).reshape(shape)[start : start + count].astype("f4"))
            for name in ("mean", "deviation")
        )
        if generator is not None:
            mean = mean + deviation * torch.randn(mean.shape, generator=generator)
        return mean * self.scale

    def text(self, rows: torch.Tensor) -> Text:
        distinct, back = rows.unique(return_inverse=True)
        found = self.texts.take(distinct.tolist(), columns=["tokens", "pooled"])
        tokens, pooled = (
            torch.from_numpy(np.stack([np.frombuffer(cell.as_py(), np.float16) for cell in found[name]])).float()
            for name in ("tokens", "pooled")
        )
        return tokens.unflatten(1, self.sizes_of_text[0])[back], pooled[back]

    def time_ids(self, i: int) -> torch.Tensor:
        return self.ids[i]
