"""The end of a run: the manifest of a cache, every clip with its caption, repeats marked; and the captions' embeddings.

The result does not depend on the order in which videos were prepared, so a killed run that continues, or one on many
machines, ends with the same manifest.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...files import whole_or_nothing
from ...temporal.hosts.diffusers.base import Base
from ..clips.store import MANIFEST, SIZES, Row, Store, Texts, text_key
from .reading.sources import Source

_AT_ONCE = 32  # captions encoded at once


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
        "int32": ("scene", "frames", "drawings", *SIZES),
        "float64": ("start", "end", "fps"),
    }
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
    with whole_or_nothing(cache / MANIFEST) as part:
        pa.parquet.write_table(pa.Table.from_pylist(full, schema=schema), part)


def add_texts(
    cache: Path, store: Store, rows: list[Row], base: Base, sizes: dict[str, Any], progress: Callable[[int, int], None]
) -> None:
    """Encode new captions of kept clips; copy embeddings that came with .npz clips.

    A clip with embeddings of another size than the model's is dropped. One without a pooled embedding gets that of its
    caption.
    """
    texts = Texts(cache)
    there = texts.rows()
    kept = [row for row in rows if not row["reason"]]
    own = {}
    for row in kept:
        if not row["look"]:  # of an .npz clip
            tokens, pooled = store.take(row["row"], ["tokens", "pooled"]).values()
            expected = 2 * sizes["tokens"][0] * sizes["tokens"][1]
            if tokens and (len(tokens) != expected or len(pooled) not in (0, 2 * sizes["pooled"])):
                row["reason"] = f"text: embeddings of another model ({len(tokens) // 2} values, not {expected // 2})"
            elif tokens:
                row["own_text"] = True
                own[text_key(row)] = (row["caption"], tokens, pooled)
    captions = sorted({row["caption"] for row in kept if not row["reason"] and not row.get("own_text")} - {"", *there})
    todo = captions if "" in there else ["", *captions]
    for first in range(0, len(todo), _AT_ONCE):
        some = todo[first : first + _AT_ONCE]
        texts.add(zip(some, *_encoded(base, some), strict=True))
        progress(first + len(some), len(todo))
    for key, (caption, tokens, pooled) in own.items():
        if key not in there:
            texts.add([(key, tokens, pooled or _encoded(base, [caption])[1][0])])


def _encoded(base: Base, captions: list[str]) -> tuple[list[bytes], list[bytes]]:
    tokens, pooled = base.encode_text(captions)
    return tuple([row.half().cpu().numpy().tobytes() for row in part] for part in (tokens, pooled))  # type: ignore
