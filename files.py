"""Files that are whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_or_nothing(path: str | Path) -> Iterator[Path]:
    """Give a temporary neighbour ``.<name>.part`` to write, file or folder, and rename it to ``path`` at the end.

    If the block fails or is interrupted the neighbour is removed and ``path`` stays as it was. A neighbour that an
    earlier, killed run has left is removed first. The dot keeps it out of listings, and out of ComfyUI's counting of
    what is saved already, so that a run after a killed one takes the same name and clears up.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    _remove(part)
    part.touch()
    usual = part.stat().st_mode  # safetensors lets nobody but the owner read what it writes
    part.unlink()
    try:
        yield part
        if part.is_file():
            part.chmod(usual)
        part.replace(path)
    finally:
        _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
