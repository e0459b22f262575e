"""`python -m sdxl_anime_video.benchmarks.making.train vae|base|controlnet|lcm`: makes the files in demo/weights.

vae and base make toon_base.safetensors from nothing; controlnet and lcm make a ControlNet and a LoRA for it.
"""

import argparse
from pathlib import Path

import numpy as np
from einops import rearrange
from PIL import Image

from ...demo.hints import KINDS
from ...demo.model import WEIGHTS
from .base import BaseTraining
from .controlnet import ControlNetTraining
from .lcm import LcmTraining
from .loop import train, write_half
from .vae import VaeTraining

PARTS = {part.name: part for part in (VaeTraining, BaseTraining, ControlNetTraining, LcmTraining)}


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of a command line with the part's own defaults, and the command that repeats them."""
    parser = argparse.ArgumentParser(prog="python -m sdxl_anime_video.benchmarks.making.train", description=__doc__)
    parser.add_argument("what", choices=tuple(PARTS))
    parser.add_argument("--seed", type=int, default=1)
    frames = ", ".join(f"{part.frames} for {name}" for name, part in PARTS.items())
    steps = ", ".join(f"{part.steps} for {name}" for name, part in PARTS.items())
    parser.add_argument("--frames", type=int, default=None, help=f"painted frames (default {frames})")
    parser.add_argument("--steps", type=int, default=None, help=f"training steps (default {steps})")
    parser.add_argument("--minutes", type=float, default=None, help="stop after this time even if steps are left")
    parser.add_argument("--batch", type=int, default=32, help="latents a step (not vae)")
    parser.add_argument("--hint", choices=KINDS, default="pose", help="what a ControlNet is shown")
    parser.add_argument("--cache", type=Path, default=Path("outputs/toon"), help="painted frames, checkpoints, samples")
    parser.add_argument("--output", type=Path, default=None, help="weights file to write (default: in demo/weights)")
    options = parser.parse_args(arguments)
    part = PARTS[options.what]
    options.frames, options.steps = options.frames or part.frames, options.steps or part.steps
    options.output = options.output or WEIGHTS.parent / part.file.format(hint=options.hint)
    options.batch = options.batch if options.what != "vae" else None
    options.hint = options.hint if options.what == "controlnet" else None
    told = {name: getattr(options, name) for name in ("seed", "frames", "steps", "minutes", "batch", "hint")}
    flags = " ".join(f"--{name} {value}" for name, value in told.items() if value is not None)
    options.command = f"python -m sdxl_anime_video.benchmarks.making.train {options.what} {flags}"
    return options


def main(arguments: list[str] | None = None) -> None:
    options = read_options(arguments)
    options.cache.mkdir(parents=True, exist_ok=True)
    training = PARTS[options.what](options)
    name = f"{options.what}-{options.hint}" if options.hint else options.what

    def write(steps: int) -> None:
        notes = {"steps": steps, "seed": options.seed, "batch": options.batch, "command": options.command}
        notes = {training.prefix + name: str(value) for name, value in notes.items() if value is not None}
        tensors = training.tensors()  # first, because the autoencoder's adds to `about`
        write_half(options.output, tensors, {**training.about, **notes})

    def show(steps: int) -> None:
        if rows := training.rows():
            write(steps)
            sheet = rearrange(np.stack(rows), "row column h w c -> (row h) (column w) c")
            Image.fromarray(sheet).save(options.cache / f"{options.hint or options.what}-{steps:06d}.png")

    checkpoint = options.cache / f"{name}-{options.seed}.ckpt"
    write(train(training, checkpoint, options.seed, options.steps, options.minutes, show))


if __name__ == "__main__":
    main()
