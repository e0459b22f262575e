"""What the programs share that make clips of held-out captions by several ways ("arms") and judge them."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...demo.judge import mean_scores
from ...demo.painter import ACTIONS, HELD_OUT
from ...files import write_whole
from ...temporal.measure.figures import markdown_table
from ..arguments import whole

# Held-out pairs: so many that each action still has as many captions as every other.
MOST_PAIRS = len(ACTIONS) * min(sum(caption.endswith(f", {action}") for caption in HELD_OUT) for action in ACTIONS)


def held_out_pairs(count: int, seed: int = 0) -> list[tuple[str, int]]:
    """`count` held-out (caption, seed) pairs, at most MOST_PAIRS, as many of one action as of another."""
    random = np.random.default_rng(seed)
    captions = [HELD_OUT[i] for i in random.permutation(len(HELD_OUT))]
    by_action = [[caption for caption in captions if caption.endswith(f", {action}")] for action in ACTIONS]
    return [(by_action[i % len(ACTIONS)][i // len(ACTIONS)], 1000 + i) for i in range(count)]


def arms_parser(
    name: str, description: str | None, *, output: str, arms: Iterable[str], pairs: int, frames: int = 16
) -> argparse.ArgumentParser:
    """The command line of a program `name` of this folder, with the options that all of them have."""
    parser = argparse.ArgumentParser(
        prog=f"python -m sdxl_anime_video.benchmarks.judging.{name}", description=description
    )
    parser.add_argument("--output", type=Path, default=Path(output))
    parser.add_argument("--pairs", type=whole(1, MOST_PAIRS), default=pairs, help="held-out caption/seed pairs")
    parser.add_argument("--arms", nargs="+", default=list(arms))
    parser.add_argument("--frames", type=whole(2), default=frames)
    parser.add_argument("--seed", type=whole(0), default=0, help="chooses the pairs")
    return parser


def say(line: str) -> None:
    sys.stderr.write(line + "\n")


class Results:
    """Scores of clips by arm, written to a folder as results.json and table.md."""

    def __init__(self, folder: Path, arms: Iterable[str], columns: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.columns = folder, columns
        self.each: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}

    def means(self) -> dict[str, dict[str, float]]:
        return {arm: mean_scores(some) for arm, some in self.each.items()}

    def write(self, means: dict[str, dict[str, float]], **facts: Any) -> str:
        """Write the files and return the table. facts: what else results.json holds."""
        shown = markdown_table(means, self.columns)
        results = {**facts, "mean": means, "each": self.each, "table": shown}
        write_whole(self.folder / "results.json", json.dumps(results, indent=1))
        write_whole(self.folder / "table.md", shown)
        return shown


def report(make_table: Callable[[], str], threads: int | None, *errors: type[Exception]) -> int:
    """Print a table; returns the exit status. Errors of these types, ValueError and OSError are one line on stderr."""
    if threads:
        torch.set_num_threads(threads)
    try:
        sys.stdout.write(make_table())
    except (ValueError, OSError, *errors) as error:
        say(f"error: {error}")
        return 1
    return 0
