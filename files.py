"""Write files whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file whole or not at all; text as UTF-8. Raises OSError."""
    with whole_or_nothing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_or_nothing(path: str | Path) -> Iterator[Path]:
    """Yield the path `.<name>.part` beside `path` to write a file or folder at; rename it to `path` at the end.

    If the block fails or is interrupted, the `.part` is removed and `path` stays as it was. A `.part` that a killed run
    left is removed first. The dot hides it from listings and from ComfyUI's count of saved files, so that the run after
    a killed one takes the same name and cleans up. Raises OSError.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    _remove(part)
    part.touch()
    usual = part.stat().st_mode  # safetensors makes files that only their owner can read
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
