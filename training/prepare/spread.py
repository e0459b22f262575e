"""Prepare sources through Ray Data: decoding on CPUs, encoding by a model on every GPU.

Each encoder writes its clips to files beside those of the store. The calling program makes the files of a source part
of the store when all have come. So every machine must see the cache's folder and the videos by the same paths.
"""

import json
import os
import socket
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..clips.source import DataError
from ..clips.store import COLUMNS, write_rows
from .options import PrepareConfig
from .reading.sources import Source
from .walk import encode_row, open_model, walk

_MOST_BLOCKS = 2000  # blocks of sources, each decoded by one task
_EMPTY = {"string": "", "int32": 0, "float64": 0.0, "binary": b"", "large_binary": b""}
_BLANK = {name: _EMPTY[kind] for kind, names in COLUMNS.items() for name in names if name not in ("mean", "deviation")}
# Columns beside those of the store: number of the source, pixels or latents, count of its rows, error.
_MORE = {"number": -1, "pictures": b"", "latents": b"", "count": 0, "error": ""}


def spread(
    sources: list[Source], config: PrepareConfig, store: str, multiple: int, factor: int
) -> Iterator[tuple[Source, list[str], str]]:
    """Yield each finished source: files to add to the store, or the error.

    Raises DataError if there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send statistics to its makers
    import ray
    import ray.data

    # Ray executes another program right after a fork.
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    try:
        _require_listener(str(config.ray))
        ray.init(address=config.ray, logging_level="ERROR", log_to_driver=False)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise DataError(f"ray: no cluster at {config.ray} ({error}); start one with `ray start --head`") from None
    try:
        yield from _stream(ray, sources, config, store, multiple, factor)
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Raise OSError or OverflowError unless something listens at host:port; Ray itself would try for two minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():  # not local or auto
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _stream(ray: Any, sources: list[Source], config: PrepareConfig, store: str, multiple: int, factor: int):
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    jobs = [
        json.dumps({**asdict(source), "files": [str(Path(file).resolve()) for file in source.files]})
        for source in sources
    ]
    blocks = min(len(jobs), _MOST_BLOCKS)
    gpus, cpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
    encoders = {"num_gpus": 1} if gpus else {"num_cpus": 0.5}
    checkpoint = str(Path(config.checkpoint).resolve()) if Path(config.checkpoint).exists() else config.checkpoint
    rows = (
        ray.data.from_items(
            [{"number": number, "job": job} for number, job in enumerate(jobs)], override_num_blocks=blocks
        )
        .map_batches(
            _decode,
            batch_size=1,
            batch_format="pyarrow",
            fn_kwargs={"config": config, "multiple": multiple, "factor": factor},
            num_cpus=1 if gpus else 0.5,
        )
        .map_batches(
            _Encoder,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_kwargs={"config": config, "checkpoint": checkpoint, "store": str(Path(store).resolve())},
            compute=ray.data.ActorPoolStrategy(size=max(1, gpus or cpus // 2)),
            **encoders,
        )
    )
    files: dict[int, list[str]] = defaultdict(list)
    counts: dict[int, int] = {}
    failed: set[int] = set()
    for row in rows.iter_rows():
        number = row["number"]
        if row["error"] and number not in failed:
            failed.add(number)
            yield sources[number], [], row["error"]
        elif row["count"]:
            counts[number] = row["count"]
        elif row["file"]:
            files[number].append(row["file"])
        if number not in failed and len(files[number]) == counts.get(number):
            yield sources[number], files.pop(number), ""


def _decode(batch: Any, config: PrepareConfig, multiple: int, factor: int) -> Iterator[Any]:
    """Yield the rows of one source one by one, then their number or the error."""
    import pyarrow as pa

    (job,) = batch.to_pylist()
    count, last = 0, {}
    try:
        for row in walk(Source(**json.loads(job["job"])), config, multiple, factor):
            count += 1
            pixels = {name: row[name].tobytes() for name in ("pictures", "latents") if name in row}
            yield pa.Table.from_pylist([{**_BLANK, **_MORE, **row, **pixels, "number": job["number"]}])
        last = {"count": count}
    except (ValueError, OSError) as error:
        last = {"error": str(error)}
    yield pa.Table.from_pylist([{**_BLANK, **_MORE, **last, "number": job["number"]}])


class _Encoder:
    def __init__(self, config: PrepareConfig, checkpoint: str, store: str):
        self.config, self.store = config, store
        self.base, _ = open_model(config.model_copy(update={"checkpoint": checkpoint}))

    def __call__(self, batch: Any) -> dict[str, list[Any]]:
        (row,) = batch.to_pylist()
        number, count, error = (row.pop(name) for name in ("number", "count", "error"))
        pictures, latents = row.pop("pictures"), row.pop("latents")
        file = ""
        if row["id"]:
            if pictures:
                shape = (row["frames"], row["height"], row["width"], 3)
                row["pictures"] = np.frombuffer(pictures, np.uint8).reshape(shape).copy()
            if latents:
                row["latents"] = np.frombuffer(latents, np.float32)
            try:
                (file,) = write_rows(self.store, [encode_row(self.base, row, self.config.batch, self.config.precision)])
            except ValueError as problem:
                error = str(problem)
        return {"number": [number], "count": [count], "error": [error], "file": [file]}
