"""A cache's manifest (one row for each clip) and texts (one row for each caption)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .store import open_or_make

NAME = "manifest.parquet"
Row = dict[str, Any]


def read_manifest(cache: Path) -> list[Row]:
    """Return the rows of a cache's manifest. Raises FileNotFoundError if the cache is not finished."""
    import pyarrow.parquet

    return pyarrow.parquet.read_table(cache / NAME).to_pylist()


class Texts:
    """`CACHE/captions.lance`: tokens and pooled embedding (fp16) of each distinct caption, the empty one first."""

    def __init__(self, cache: Path):
        self.path = cache / "captions.lance"

    def open(self) -> Any:
        """Return the dataset; an empty one is created if it is missing."""
        import pyarrow as pa

        columns = [("key", pa.string()), ("tokens", pa.large_binary()), ("pooled", pa.large_binary())]
        return open_or_make(self.path, pa.schema(columns))

    def rows(self) -> dict[str, int]:
        """Return the row of each key: a caption, or `npz:SIGNATURE` for embeddings that came with a clip."""
        keys = self.open().to_table(columns=["key"])["key"].to_pylist()
        return {key: row for row, key in enumerate(keys)}

    def add(self, items: Iterable[tuple[str, bytes, bytes]]) -> None:
        """Append rows of (key, tokens, pooled) in one atomic step."""
        import pyarrow as pa

        dataset = self.open()
        dataset.insert(pa.table([list(column) for column in zip(*items, strict=True)], schema=dataset.schema))


def text_key(row: Row) -> str:
    """Return the key of a clip's embeddings among the texts."""
    return f"npz:{row['signature']}" if row.get("own_text") else row["caption"]
