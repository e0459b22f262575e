"""The cache's manifest and texts: one row a clip, one row a caption."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .store import open_or_make

NAME = "manifest.parquet"
Row = dict[str, Any]


def read_manifest(cache: Path) -> list[Row]:
    """Rows of a cache's manifest. Raises FileNotFoundError if there is none: the cache is not finished."""
    import pyarrow.parquet

    return pyarrow.parquet.read_table(cache / NAME).to_pylist()


class Texts:
    """`CACHE/captions.lance`: tokens and pooled embedding, fp16, of each distinct caption; the empty one is first."""

    def __init__(self, cache: Path):
        self.path = cache / "captions.lance"

    def open(self) -> Any:
        """The dataset, made if it is not there."""
        import pyarrow as pa

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
