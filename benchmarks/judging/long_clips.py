"""The toon world's figures for ways to make a long clip.

    python -m sdxl_anime_video.benchmarks.judging.long_clips

Renders held-out captions through a real ComfyUI server, each by every way ("arm"), and compares with clips that the
painter painted. An arm is words joined by `+`: one of `overlap N`, `last_frame DENOISE`, `windows SCHEDULE`, and, if
wanted, `anchor STRENGTH` (every 16th frame toward the first, in low frequencies) and a noise mode with its
correlation, as in `overlap 4 + anchor 0.3 + progressive 0.5`. Writes table.md, results.json and each clip. Very slow:
a clip of 96 frames takes minutes on a CPU.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ...demo.painter import paint_clip
from ...files import write_whole
from ...headless.client import ComfyClient, PromptError
from ...headless.comfyui import find_comfyui
from ...headless.graph import saved_clip
from ...headless.server import ComfyServer, ServerError, device_flags
from ...temporal.clip.noise import MODES
from ...temporal.clip.segments import CARRIES, SCHEDULES, plan_segments
from ...temporal.measure.metrics import seam_score
from ..arguments import number, whole
from .evaluate import MOST_PAIRS, held_out_pairs
from .judge import Judge, mean_scores, table

LENGTH = 16  # frames that the model sees at once
WINDOW_OVERLAP = 4
DEFAULT_ARMS = (
    "real",
    "windows static",
    "windows uniform",
    "last_frame 0.6",
    "overlap 2",
    "overlap 4",
    "overlap 8",
    "overlap 4 + anchor 0.3",
    "overlap 4 + shared 0.5",
    "overlap 4 + progressive 0.5",
)
COLUMNS = ("seam", "flicker", "warp_error", "identity_drift", "centroid_ratio", "limb_ratio", "jerkiness", "limbs_seen")
Graph = dict[str, dict[str, Any]]


def parse_arm(text: str) -> dict[str, Any]:
    """Node settings of an arm: `chain` or `windows`, `anchor`, `noise`. Raises ValueError for anything else."""
    try:
        return _settings(text)
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise ValueError(f"arm {text!r}: {error}") from None


def _settings(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in text.split("+"):
        word, _, value = part.strip().partition(" ")
        if word in CARRIES:
            overlap = word == "overlap"
            given = {"overlap": whole(0, LENGTH - 1)(value)} if overlap else {"carry_denoise": number(0.01, 1)(value)}
            found["chain"] = {
                "segment_frames": LENGTH,
                "overlap": WINDOW_OVERLAP,
                "carry": word,
                "carry_denoise": 1.0,
                **given,
            }
        elif word == "windows" and value in SCHEDULES:
            found["windows"] = {
                "length": LENGTH,
                "overlap": WINDOW_OVERLAP,
                "schedule": value,
                "fuse": "pyramid",
            }
        elif word == "anchor":
            found["anchor"] = {"every": 16, "strength": number(0, 1)(value), "band": "low"}
        elif word in MODES:
            found["noise"] = {"mode": word, "correlation": number(0, 1)(value)}
        else:
            raise ValueError(f"{part.strip()!r} is no overlap, last_frame, windows, anchor or noise mode")
    if ("chain" in found) == ("windows" in found):
        raise ValueError("it needs a chain (overlap N, last_frame D) or windows (windows SCHEDULE)")
    return found


def borders(arm: str, frames: int) -> list[int]:
    """Frames at which a new piece of the clip begins."""
    settings = {} if arm == "real" else parse_arm(arm)
    chain = settings.get("chain", {})
    overlap = chain.get("overlap", WINDOW_OVERLAP) if chain.get("carry") != "last_frame" else 0
    return [segment.new.start for segment in plan_segments(frames, LENGTH, overlap)[1:]]


def graph(arm: str, caption: str, seed: int, options: argparse.Namespace) -> Graph:
    """The API graph of one clip."""
    settings = parse_arm(arm)
    whole = {"start_percent": 0.0, "end_percent": 1.0}
    nodes: Graph = {}

    def add(name: str, class_type: str, **inputs: Any) -> None:
        nodes[name] = {"class_type": class_type, "inputs": inputs}

    add("base", "SAV_DemoModel")
    add("file", "SAV_LoadTemporalAdapter", adapter_name=options.adapter)
    add("adapter", "SAV_ApplyTemporalAdapter", model=["base", 0], adapter=["file", 0], strength=1.0, **whole)
    model = ["adapter", 0]
    kinds = {
        "noise": ("SAV_CorrelatedNoise", {}),
        "anchor": ("SAV_KeyframeAnchor", whole),
        "chain": ("SAV_SegmentChain", {}),
        "windows": ("SAV_ContextWindows", {}),
    }
    for name, (class_type, more) in kinds.items():
        if name in settings:
            add(name, class_type, model=model, **settings[name], **more)
            model = [name, 0]
    add("positive", "CLIPTextEncode", clip=["base", 1], text=caption)
    add("negative", "CLIPTextEncode", clip=["base", 1], text="")
    add("latent", "SAV_EmptyVideoLatent", width=128, height=128, frames=options.frames)
    add(
        "sampler",
        "KSampler",
        model=model,
        positive=["positive", 0],
        negative=["negative", 0],
        latent_image=["latent", 0],
        seed=seed,
        steps=options.steps,
        cfg=options.cfg,
        sampler_name="dpmpp_2m",
        scheduler="karras",
        denoise=1.0,
    )
    save = {"fps": 12.0, "filename_prefix": "clip", "crf": 4, "save_frames": False}
    add("save", "SAV_DecodeAndSaveClip", samples=["sampler", 0], vae=["base", 2], tile_size=0, **save)
    return nodes


def run(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Render and judge every caption by every arm; write the files; return the means."""
    from ...media.reader import read_clip

    options.output.mkdir(parents=True, exist_ok=True)
    pairs = held_out_pairs(options.pairs, options.seed)
    scores: dict[str, list[dict[str, float]]] = {arm: [] for arm in options.arms}
    with (
        ComfyServer(find_comfyui(), flags=["--cpu"] if options.cpu else device_flags()) as server,
        ComfyClient(server.url) as client,
    ):
        for i, (caption, seed) in enumerate(pairs):
            judge = Judge(caption, options.frames)
            for arm in options.arms:
                if arm == "real":
                    clip = paint_clip(caption, options.frames, 128, seed).frames / np.float32(255)
                else:
                    record = saved_clip(client.run(graph(arm, caption, seed, options)))
                    path = options.output / f"{i}_{arm.replace(' ', '_')}.mp4"
                    write_whole(path, client.view(record))
                    clip = read_clip(path)[0] / np.float32(255)
                seam = seam_score(clip, borders(arm, options.frames))
                scores[arm].append({"seam": seam, **judge.scores(clip)})
                sys.stderr.write(f"{i + 1}/{len(pairs)} {caption}: {arm}, seam {seam:.3f}\n")
            means = {arm: mean_scores(some) for arm, some in scores.items()}
            about = {"frames": options.frames, "steps": options.steps, "cfg": options.cfg, "adapter": options.adapter}
            results = {"pairs": pairs[: i + 1], "settings": about, "mean": means, "each": scores}
            write_whole(options.output / "results.json", json.dumps(results, indent=1))
            write_whole(options.output / "table.md", table(means, COLUMNS))
    return means


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sdxl_anime_video.benchmarks.judging.long_clips", description=__doc__
    )
    parser.add_argument("--adapter", default="toon/toon_adapter.safetensors", help="as ComfyUI lists it")
    parser.add_argument("--output", type=Path, default=Path("outputs/evaluation_long"))
    parser.add_argument("--pairs", type=whole(1, MOST_PAIRS), default=6, help="held-out caption/seed pairs")
    parser.add_argument("--arms", nargs="+", default=list(DEFAULT_ARMS))
    parser.add_argument("--frames", type=whole(2), default=96)
    parser.add_argument("--steps", type=whole(1, 1000), default=20)
    parser.add_argument("--cfg", type=number(0, 100), default=3.0)
    parser.add_argument("--seed", type=whole(0), default=0, help="chooses the pairs")
    parser.add_argument("--cpu", action="store_true", help="render on the CPU even if there is a GPU")
    options = parser.parse_args(arguments)
    try:
        for arm in options.arms:
            if arm != "real":
                parse_arm(arm)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # so that the server never stays behind
        signal.signal(name, signal.default_int_handler)
    try:
        sys.stdout.write(table(run(options), COLUMNS))
    except (ServerError, PromptError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted; what was measured is in {options.output}\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
