"""`sdxl-anime-video evaluate CLIP [...] [--json FILE]`: how steady, how lively and how constant clips are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..commands.verbs import complain, run_verb
from ..files import write_whole

COLUMNS = {
    "frames": "how many there are",
    "flicker": "mean absolute difference of neighbouring frames, 0..1; a still has 0, so read motion beside it",
    "warp_error": "mean squared colour distance along the flow (Lai et al. 2018; DIS flow)",
    "coverage": "share of pixels that flow can follow, on which warp_error is measured",
    "motion": "mean length of the flow, pixels a frame",
    "identity_drift": "distance of later frames' colours from the first's, 0..1",
    "repeated": "share of frames that repeat the drawing before them; 0.5 on twos",
}


def main(arguments: list[str]) -> int:
    """Run the verb; returns the exit status. A clip that cannot be read is one line on stderr, and the others count."""
    parser = argparse.ArgumentParser(
        prog="sdxl-anime-video evaluate",
        description="Measures clips: any video or animated picture. The columns:\n"
        + "\n".join(f"  {name:15}{meaning}" for name, meaning in COLUMNS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("clips", nargs="+", type=Path, metavar="CLIP")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args(arguments)
    return run_verb("evaluate", lambda: _evaluate(options.clips, options.json), "nothing was written")


def _evaluate(clips: list[Path], json_file: Path | None) -> int:
    """Measure the clips and report; returns the exit status."""
    if json_file and not json_file.parent.is_dir():
        raise ValueError(f"--json: the folder {json_file.parent} does not exist; make it, or name another")
    if json_file and json_file.is_dir():
        raise ValueError(f"--json: {json_file} is a folder; name a file")
    found, failed = {}, 0
    with _bar(sum(path.is_file() for path in clips)) as advance:
        for path in clips:
            try:
                if path.is_dir():
                    raise ValueError(f"{path} is a folder; name the clips in it, such as {path / '*.mp4'}")
                found[str(path)] = measure(path, advance)
            except (ValueError, OSError) as error:
                complain("evaluate", error)
                failed = 1
    _report(found, json_file)
    return failed


def measure(path: Path, advance: Callable[[], Any] = lambda: None) -> dict[str, Any]:
    """The figures of `COLUMNS` for a clip, with its fps, width and height. Three frames are in memory at a time.

    Raises FileNotFoundError, or ValueError for a file that is no video, for one frame, or for frames of several sizes.
    """
    from ..media.rates import exact_fps
    from ..media.reader import iter_clip, probe_clip

    info = probe_clip(path)
    sums, count = np.zeros(len(COLUMNS) - 1), 0
    for figures in _pairs(iter_clip(path), path):
        sums, count = sums + figures, count + 1
        advance()
    if not count:
        raise ValueError(f"{path} has less than 2 frames; a clip has 2 or more")
    means = dict(zip(list(COLUMNS)[1:], (sums / count).tolist(), strict=True))
    return {"frames": count + 1, **means, "fps": float(exact_fps(info.fps)), "width": info.width, "height": info.height}


def _pairs(frames: Iterator[np.ndarray], path: Path) -> Iterator[list[float]]:
    """The figures of each pair of neighbouring frames, whose mean is the clip's: every metric is a mean over pairs."""
    from ..temporal.measure import metrics

    first = None
    for here, there in pairwise(frames):
        if here.shape != there.shape:
            raise ValueError(f"{path} changes its size; cut it into clips of one size")
        first = here if first is None else first
        pair = metrics.as_clip(np.stack([here, there]))
        error, coverage = metrics.warp_error(pair)
        drift = metrics.identity_drift(np.stack([first, there]))
        yield [metrics.flicker(pair), error, coverage, metrics.motion(pair), drift, metrics.repeated_share(pair)]


def _report(found: dict[str, dict[str, Any]], json_file: Path | None) -> None:
    from ..media.metadata import to_json

    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(f"{of[key]:.3g}" for key in COLUMNS) + " |" for name, of in found.items()]
    if found:
        sys.stdout.write("\n".join(lines) + "\n")
    if json_file and found:
        write_whole(json_file, to_json({"clips": found}, indent=1) + "\n")


class _bar:
    """Pairs of frames done, on stderr; how many there will be is not known before a file is read through."""

    def __init__(self, clips: int):
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed} frames"), TimeElapsedColumn())
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.progress.add_task(f"measure {clips} clips:", total=None)

    def __enter__(self) -> Callable[[], Any]:
        self.progress.start()
        return lambda: self.progress.advance(self.task)

    def __exit__(self, *_: Any) -> None:
        self.progress.stop()
