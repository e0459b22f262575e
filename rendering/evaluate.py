"""`sdxl-anime-video evaluate CLIP [...] [--json FILE]`: flicker, motion and identity drift of clips."""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..commands.verbs import complain, run_verb
from ..files import write_whole
from ..temporal.measure.figures import FIGURES, figures, markdown_table

COLUMNS = {"frames": "number of frames", **FIGURES}


def main(arguments: list[str]) -> int:
    """Run the verb; returns the exit status. An unreadable clip is one line on stderr, and the others are measured."""
    parser = argparse.ArgumentParser(
        prog="sdxl-anime-video evaluate",
        description="Measures clips: any video or animated picture. The columns:\n"
        + "\n".join(f"  {name:15} {meaning}" for name, meaning in COLUMNS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("clips", nargs="+", type=Path, metavar="CLIP")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args(arguments)
    return run_verb("evaluate", lambda: _evaluate(options.clips, options.json))


def _evaluate(clips: list[Path], json_file: Path | None) -> int:
    """Measure the clips and report; returns the exit status."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from ..media.metadata import to_json

    if json_file and not json_file.parent.is_dir():
        raise ValueError(f"--json: the folder {json_file.parent} does not exist; make it, or name another")
    if json_file and json_file.is_dir():
        raise ValueError(f"--json: {json_file} is a folder; name a file")
    found, failed = {}, 0
    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed} frames"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"measure {sum(path.is_file() for path in clips)} clips:", total=None)
        for path in clips:
            try:
                if path.is_dir():
                    raise ValueError(f"{path} is a folder; name the clips in it, such as {path / '*.mp4'}")
                found[str(path)] = measure(path, lambda: bar.advance(task))
            except (ValueError, OSError) as error:
                complain("evaluate", error)
                failed = 1
    if found:
        sys.stdout.write(markdown_table(found, list(COLUMNS)))
    if found and json_file:
        write_whole(json_file, to_json({"clips": found}, indent=1) + "\n")
    return failed


def measure(path: Path, advance: Callable[[], Any] = lambda: None) -> dict[str, Any]:
    """Return `COLUMNS` of a clip, its fps, width and height. Three frames are in memory at a time.

    Raises FileNotFoundError, or ValueError for a file that is no video, for one frame, or for frames of several sizes.
    """
    from ..media.rates import exact_fps
    from ..media.reader import iter_clip, probe_clip

    info, seen = probe_clip(path), []

    def frames() -> Iterator[np.ndarray]:
        for frame in iter_clip(path):
            if seen and frame.shape != seen[0]:
                raise ValueError(f"{path} changes its size; cut it into clips of one size")
            seen.append(frame.shape)
            advance()
            yield frame

    found = figures(frames())
    if len(seen) < 2:
        raise ValueError(f"{path} has less than 2 frames; a clip has 2 or more")
    size = {"fps": float(exact_fps(info.fps)), "width": info.width, "height": info.height}
    return {"frames": len(seen), **found, **size}
