"""The toon world's figures for ways to make a long clip.

    python -m sdxl_anime_video.benchmarks.judging.long_clips

Renders held-out captions through a real ComfyUI server, each by every way ("arm"), and compares with clips that the
painter painted. An arm is words joined by `+`: one of `overlap N`, `last_frame DENOISE`, `windows SCHEDULE`, and, if
wanted, `anchor STRENGTH` (every 16th frame toward the first, in low frequencies) and a noise mode with its
correlation, as in `overlap 4 + anchor 0.3 + progressive 0.5`. Writes table.md, results.json and each clip. Very slow:
a clip of 96 frames takes minutes on a CPU.
"""

import argparse
import sys
from typing import Any

import numpy as np

from ...commands.config import at_field
from ...commands.interrupts import interrupt_on_signals
from ...demo.judge import Judge
from ...demo.painter import paint_clip
from ...files import write_whole
from ...headless.client import ComfyClient, PromptError
from ...headless.comfyui import find_comfyui
from ...headless.graph import saved_clip
from ...headless.server import ComfyServer, ServerError, device_flags
from ...temporal.clip.noise import MODES
from ...temporal.clip.segments import SCHEDULES, plan_segments
from ...temporal.measure.metrics import seam_score
from ..arguments import number, whole
from .arms import Results, arms_parser, held_out_pairs, report, say

LENGTH = 16  # frames that the model sees at once
WINDOW_OVERLAP = 4
DEFAULT_ARMS = (
    *("real", "windows static", "windows uniform", "last_frame 0.6", "overlap 2", "overlap 4", "overlap 8"),
    *(f"overlap 4 + {more}" for more in ("anchor 0.3", "shared 0.5", "progressive 0.5")),
)
COLUMNS = ("seam", "flicker", "warp_error", "identity_drift", "centroid_ratio", "limb_ratio", "jerkiness", "limbs_seen")
Graph = dict[str, dict[str, Any]]
CHAIN = {"segment_frames": LENGTH, "overlap": WINDOW_OVERLAP, "carry_denoise": 1.0}


def parse_arm(text: str) -> dict[str, Any]:
    """Node settings of an arm: `chain` or `windows`, `anchor`, `noise`. Raises ValueError for anything else."""
    with at_field(f"arm {text!r}"):
        found: dict[str, Any] = {}
        for part in text.split("+"):
            found |= _settings(part.strip())
        if ("chain" in found) == ("windows" in found):
            raise ValueError("it needs a chain (overlap N, last_frame D) or windows (windows SCHEDULE)")
    return found


def _settings(part: str) -> dict[str, dict[str, Any]]:
    word, _, value = part.partition(" ")
    if word == "overlap":
        return {"chain": {**CHAIN, "carry": word, "overlap": whole(0, LENGTH - 1)(value)}}
    if word == "last_frame":
        return {"chain": {**CHAIN, "carry": word, "carry_denoise": number(0.01, 1)(value)}}
    if word == "windows" and value in SCHEDULES:
        return {"windows": {"length": LENGTH, "overlap": WINDOW_OVERLAP, "schedule": value, "fuse": "pyramid"}}
    if word == "anchor":
        return {"anchor": {"every": 16, "strength": number(0, 1)(value), "band": "low"}}
    if word in MODES:
        return {"noise": {"mode": word, "correlation": number(0, 1)(value)}}
    raise ValueError(f"{part!r} is no overlap, last_frame, windows, anchor or noise mode")


def borders(arm: str, frames: int) -> list[int]:
    """Frames at which a new piece of the clip begins."""
    chain = {} if arm == "real" else parse_arm(arm).get("chain", {})
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
    wires = {"model": model, "positive": ["positive", 0], "negative": ["negative", 0], "latent_image": ["latent", 0]}
    steps = {"steps": options.steps, "cfg": options.cfg, "sampler_name": "dpmpp_2m", "scheduler": "karras"}
    add("sampler", "KSampler", **wires, **steps, seed=seed, denoise=1.0)
    save = {"fps": 12.0, "filename_prefix": "clip", "crf": 4, "save_frames": False}
    add("save", "SAV_DecodeAndSaveClip", samples=["sampler", 0], vae=["base", 2], tile_size=0, **save)
    return nodes


def run(options: argparse.Namespace) -> str:
    """Render and judge every caption by every arm; write the files; return the table."""
    from ...media.reader import read_clip

    begins = {arm: borders(arm, options.frames) for arm in options.arms}
    results = Results(options.output, begins, COLUMNS)
    pairs, table = held_out_pairs(options.pairs, options.seed), ""
    settings = {name: getattr(options, name) for name in ("frames", "steps", "cfg", "adapter")}
    interrupt_on_signals()  # so that the server never stays behind
    with (
        ComfyServer(find_comfyui(), flags=["--cpu"] if options.cpu else device_flags()) as server,
        ComfyClient(server.url) as client,
    ):
        for i, (caption, seed) in enumerate(pairs):
            judge = Judge(caption, options.frames)
            for arm in begins:
                if arm == "real":
                    clip = paint_clip(caption, options.frames, 128, seed).frames / np.float32(255)
                else:
                    record = saved_clip(client.run(graph(arm, caption, seed, options)))
                    path = options.output / f"{i}_{arm.replace(' ', '_')}.mp4"
                    write_whole(path, client.view(record))
                    clip = read_clip(path)[0] / np.float32(255)
                seam = seam_score(clip, begins[arm])
                results.each[arm].append({"seam": seam, **judge.scores(clip)})
                say(f"{i + 1}/{len(pairs)} {caption}: {arm}, seam {seam:.3f}")
            table = results.write(results.means(), pairs=pairs[: i + 1], settings=settings)
    return table


def main(arguments: list[str] | None = None) -> int:
    parser = arms_parser("long_clips", __doc__, output="outputs/evaluation_long", arms=DEFAULT_ARMS, pairs=6, frames=96)
    parser.add_argument("--adapter", default="toon/toon_adapter.safetensors", help="as ComfyUI lists it")
    parser.add_argument("--steps", type=whole(1, 1000), default=20)
    parser.add_argument("--cfg", type=number(0, 100), default=3.0)
    parser.add_argument("--cpu", action="store_true", help="render on the CPU even if there is a GPU")
    options = parser.parse_args(arguments)
    try:
        return report(lambda: run(options), None, ServerError, PromptError)
    except KeyboardInterrupt:
        say(f"interrupted; what was measured is in {options.output}")
        return 130


if __name__ == "__main__":
    sys.exit(main())
