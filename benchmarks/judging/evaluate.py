"""The toon world's figures for an adapter and for ways to start the noise.

    python -m sdxl_anime_video.benchmarks.judging.evaluate

Samples held-out captions with the diffusers loop (BestHQ, classifier-free guidance) and compares each way ("arm") with
clips that the painter painted for the same captions. Writes table.md, results.json and sheet.png. Slow: each clip takes
seconds, and there are pairs x arms of them. With `--clips FOLDER` the captions are those of a training folder instead,
for an adapter that is to know these clips by heart, and the warp error along the painter's own flow is measured too.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...commands.config import at_field
from ...demo.judge import COLUMNS, Judge
from ...demo.painter import paint_clip
from ...media.sheets import contact_sheet
from ..arguments import number, whole
from .arms import Results, arms_parser, held_out_pairs, report, say

REAL = ("real", "real decoded")  # not sampled: the painter's own clips, and those through the VAE
# As in the nodes: `additive 0.9991` is the shared noise plus 0.03 of independent noise.
NOISES = ("shared 0.5", "shared 0.9", "additive 0.9991", "progressive 0.9", "freenoise 1")
DEFAULT_ARMS = (*REAL, "independent", "shared 0.9", "additive 0.9991", "adapter", *(f"adapter + {n}" for n in NOISES))
FREENOISE_WINDOW = {"window": 8, "overlap": 4}  # half of a clip, so that there is something to repeat


@dataclass(frozen=True)
class Arm:
    """One way to make a clip: with or without the adapter, from noise of a mode and correlation."""

    adapter: bool = False
    mode: str = "shared"
    correlation: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Arm:
        """`independent`, `adapter`, `shared 0.9`, `adapter + progressive 0.9`. Raises ValueError for anything else."""
        from ...temporal.clip.noise import check_settings

        first, plus, rest = (part.strip() for part in text.partition("+"))
        if text.strip() in ("independent", "adapter"):
            return cls(adapter=text.strip() == "adapter")
        words = (rest if plus else first).split()
        if (plus and first != "adapter") or len(words) != 2:
            raise ValueError(
                f"arm {text!r} is none of: {', '.join(REAL)}, independent, MODE R, adapter, adapter + MODE R"
            )
        with at_field(f"arm {text!r}"):
            check_settings(words[0], float(words[1]), **FREENOISE_WINDOW)
        return cls(bool(plus), words[0], float(words[1]))


def parse_arms(texts: list[str], adapter: bool) -> dict[str, Arm | None]:
    """The arms by their texts; None for those that are not sampled.

    Raises ValueError for a text that is no arm, and for one that needs an adapter where there is none.
    """
    arms = {text: None if text in REAL else Arm.parse(text) for text in texts}
    if lacking := [text for text, arm in arms.items() if arm and arm.adapter and not adapter]:
        raise ValueError(f"arm {lacking[0]!r} needs an adapter; give its file with --adapter")
    return arms


def folder_pairs(folder: Path, frames: int) -> list[tuple[str, int]]:
    """(caption, seed) of the clips of `frames` frames that paint_clips wrote to a folder.

    Raises ValueError for a folder without any, and for clips of another length: a trainer cuts those at random, so
    there is no telling which frame is to look like which.
    """
    pairs = []
    for path in sorted(folder.glob("*.json")):
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            length, pair = len(said["pose"]), (said["caption"], int(said["seed"]))
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path} is not by paint_clips; give a folder that it wrote") from None
        if length != frames:
            raise ValueError(
                f"{path} has {length} frames, not {frames}; paint clips with --frames {frames} into an empty folder"
            )
        pairs.append(pair)
    if not pairs:
        raise ValueError(
            f"no painted clips in {folder}; make some with python -m sdxl_anime_video.benchmarks.making.paint_clips"
        )
    return pairs


class Sampler:
    """Makes the clip of an arm for a caption and a seed."""

    def __init__(self, adapter: Path | None, frames: int, size: int, steps: int, cfg: float) -> None:
        from ...temporal.hosts.diffusers.base import load_base, on_schedule_of
        from ...temporal.weights.formats import load_layers

        self.adapter = load_layers(adapter) if adapter else None
        self.base = on_schedule_of(load_base("toon"), self.adapter)
        self.frames, self.size, self.steps, self.cfg = frames, size, steps, cfg

    def decoded(self, pictures: np.ndarray) -> np.ndarray:
        """Pictures `[F, H, W, 3]` through the VAE and back: what a perfect UNet would look like."""
        return self.base.decode(self.base.encode(torch.from_numpy(pictures))).numpy()

    def clip(self, arm: Arm, caption: str, seed: int) -> np.ndarray:
        """`[F, H, W, 3]`, 0..1."""
        from ...temporal.clip.noise import correlate
        from ...temporal.hosts.diffusers.sampling import sample_clip
        from ...temporal.hosts.diffusers.unet import TemporalUNet

        shape = (self.frames, 4, self.size // 8, self.size // 8)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        noise = correlate(noise, arm.mode, arm.correlation, seed=seed, **FREENOISE_WINDOW)
        unet = TemporalUNet(self.base.unet, self.adapter) if arm.adapter and self.adapter else None
        with unet or nullcontext():
            latents = sample_clip(
                self.base,
                unet or self.base.unet,
                noise,
                self.base.encode_text(["", caption]),
                steps=self.steps,
                cfg=self.cfg,
                temporal=unet is not None,
                precision="auto",
            )
        return self.base.decode(latents).numpy()


def run(options: argparse.Namespace) -> str:
    """Sample and judge every pair by every arm; write the three files; return the table."""
    import cv2

    arms = parse_arms(options.arms, options.adapter is not None)
    if options.threads:
        cv2.setNumThreads(options.threads)
    pairs = (
        folder_pairs(options.clips, options.frames) if options.clips else held_out_pairs(options.pairs, options.seed)
    )
    results = Results(options.output, arms, ("true_warp_error", *COLUMNS) if options.clips else COLUMNS)
    sampler = Sampler(options.adapter, options.frames, options.size, options.steps, options.cfg)
    settings = {name: getattr(options, name) for name in ("frames", "steps", "cfg")}
    metadata = sampler.adapter.metadata if sampler.adapter else None
    every, table = max(1, len(pairs) // options.shown), ""
    sheet: list[tuple[str, np.ndarray]] = []
    for i, (caption, seed) in enumerate(pairs):
        painted = paint_clip(caption, options.frames, options.size, seed)
        judge = Judge(caption, options.frames, options.size, truth=painted if options.clips else None)
        for name, arm in arms.items():
            if arm is None:
                clip = sampler.decoded(painted.frames) if name == "real decoded" else painted.frames / np.float32(255)
            else:
                clip = sampler.clip(arm, caption, seed)
            results.each[name].append(judge.scores(clip))
            if i % every == 0 and i // every < options.shown:
                sheet.append((name, clip))
        say(f"{i + 1}/{len(pairs)} {caption}")
        done = [{"caption": c, "seed": s} for c, s in pairs[: i + 1]]
        table = results.write(results.means(), pairs=done, settings=settings, adapter=metadata)
    contact_sheet(sheet, side=options.size).save(options.output / "sheet.png")
    return table


def main(arguments: list[str] | None = None) -> int:
    parser = arms_parser("evaluate", __doc__, output="outputs/evaluation", arms=DEFAULT_ARMS, pairs=24)
    parser.add_argument("--adapter", type=Path, help="adapter or motion module; needed by the arms that name it")
    parser.add_argument("--clips", type=Path, help="take captions and seeds from this folder of painted clips instead")
    parser.add_argument("--size", type=whole(16), default=128, help="a multiple of 16")
    parser.add_argument("--steps", type=whole(1, 1000), default=28)
    parser.add_argument("--cfg", type=number(0, 100), default=5.0)
    parser.add_argument("--shown", type=whole(1), default=3, help="clips of each arm on the contact sheet")
    parser.add_argument("--threads", type=whole(1), default=None)
    options = parser.parse_args(arguments)
    if options.size % 16:
        parser.error(f"argument --size: {options.size} is no multiple of 16, which the model needs")
    return report(lambda: run(options), options.threads)


if __name__ == "__main__":
    sys.exit(main())
