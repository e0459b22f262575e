"""Turn a source into rows of the cache, before encoding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...temporal.measure.drawings import new_drawings
from ..clips.source import DataError
from ..clips.store import SIZES, Row
from . import npz
from .options import PrepareConfig
from .pieces import cut, fault, look, on_grid
from .reading.frames import given_scenes, scenes, shown_frames, size_of
from .reading.sources import Source
from .sizes import fit


def walk(source: Source, config: PrepareConfig, multiple: int, factor: int) -> Iterator[Row]:
    """Yield every clip of a source in order, dropped clips with their reason; at least one row.

    A row has the store's columns, and `pictures` uint8 `[F, H, W, 3]` of a clip that is yet to be encoded.
    Frames stream through: at most `frames + min_frames` of the config are in memory.
    Raises DataError with the reason if the source is damaged; then no row of it may be kept.
    """
    try:
        rows = npz.read_clip(source, config, factor) if source.kind == "npz" else _walk(source, config, multiple)
        for index, row in enumerate(rows):
            named = {"id": f"{source.name}#{index:05d}", "source": source.name, "signature": source.signature}
            yield {"fps": config.fps, **row, **named}
    except MemoryError:
        raise
    except Exception as error:  # decoders raise errors of many kinds
        raise DataError(" ".join(str(error).split()) or type(error).__name__) from error


def _walk(source: Source, config: PrepareConfig, multiple: int) -> Iterator[Row]:
    into = fit(*size_of(source), config.resolution, multiple)
    sizes = dict(zip(SIZES, (*into.original, *into.crop, *into.target), strict=True))
    if into.enlargement > config.max_enlargement:
        height, width = into.original
        reason = (
            f"small: {width}x{height} needs enlarging {into.enlargement:.2g} times, max_enlargement is "
            f"{config.max_enlargement:g}"
        )
        yield {**sizes, "scene": 0, "start": 0.0, "frames": 0, "unique": "", "look": b"", "reason": reason}
        return
    shown = shown_frames(source, config.fps)
    numbered = given_scenes(shown, source.scenes) if source.scenes else scenes(shown, config)
    empty = True
    for clip in cut(on_grid(numbered, config.fps, into), config):
        empty = False
        greys = np.stack([picture.grey for picture in clip])
        reason = fault(greys, config)
        row = {
            **sizes,
            "scene": clip[0].scene,
            "start": round(clip[0].time, 6),
            "frames": len(clip),
            "unique": "".join(str(int(new)) for new in new_drawings(picture.pixels for picture in clip)),
            "look": look(greys),
            "reason": reason,
        }
        yield row if reason else {**row, "pictures": np.stack([picture.pixels for picture in clip])}
    if empty:
        raise DataError("no frame in the scenes of the manifest")
