"""A folder of captioned toon clips, ready to train on.

    python -m sdxl_anime_video.benchmarks.making.paint_clips OUT --count N

Each clip is three files: NAME.mp4, NAME.txt with its caption, and NAME.json with caption, seed and the truth of every
frame that fits in a text file (joints and centroid in pixels of the painted size, colours). Held-out captions are
painted only when asked for.
"""

import argparse
import json
import multiprocessing
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np

from ...demo.hints import KINDS, hint_pictures
from ...demo.painter import HELD_OUT, TRAIN, Clip, paint_clip
from ..arguments import number, whole

SPLITS = {"train": TRAIN, "held_out": HELD_OUT}


def jobs(count: int, split: str, seed: int) -> list[tuple[str, int]]:
    """(caption, seed) of each clip: captions in random order, each once before any comes again."""
    random = np.random.default_rng(seed)
    captions: list[str] = []
    while len(captions) < count:
        captions += [SPLITS[split][i] for i in random.permutation(len(SPLITS[split]))]
    return [(caption, int(random.integers(2**31))) for caption in captions[:count]]


def truth(clip: Clip) -> dict:
    """What the painter knows of a clip, as JSON values."""
    return {
        "caption": clip.caption,
        "seed": clip.seed,
        "fps": clip.fps,
        "size": list(clip.frames.shape[1:3]),
        "joints": list(clip.joints),
        "pose": np.round(clip.pose, 2).tolist(),
        "centroid": np.round(clip.centroid, 2).tolist(),
        "identity": {name: list(colour) for name, colour in clip.identity.items()},
    }


def write(options: argparse.Namespace, job: tuple[int, tuple[str, int]]) -> None:
    """Paint clip number `job[0]` and write its files, the video last: where it is, the rest is."""
    from ...media.writer import write_clip

    path, (caption, seed) = options.output / f"{job[0]:05d}.mp4", job[1]
    if path.exists():
        return
    clip = paint_clip(caption, frames=options.frames, size=options.size, seed=seed, fps=options.fps)
    pictures = hint_pictures(clip, options.hint) if options.hint else clip.frames
    path.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(truth(clip)), encoding="utf-8")
    write_clip(path, pictures.repeat(options.scale, axis=1).repeat(options.scale, axis=2), options.fps, crf=10)


def paint(options: argparse.Namespace) -> None:
    """Paint what the command line asks for. Raises OSError."""
    from rich.console import Console
    from rich.progress import track

    options.output.mkdir(parents=True, exist_ok=True)
    todo, processes = list(enumerate(jobs(options.count, options.split, options.seed))), options.processes
    with multiprocessing.get_context("spawn").Pool(processes) if processes > 1 else nullcontext() as pool:
        each = partial(write, options)
        painted = pool.imap_unordered(each, todo, chunksize=8) if pool else map(each, todo)
        for _ in track(painted, "paint clips", len(todo), console=Console(stderr=True)):
            pass


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m sdxl_anime_video.benchmarks.making.paint_clips", description=__doc__)
    parser.add_argument("output", type=Path, help="folder to write to; clips that are there already are kept")
    parser.add_argument("--count", type=whole(1), default=64, help="clips")
    parser.add_argument("--split", choices=SPLITS, default="train", help="which captions")
    parser.add_argument("--frames", type=whole(1), default=24, help="frames a clip")
    parser.add_argument("--size", type=whole(1), default=128, help="painted pixels a side")
    enlarged = "enlargement in the video, so that 4:2:0 keeps the colours"
    parser.add_argument("--scale", type=whole(1), default=2, help=enlarged)
    parser.add_argument("--fps", type=number(0.01, 1000), default=12)
    parser.add_argument("--seed", type=whole(0), default=0)
    drawn = "draw hint pictures of the clips instead, in a folder of their own"
    parser.add_argument("--hint", choices=KINDS, help=drawn)
    parser.add_argument("--processes", type=whole(1), default=1)
    options = parser.parse_args(arguments)
    try:
        paint(options)
    except OSError as error:  # the output is a file, or its disk is full
        sys.stderr.write(f"error: cannot write clips to {options.output}: {error}\n")
        return 1
    sys.stdout.write(f"{options.count} clips in {options.output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
