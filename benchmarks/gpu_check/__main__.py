"""Is the pack right on this GPU? Every MODEL node on the toon model, against the CPU in fp32.

    python -m sdxl_anime_video.benchmarks.gpu_check                 # on CUDA: fp16, bf16, low and no VRAM, the inductor
    python -m sdxl_anime_video.benchmarks.gpu_check --device cpu --frames 3 --steps 2    # the same lines in small

Needs a ComfyUI (COMFYUI_DIR, one that encloses this checkout, or the fetched one), but no PyAV and no network.
Prints a table, writes it with all figures to `--output`, and ends with status 1 if a line does not hold.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ...files import write_whole
from ..arguments import whole
from .cases import relative, run

LIMITS = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 5e-2}
"""Largest relative error of a clip's latents against the CPU in fp32."""
SOME = ["plain", "adapter", "motion module", "chain by overlap"]
"""What is sampled in the modes that differ by memory only."""


def modes(device: str) -> dict[str, dict[str, Any]]:
    """The processes to run: name -> device, ComfyUI's flags, what to sample, backend of torch.compile.

    The first is the reference of the others.
    """
    found = {
        "fp32": {"device": "cpu", "flags": ["fp32_unet"], "only": [], "backend": "eager" if device == "cpu" else ""}
    }
    if device == "cpu":
        return {**found, "bf16": {"device": "cpu", "flags": ["bf16_unet"], "only": SOME, "backend": ""}}
    for dtype in ("fp16", "bf16"):
        backend = "inductor" if dtype == "fp16" else ""
        found[f"{dtype}, {device}"] = {"device": device, "flags": [f"{dtype}_unet"], "only": [], "backend": backend}
    for memory in ("lowvram", "novram"):
        found[f"fp16, {memory}"] = {"device": device, "flags": ["fp16_unet", memory], "only": SOME, "backend": ""}
    return found


def in_process(options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What `cases.run` finds in a Python of its own. Raises RuntimeError with the end of its output if it fails."""
    result = folder / "found.pt"
    command = [sys.executable, "-m", "sdxl_anime_video.benchmarks.gpu_check", "--child", str(folder)]
    write_whole(folder / "options.json", json.dumps(options))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not result.is_file():
        raise RuntimeError((done.stdout + done.stderr)[-3000:])
    return torch.load(result, weights_only=True)


def lines(mode: str, found: dict[str, Any], reference: dict[str, torch.Tensor]) -> list[tuple[str, float, float]]:
    """(what, figure, most that it may be) of one process."""
    limit = LIMITS[mode.partition(",")[0]]
    rows = [(f"error, {name}", relative(clip, reference[name]), limit) for name, clip in found["latents"].items()]
    rows += [(f"difference, {name}", value, 0.0) for name, value in found.get("exact", {}).items()]
    if "interrupt" in found:
        stopped, seconds = found["interrupt"]
        rows.append(("seconds from Cancel to the end", seconds if stopped else float("inf"), 5.0))
    if "compiled" in found:
        rows += [(f"error, {name}", value, limit) for name, value in found["compiled"]["errors"].items()]
        rows.append(("graphs traced anew for another strength", found["compiled"]["retraced"], 0))
    return rows


def table(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    rows = ["| mode | what | figure | at most | |", "|---|---|---|---|---|"]
    rows += [
        f"| {r['mode']} | {r['what']} | {r['figure']:.3g} | {r['most']:g} | {'holds' if r['holds'] else 'FAILS'} |"
        for r in results
    ]
    return "\n".join(rows) + "\n"


def check(options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All lines, and what they were measured on."""
    results, reference, about = [], {}, {"torch": torch.__version__, "frames": options.frames, "steps": options.steps}
    for mode, settings in modes(options.device).items():
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="sav-gpu-check-") as folder:
            try:
                sizes = {"frames": options.frames, "steps": options.steps}
                found = in_process({**settings, **sizes}, Path(folder))
            except RuntimeError as error:
                if not reference:
                    raise
                results.append({"mode": mode, "what": f"failed: {error}", "figure": 1.0, "most": 0.0, "holds": False})
                continue
        about[mode] = {"device": found["device"], "seconds": round(time.perf_counter() - started, 1)}
        sys.stderr.write(f"{mode}: {found['device']}, {about[mode]['seconds']} s\n")
        reference = reference or found["latents"]
        results += [
            {"mode": mode, "what": what, "figure": figure, "most": most, "holds": figure <= most}
            for what, figure, most in lines(mode, found, reference)
        ]
    return results, about


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sdxl_anime_video.benchmarks.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--frames", type=whole(3), default=16)
    parser.add_argument("--steps", type=whole(2, 100), default=8)
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu_check.json"))
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)  # a process of this program's own
    options = parser.parse_args(arguments)
    if options.child:
        (options.child / "comfyui").mkdir()
        found = run(json.loads((options.child / "options.json").read_text("utf-8")), options.child / "comfyui")
        torch.save(found, options.child / "found.pt")
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: there is no CUDA device here; --device cpu runs the lines in small")
    if options.output.is_dir():
        parser.error(f"argument --output: {options.output} is a folder; name a file")
    try:
        results, about = check(options)
    except RuntimeError as error:
        sys.stderr.write(f"error: the reference on the CPU failed, so there is nothing to compare with:\n{error}\n")
        return 1
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.output, json.dumps({"about": about, "results": results}, indent=1) + "\n")
    sys.stdout.write(table(results))
    return 0 if all(result["holds"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
