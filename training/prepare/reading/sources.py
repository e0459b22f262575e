"""Sources to prepare: videos, numbered pictures and .npz clips, with names that do not change when a folder moves."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...clips.folder import is_picture, is_video
from ...clips.source import DataError

BESIDE = re.compile(r"\.(txt|json|csv|parquet|yaml|md)")  # captions and notes are not reported
Kind = Literal["video", "pictures", "npz"]
_NUMBERED = re.compile(r"(.*?)(\d+)")
_EDGE = 1 << 16


@dataclass
class Source:
    """One video, one sequence of pictures, or one .npz clip.

    name:      path below the given folder; pictures are named by their folder and the text before their numbers
    files:     one file, or the pictures in order of their numbers
    numbers:   of the pictures
    captions:  one for the source, or one for each scene
    scenes:    start and end in seconds; empty: cuts are detected
    signature: changes with the content and the scenes
    """

    name: str
    kind: Kind
    files: list[str]
    numbers: list[int] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    scenes: list[tuple[float, float]] = field(default_factory=list)
    signature: str = ""

    def sign(self) -> None:
        """Set the signature. Raises OSError for a file that cannot be read."""
        digest = hashlib.sha256(repr((self.kind, self.numbers, self.scenes)).encode())
        for file in self.files:
            digest.update(_glance(Path(file)))
        self.signature = digest.hexdigest()[:16]


def _glance(path: Path) -> bytes:
    """Return a digest of size, beginning and end of a file, which identify a video without reading all of it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_EDGE)
        file.seek(max(size - _EDGE, 0))
        return hashlib.sha256(f"{size}".encode() + start + file.read()).digest()


def find_sources(given: Iterable[Path]) -> tuple[list[Source], Counter[str]]:
    """Return the sources in folders and files, by name, and the number of skipped files by suffix.

    Raises DataError for a path that does not exist, for two sources of one name, and if there is nothing to prepare.
    """
    given = list(given)
    found: list[Source] = []
    passed_over: Counter[str] = Counter()
    for path in given:
        if path.is_dir():
            prefix = f"{path.resolve().name}/" if len(given) > 1 else ""
            found += _below(path, prefix, passed_over)
        elif path.is_file():
            found.append(Source(path.name, "npz" if path.suffix.lower() == ".npz" else "video", [str(path)]))
        else:
            raise DataError(f"videos: {path} does not exist")
    if not found:
        raise DataError(f"videos: no video, numbered pictures or .npz clip in {', '.join(map(str, given))}")
    names = Counter(source.name for source in found)
    if twice := [name for name, count in names.items() if count > 1]:
        raise DataError(f"videos: {twice[0]} is there twice; name the folder above both, or rename one")
    return sorted(found, key=lambda source: source.name), passed_over


def _below(folder: Path, prefix: str, passed_over: Counter[str]) -> Iterator[Source]:
    sequences: dict[str, list[tuple[int, Path]]] = {}
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    videos = {path.with_suffix("") for path in files if is_video(path)}
    for path in files:
        suffix = path.suffix.lower()
        name = prefix + path.relative_to(folder).as_posix()
        if is_video(path) or suffix == ".npz":
            yield Source(name, "npz" if suffix == ".npz" else "video", [str(path)])
        elif path.with_suffix("") in videos or BESIDE.fullmatch(suffix):
            continue
        elif is_picture(path) and (match := _NUMBERED.fullmatch(path.stem)):
            sequences.setdefault(name[: -len(path.name)] + match[1], []).append((int(match[2]), path))
        else:
            passed_over[suffix or path.name] += 1
    for name, pictures in sequences.items():
        numbers = sorted(pictures)
        yield Source(
            name.rstrip("/") or folder.resolve().name,
            "pictures",
            [str(path) for _, path in numbers],
            [number for number, _ in numbers],
        )
