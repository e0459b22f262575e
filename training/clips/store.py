"""The files of a cache: its clips and captions, and its manifest with one row for each clip.

Clips are a Lance dataset to which a source is added whole or not at all.

Lance writes data first and a new version of its list of files last, in one atomic step. Files that a killed run wrote
but did not list are removed by the next run. Short texts and numbers have columns of their own; latents are bytes of
fp16.
"""

import json
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from ...files import whole_or_nothing

SIZES = ("original_height", "original_width", "crop_top", "crop_left", "height", "width")
"""SDXL's size conditioning of a clip, in its order."""
COLUMNS = {
    "string": ("id", "source", "signature", "reason", "unique"),
    "int32": ("scene", "frames", *SIZES),
    "float64": ("start", "fps"),
    "binary": ("look",),
    "large_binary": ("mean", "deviation", "tokens", "pooled"),
}
MANIFEST = "manifest.parquet"
Row = dict[str, Any]
LIGHT = [name for kind, names in COLUMNS.items() if kind != "large_binary" for name in names]
_SMALL_FILES = 64  # files that may be small before they are joined
_ROWS_A_FILE = 1024


def schema() -> Any:
    import pyarrow as pa

    return pa.schema([(name, pa.type_for_alias(kind)) for kind, names in COLUMNS.items() for name in names])


class Store:
    """`CACHE/clips.lance`, created if it is missing. One program writes at a time. Raises OSError."""

    def __init__(self, cache: Path):
        self.dataset = open_or_make(cache / "clips.lance", schema())
        self.path = str(cache / "clips.lance")

    def add(self, files: list[str]) -> None:
        """Make all files of one source part of the store in one atomic step."""
        from lance import LanceDataset, LanceOperation
        from lance.fragment import FragmentMetadata

        fragments = [FragmentMetadata.from_json(file) for file in files]
        append = LanceOperation.Append(fragments)
        self.dataset = LanceDataset.commit(self.path, append, read_version=self.dataset.version)
        if sum(fragment.count_rows() < _ROWS_A_FILE for fragment in self.dataset.get_fragments()) > _SMALL_FILES:
            self.tidy()

    def tidy(self) -> None:
        """Join small files; remove old versions and files left by a killed run."""
        self.dataset.optimize.compact_files(target_rows_per_fragment=_ROWS_A_FILE, batch_size=16)
        self.dataset.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)

    def remove(self, sources: Iterable[str]) -> None:
        """Remove the rows of these sources."""
        for name in sources:
            quoted = name.replace("'", "''")
            self.dataset.delete(f"source = '{quoted}'")

    def signatures(self) -> dict[str, str]:
        """Return the signature with which each source in the store was prepared."""
        table = self.dataset.to_table(columns=["source", "signature"])
        return dict(zip(*(table[name].to_pylist() for name in ("source", "signature")), strict=True))

    def light(self) -> list[dict[str, Any]]:
        """Return all rows without latents and embeddings, each with its number as `row`."""
        rows = self.dataset.to_table(columns=LIGHT).to_pylist()
        return [{**row, "row": number} for number, row in enumerate(rows)]

    def take(self, row: int, columns: list[str]) -> dict[str, Any]:
        """Return columns of one row."""
        return self.dataset.take([row], columns=columns).to_pylist()[0]


def open_or_make(path: Path, columns: Any) -> Any:
    """Open the Lance dataset at a path; if it is missing, create an empty one with these columns."""
    import lance

    if not path.exists():
        with whole_or_nothing(path) as part:
            lance.write_dataset(columns.empty_table(), str(part))
    return lance.dataset(str(path))


def write_rows(path: str, rows: Iterable[dict[str, Any]]) -> list[str]:
    """Write rows to files that are not yet part of the clips' dataset at `path`; return these files for `Store.add`.

    One row is in memory at a time. Any process that sees the folder may call this. Errors of the iterable pass through.
    """
    import pyarrow as pa
    from lance.fragment import write_fragments

    failure: list[BaseException] = []

    def batches() -> Iterator[Any]:
        try:
            for row in rows:
                yield pa.RecordBatch.from_pylist([row], schema=schema())
        except BaseException as error:
            failure.append(error)  # Lance would turn it into text
            raise

    try:
        reader = pa.RecordBatchReader.from_batches(schema(), batches())
        fragments = write_fragments(reader, path, schema=schema())
    except Exception:
        if failure:
            raise failure[0] from None
        raise
    return [json.dumps(fragment.to_json()) for fragment in fragments]


def read_manifest(cache: Path) -> list[Row]:
    """Return the rows of a cache's manifest. Raises FileNotFoundError if the cache is not finished."""
    import pyarrow.parquet

    return pyarrow.parquet.read_table(cache / MANIFEST).to_pylist()


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
