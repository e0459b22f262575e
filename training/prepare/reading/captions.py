"""Captions: from files beside the videos, or with scenes from a CSV or Parquet manifest."""

import math
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...clips.folder import find_caption
from ...clips.source import DataError
from .sources import Source

# Accepted names of columns. The last ones are Sakuga-42M's, whose identifier is VIDEO:CLIP with the stem of the file.
COLUMNS = {
    "file": ("file", "path", "video", "video_path", "file_name", "filename", "identifier"),
    "caption": ("caption", "prompt", "text", "text_description"),
    "start": ("start", "start_time", "scene_start_time"),
    "end": ("end", "end_time", "scene_end_time"),
}


def beside(source: Source) -> str:
    """Return the caption in NAME.json or NAME.txt, of pictures also in their folder; empty if there is none.

    Raises DataError for a caption file that cannot be read.
    """
    first = Path(source.files[0])
    places = [first] if source.kind != "pictures" else [first.parent / source.name.rsplit("/", 1)[-1], first.parent]
    if source.kind == "pictures":
        places.append(first.parent / "caption")
    return next((caption for place in places if (caption := find_caption(place)) is not None), "")


def apply_manifest(path: Path, sources: list[Source]) -> int:
    """Set the captions and scenes of sources from a manifest; return how many of its rows name no source.

    A row names a file by its path below the folder, its file name, or its stem. Rows with start and end (seconds, or
    hours:minutes:seconds) are scenes of the video; a row without them is the caption of the whole video.
    Raises DataError for a file that is no manifest, and for rows that contradict each other.
    """
    known: dict[str, Source | None] = {}
    for source in sources:
        names = {source.name, source.name.rsplit("/", 1)[-1], Path(source.name).stem}
        for name in names:
            known[name] = None if name in known else source  # ambiguous
    unknown: Counter[str] = Counter()
    scenes: dict[str, list[tuple[float, float, str]]] = {}
    whole: dict[str, str] = {}
    for number, row in enumerate(_rows(path), 2):
        name = str(row["file"])
        source = known.get(name) or known.get(Path(name).name) or known.get(name.split(":")[0])
        if source is None:
            unknown[name] += 1
            continue
        caption = "" if row.get("caption") is None else str(row["caption"]).strip()
        start, end = (_seconds(row.get(side), path, number) for side in ("start", "end"))
        if start is not None and end is not None:
            if not 0 <= start < end:
                raise DataError(
                    f"{path}: row {number}: a scene from {start:g} to {end:g} s; its end must come after its start"
                )
            scenes.setdefault(source.name, []).append((start, end, caption))
        elif source.name in whole:
            raise DataError(f"{path}: row {number}: {name} has a second caption; add start and end to both")
        else:
            whole[source.name] = caption
    for source in sources:
        if source.name in scenes:
            ordered = sorted(scenes[source.name])
            if late := next((b for a, b in pairwise(ordered) if b[0] < a[1] - 0.05), None):
                raise DataError(
                    f"{path}: {source.name}: the scene at {late[0]:g} s begins before the previous one ends"
                )
            source.scenes = [(start, end) for start, end, _ in ordered]
            source.captions = [caption or whole.get(source.name, "") for *_, caption in ordered]
        elif source.name in whole:
            source.captions = [whole[source.name]]
    return unknown.total()


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield rows with the keys of COLUMNS; a large manifest is read in parts."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if path.suffix.lower() == ".parquet":
            file = pa.parquet.ParquetFile(path)
            names, batches = file.schema_arrow.names, file.iter_batches
        elif path.suffix.lower() == ".csv":
            with pa.csv.open_csv(path) as reader:
                names = reader.schema.names
            text = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True)

            def batches(columns: list[str]) -> Iterator[Any]:
                for batch in pa.csv.open_csv(path, convert_options=text):
                    yield batch.select(columns)
        else:
            raise DataError(f"manifest: {path} is neither .csv nor .parquet")
        found = {key: next((name for name in those if name in names), None) for key, those in COLUMNS.items()}
        if found["file"] is None or found["caption"] is None:
            missing = "file" if found["file"] is None else "caption"
            raise DataError(
                f"{path}: no column for the {missing}; name it one of {', '.join(COLUMNS[missing])} (the columns are "
                f"{', '.join(names)})"
            )
        columns = {name: key for key, name in found.items() if name}
        for batch in batches(columns=list(columns)):
            for row in batch.to_pylist():
                yield {columns[name]: value for name, value in row.items()}
    except FileNotFoundError:
        raise DataError(f"manifest: {path} does not exist") from None
    except pa.ArrowInvalid as error:
        raise DataError(f"manifest: {path} cannot be read: {' '.join(str(error).split())}") from None


def _seconds(value: Any, path: Path, number: int) -> float | None:
    """Return a time in seconds from seconds or hours:minutes:seconds; None for an empty cell."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    try:
        seconds = 0.0
        for part in str(value).split(":"):
            seconds = seconds * 60 + float(part)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise DataError(f"{path}: row {number}: {value!r} is no time; write seconds, or hours:minutes:seconds")
    return seconds
