"""Our context windows beside AnimateDiff-Evolved's on the toon model: time per frame and seams.

    python -m sdxl_anime_video.benchmarks.context_windows FOLDER  # FOLDER: a checkout of ComfyUI-AnimateDiff-Evolved

The same model with our temporal adapter, seed, sampler and windows (16 frames, overlap 4, pyramid), in a real ComfyUI
on the CPU. The ways take turns, so that drift of the machine hits all of them. `windows` is the time of the MODEL's
own work, counted in windows of 16 frames: what any way must spend. `seam` is the change of the picture where a static
window begins over that elsewhere; see `benchmarks/judging/long_clips.py` for the figure of a painted clip.
"""

import argparse
import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..headless.comfyui import import_comfyui
from ..temporal.clip.segments import plan_segments
from ..temporal.measure.metrics import seam_score
from .judging.arms import held_out_pairs

LENGTH, OVERLAP = 16, 4
ADAPTER = Path(__file__).parents[1] / "demo/weights/temporal_adapters/toon/toon_adapter.safetensors"


def ways(model: Any, peer: Path) -> dict[str, Callable[[], Any]]:
    """MODELs that sample a long clip in windows, by name."""
    from ..temporal.clip.contract import Windows
    from ..temporal.hosts.comfy.sampling.wrapper import record

    sys.path.insert(0, str(peer.parent))
    theirs_by_id = importlib.import_module(peer.name).NODE_CLASS_MAPPINGS

    def theirs(kind: str, **more: int):
        options = theirs_by_id[f"ADE_Standard{kind}ContextOptions"]().create_options(
            context_length=LENGTH, context_overlap=OVERLAP, fuse_method="pyramid", **more
        )[0]
        sampling = theirs_by_id["ADE_UseEvolvedSampling"]()
        return sampling.use_evolved_sampling(model, "use existing", context_options=options)[0]

    def ours(schedule: str):
        windows = Windows(LENGTH, OVERLAP, schedule, "pyramid")
        return record(model, lambda contract: contract.with_windows(windows))

    return {
        "ours, static": lambda: ours("static"),
        "theirs, static": lambda: theirs("Static"),
        "ours, uniform": lambda: ours("uniform"),
        "theirs, uniform": lambda: theirs("Uniform", context_stride=1),
    }


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a way."""
    import nodes

    from ..demo.comfy import load_toon_comfy
    from ..temporal.hosts.comfy.layers.adapter import apply_adapter
    from ..temporal.hosts.comfy.layers.planned import load_patcher

    plain, clip, vae = load_toon_comfy()
    calls = 0

    def count(apply: Callable, arguments: dict[str, Any]):
        nonlocal calls
        calls += len(arguments["input"])
        return apply(arguments["input"], arguments["timestep"], **arguments["c"])

    plain.set_model_unet_function_wrapper(count)
    model = apply_adapter(plain, load_patcher(ADAPTER), 1.0)
    caption, seed = held_out_pairs(1)[0]
    positive, negative = ([[*nodes.CLIPTextEncode().encode(clip, text)[0][0]]] for text in (caption, ""))
    empty = {"samples": torch.zeros(options.frames, 4, 16, 16)}

    def sample(patched: Any, steps: int) -> torch.Tensor:
        with torch.inference_mode():
            asked = (seed, steps, 3.0, "dpmpp_2m", "karras", positive, negative, empty)
            return nodes.common_ksampler(patched, *asked)[0]["samples"]

    borders = [segment.new.start for segment in plan_segments(options.frames, LENGTH, OVERLAP)[1:]]
    makers = ways(model, options.peer)
    rows: list[dict[str, Any]] = [{"name": name, "seconds": []} for name in makers]
    for make in makers.values():
        sample(make(), 1)
    for turn in range(options.repeats):
        for row in rows if turn % 2 == 0 else reversed(rows):
            calls, start = 0, time.perf_counter()
            samples = sample(makers[row["name"]](), options.steps)
            row["seconds"].append((time.perf_counter() - start) / options.frames)
            row["windows"] = calls / (2 * LENGTH)
            with torch.inference_mode():
                row["seam"] = seam_score(vae.decode(samples).clamp(0, 1), borders)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", type=Path, help="checkout of ComfyUI-AnimateDiff-Evolved")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    options.peer = options.peer.resolve()
    if not (options.peer / "animatediff").is_dir():
        parser.error(f"{options.peer} is no checkout of ComfyUI-AnimateDiff-Evolved: it has no folder animatediff")
    with tempfile.TemporaryDirectory(prefix="sav-windows-") as base:
        import_comfyui(Path(base))
        rows = measure(options)
    first = statistics.median(rows[0]["seconds"])
    sys.stdout.write("| way | seconds a frame | ratio | windows | seam |\n|---|---|---|---|---|\n")
    for row in rows:
        seconds = statistics.median(row["seconds"])
        sys.stdout.write(
            f"| {row['name']} | {seconds:.3f} | {seconds / first:.3f} | {row['windows']:.0f} | {row['seam']:.3f} |\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
