"""The manifest of a finished cache: every clip with its caption, repeats marked.

The result does not depend on the order in which videos were prepared, so a killed run that continues, or one on many
machines, ends with the same manifest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...files import whole_or_nothing
from ..clips.manifest import NAME, Row, text_key
from ..clips.store import Store
from .reading.sources import Source


def manifest_rows(store: Store, sources: list[Source], failures: dict[str, str], level: float) -> list[Row]:
    """Return every clip of every source in order, with its caption and, if it is dropped, the reason."""
    known = {source.name: source for source in sources}
    rows = [row for row in store.light() if row["source"] in known and row["source"] not in failures]
    rows.sort(key=lambda row: row["id"])
    mark_repeats(rows, level)
    for row in rows:
        captions = known[row["source"]].captions
        row["caption"] = captions[min(row["scene"], len(captions) - 1)] if captions else ""
    rows += [_failed(name, reason) for name, reason in failures.items()]
    return sorted(rows, key=lambda row: row["id"])


def _failed(name: str, reason: str) -> Row:
    return {"id": name, "source": name, "signature": "", "reason": f"cannot be read: {reason}", "frames": 0, "row": -1}


def mark_repeats(rows: list[Row], level: float) -> None:
    """Mark as repeat each kept clip whose `look` differs nowhere by more than `level` from an earlier kept clip's."""
    from scipy.spatial import cKDTree

    kept = [row for row in rows if not row["reason"] and row["look"]]
    if len(kept) < 2:
        return
    looks = np.stack([np.frombuffer(row["look"], np.uint8) for row in kept]).astype(np.int16)
    # If all 256 cells are near, so are the means of their quarters: a tree of these finds every candidate.
    coarse = looks.reshape(-1, 4, 2, 4, 2, 4).mean((3, 5)).reshape(len(kept), -1)  # [clips, 4 frames x 2 x 2 cells]
    pairs = cKDTree(coarse).query_pairs(level + 1e-6, p=np.inf, output_type="ndarray")
    near = np.concatenate(
        [np.abs(looks[a] - looks[b]).max(1) <= level for a, b in _parts(pairs)] or [np.empty(0, bool)]
    )
    for first, second in sorted(map(tuple, np.sort(pairs[near], 1).tolist()), key=lambda pair: pair[::-1]):
        a, b = kept[first], kept[second]
        same = all(a[key] == b[key] for key in ("frames", "height", "width"))
        if same and not a["reason"] and not b["reason"] and not _overlap(a, b):
            b["reason"] = f"repeat: of {a['source']} at {a['start']:g} s"


def _parts(pairs: np.ndarray, size: int = 100_000) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size, 0], pairs[start : start + size, 1]


def _overlap(a: Row, b: Row) -> bool:
    return a["source"] == b["source"] and abs(a["start"] - b["start"]) < a["frames"] / a["fps"] - 1e-3


def write_manifest(cache: Path, rows: list[Row]) -> None:
    """Write `CACHE/manifest.parquet`: one row for each clip, including dropped clips and damaged videos."""
    import pyarrow as pa
    import pyarrow.parquet

    kinds = {
        "string": ("id", "source", "caption", "text", "reason", "unique"),
        "bool": ("kept",),
        "int32": (
            "scene", "frames", "drawings", "original_height", "original_width", "crop_top", "crop_left", "height",
            "width",
        ),
        "float64": ("start", "end", "fps"),
    }  # fmt: skip
    schema = pa.schema([(name, pa.type_for_alias(kind)) for kind, names in kinds.items() for name in names])
    full = [
        {
            **row,
            "kept": not row["reason"],
            "text": None if row["reason"] else text_key(row),
            "drawings": row.get("unique", "").count("1"),
            "end": row["start"] + row["frames"] / row["fps"] if "start" in row else None,
        }
        for row in rows
    ]
    with whole_or_nothing(cache / NAME) as part:
        pa.parquet.write_table(pa.Table.from_pylist(full, schema=schema), part)
