"""What closes a cache: repeats are found, captions encoded, and the manifest is written.

Nothing here depends on the order in which videos were prepared, so a run that was killed, or that many machines shared,
ends with the manifest of an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ...temporal.hosts.diffusers.base import Base
from ..clips.store import Store
from .sources import Source

NAME = "manifest.parquet"
_AT_ONCE = 32  # captions
Row = dict[str, Any]


def manifest_rows(store: Store, sources: list[Source], failures: dict[str, str], level: float) -> list[Row]:
    """Every clip of every source in order with its caption, or with the reason why it is dropped."""
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
    """Give a reason to each kept clip whose `look` is that of an earlier kept one to within `level` everywhere."""
    from scipy.spatial import cKDTree

    kept = [row for row in rows if not row["reason"] and row["look"]]
    if len(kept) < 2:
        return
    looks = np.stack([np.frombuffer(row["look"], np.uint8) for row in kept]).astype(np.int16)
    # Where all of 256 cells are near, so are the means of their quarters: a small tree finds every candidate.
    coarse = looks.reshape(-1, 4, 2, 4, 2, 4).mean((3, 5)).reshape(len(kept), -1)
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


class Texts:
    """`CACHE/captions.lance`: tokens and pooled embedding, fp16, of each distinct caption; the empty one is first."""

    def __init__(self, cache: Path):
        self.path = cache / "captions.lance"

    def open(self) -> Any:
        """The dataset, made if it is not there."""
        import pyarrow as pa

        from ..clips.store import open_or_make

        columns = [("key", pa.string()), ("tokens", pa.large_binary()), ("pooled", pa.large_binary())]
        return open_or_make(self.path, pa.schema(columns))

    def rows(self) -> dict[str, int]:
        """Row of each caption, or of `npz:SIGNATURE` for embeddings that came with a clip."""
        keys = self.open().to_table(columns=["key"])["key"].to_pylist()
        return {key: row for row, key in enumerate(keys)}

    def add(self, items: Iterable[tuple[str, bytes, bytes]]) -> None:
        """Append (key, tokens, pooled), all at once."""
        import pyarrow as pa

        dataset = self.open()
        dataset.insert(pa.table([list(column) for column in zip(*items, strict=True)], schema=dataset.schema))


def text_key(row: Row) -> str:
    """Where a clip's embeddings stand among the texts."""
    return f"npz:{row['signature']}" if row.get("own_text") else row["caption"]


def add_texts(
    cache: Path, store: Store, rows: list[Row], base: Base, sizes: dict[str, Any], progress: Callable[[int, int], None]
) -> None:
    """Encode the captions of kept clips that are not encoded yet; take over embeddings that came with .npz clips.

    A clip whose own embeddings are not of the model's size is dropped. Those without a pooled embedding get their
    caption's.
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
    todo = iter(([] if "" in there else [""]) + captions)
    count, total = 0, len(captions) + ("" not in there)
    while some := list(islice(todo, _AT_ONCE)):
        texts.add(zip(some, *_encoded(base, some), strict=True))
        count += len(some)
        progress(count, total)
    for key, (caption, tokens, pooled) in own.items():
        if key not in there:
            texts.add([(key, tokens, pooled or _encoded(base, [caption])[1][0])])


def _encoded(base: Base, captions: list[str]) -> tuple[list[bytes], list[bytes]]:
    tokens, pooled = base.encode_text(captions)
    return tuple([row.half().cpu().numpy().tobytes() for row in part] for part in (tokens, pooled))  # type: ignore


def write_manifest(cache: Path, rows: list[Row]) -> None:
    """Write `CACHE/manifest.parquet`, one row a clip, the dropped ones and damaged videos included."""
    import pyarrow as pa
    import pyarrow.parquet

    from ...files import whole_or_nothing

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


def read_manifest(cache: Path) -> list[Row]:
    """Rows of a cache's manifest. Raises FileNotFoundError if there is none: the cache is not finished."""
    import pyarrow.parquet

    return pyarrow.parquet.read_table(cache / NAME).to_pylist()


def export_npz(cache: Path, store: Store, rows: list[Row], folder: Path, sizes: dict[str, Any]) -> int:
    """Write every kept clip as an .npz file; returns how many. Raises OSError."""
    from ..clips.npz import write_clip

    texts, where = Texts(cache).open(), Texts(cache).rows()
    kept = [row for row in rows if not row["reason"]]
    for row in kept:
        clip = np.frombuffer(store.take(row["row"], ["mean"])["mean"], np.float16).astype(np.float32)
        side = (row["height"] // sizes["factor"], row["width"] // sizes["factor"])
        text = texts.take([where[text_key(row)]]).to_pylist()[0]
        names = ("original_height", "original_width", "crop_top", "crop_left", "height", "width")
        write_clip(
            folder / (row["id"].replace("/", "_").replace("#", "_") + ".npz"),
            (clip * sizes["scaling_factor"]).reshape(row["frames"], 4, *side),
            np.frombuffer(text["tokens"], np.float16).reshape(sizes["tokens"]),
            np.frombuffer(text["pooled"], np.float16),
            caption=row["caption"],
            fps=row["fps"],
            time_ids=np.array([row[name] for name in names]),
        )
    return len(kept)
