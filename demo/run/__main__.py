"""`make demo`: the same captions three ways, rendered by a real ComfyUI server.

    python -m sdxl_anime_video.demo.run                                    # the toon world, on any CPU
    python -m sdxl_anime_video.demo.run --checkpoint sdxl.safetensors --adapter adapter.safetensors

Independent frames, frames with noise in common, and such frames with the temporal adapter. A page that plays the clips
in step, the clips, a side-by-side clip, a contact sheet, report.json and the server's log go to `--out`.
"""

import argparse
import json
import os
import signal
import sys
import time
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import groupby, product
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ...files import whole_or_nothing, write_whole
from ...headless.client import ComfyClient, Event, PromptError
from ...headless.comfyui import find_comfyui
from ...headless.graph import only, saved_clip, variant, with_files
from ...headless.server import PACK_ROOT, ComfyServer, ServerError, device_flags, log_faults
from ...media.reader import read_clip
from ...media.sheets import animated_webp, contact_sheet, side_by_side
from ...media.writer import write_clip
from ...rendering.page import PageClip
from ..judge import Judge, mean_scores
from ..painter import paint_clip
from .report import FIGURES, PAINTED, TOON_FIGURES, demo_page, figure_table, judges_of, report_figures, report_text

TOON_CAPTIONS = (  # none of these combinations was ever trained on
    "girl, blue hair, white dress, sunset, run",
    "boy, red hair, black shirt, meadow, wave",
    "girl, green hair, red dress, snow, jump",
)
SDXL_CAPTIONS = (
    "anime, 1girl, blue hair, white dress, running along a beach at sunset, cel shading, clean lines",
    "anime, 1boy, red hair, black shirt, waving in a meadow, cel shading, clean lines",
    "anime, 1girl, green hair, red dress, jumping in the snow, cel shading, clean lines",
)
WAYS: dict[str, tuple[float, float | None]] = {  # adapter strength, correlation of the noise (None: the graph's)
    "independent frames": (0.0, 0.0),
    "shared noise alone": (0.0, None),
    "temporal adapter": (1.0, None),
}
TOON_STEPS = 8  # of the toon world, whose graph has 20: nine clips are to take less than two minutes on two cores


@dataclass(frozen=True)
class Take:
    """One rendered clip."""

    caption: str
    way: str
    file: Path
    frames: np.ndarray  # uint8 [F, H, W, 3], as the saved clip decodes
    fps: Fraction
    seconds: float  # from queueing to the saved clip


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 0 done, 1 failed, 130 interrupted."""
    options = _parser().parse_args(argv)
    console = Console()
    if wrong := _wrong_options(options):
        console.print(f"[bold red]The demo did not start.[/] {wrong}", highlight=False, soft_wrap=True)
        return 1
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    for name in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C, so that the server never stays behind
        signal.signal(name, signal.default_int_handler)
    started = time.monotonic()
    log = out / "comfyui.log"
    log.unlink(missing_ok=True)  # an earlier run's must not pass for this one's
    try:
        takes, about = _render(options, console, out, log)
    except KeyboardInterrupt:
        console.print("Interrupted; the server is stopped.")
        return 130
    except (ServerError, PromptError, ConnectionError, FileNotFoundError) as error:
        console.print(f"[bold red]The demo failed.[/] {error}", highlight=False)
        if log.is_file():
            console.print(f"End of {log}:\n{log.read_text(errors='replace')[-3000:]}", markup=False, highlight=False)
        return 1
    _publish(takes, about, started, options, console)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.splitlines()[0])
    # `make demo CHECKPOINT=... ADAPTER=...` puts both into the environment; argparse makes a path of a default text
    checkpoint, adapter = (os.environ.get(name) or None for name in ("CHECKPOINT", "ADAPTER"))
    parser.add_argument("--checkpoint", type=Path, default=checkpoint, help="path of a real SDXL checkpoint")
    parser.add_argument("--adapter", type=Path, default=adapter, help="path of its temporal adapter")
    parser.add_argument("--caption", action="append", help="what to render; repeat for more (default: three)")
    parser.add_argument("--frames", type=int, help="frames a clip (default: the graph's)")
    parser.add_argument(
        "--steps", type=int, help=f"sampling steps (default: {TOON_STEPS}; with --checkpoint the graph's)"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--open", action="store_true", help="open the page of the clips in a browser at the end")
    parser.add_argument("--out", default=str(PACK_ROOT / "outputs" / "demo"), help="folder for the results")
    return parser


def _wrong_options(options: argparse.Namespace) -> str:
    """What is wrong with the options, in words; empty if nothing is."""
    for name, low, high in (("frames", 2, 4096), ("steps", 1, 10_000), ("seed", 0, 2**64 - 1)):
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            return f"--{name} is {value}; it must be from {low} to {high}."
    if Path(options.out).exists() and not Path(options.out).is_dir():
        return f"--out {options.out} is a file; name a folder."
    if not (options.checkpoint or options.adapter):
        return ""
    for name in ("checkpoint", "adapter"):
        path = getattr(options, name)
        asked = f"{name.upper()}={path or ''}"
        if path is None:
            return f"{asked}: a checkpoint and its temporal adapter go together; give both, as paths."
        if not path.is_file():
            return f"{asked}: there is no such file in {Path.cwd()}; give a path."
    return ""


def _render(options: argparse.Namespace, console: Console, out: Path, log: Path) -> tuple[list[Take], dict[str, Any]]:
    """All takes, caption by caption, way by way; and what they were made with."""
    name = f"{'temporal_adapter' if options.checkpoint else 'demo'}.json"
    graphs = PACK_ROOT / "workflows"
    prompt, workflow = (json.loads((folder / name).read_text(encoding="utf-8")) for folder in (graphs / "api", graphs))
    files: dict[str, list[Path]] = {}
    if options.checkpoint:
        files = {"checkpoints": [options.checkpoint], "temporal_adapters": [options.adapter]}
        prompt = with_files(prompt, checkpoint=options.checkpoint.name, adapter=options.adapter.name)
    captions = dict.fromkeys(options.caption or (SDXL_CAPTIONS if options.checkpoint else TOON_CAPTIONS))
    steps = options.steps or (None if options.checkpoint else TOON_STEPS)
    given = {"seed": options.seed, "frames": options.frames, "steps": steps}
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"), TimeElapsedColumn()
    with ExitStack() as stack:
        with console.status("Starting ComfyUI"):
            server = ComfyServer(find_comfyui(), flags=device_flags(), model_files=files, log_path=log)
            stack.enter_context(server)
        client = stack.enter_context(ComfyClient(server.url))
        console.print(f"ComfyUI is up at {server.url}", highlight=False)
        progress = stack.enter_context(Progress(*columns, console=console))
        takes, job = [], prompt
        for (number, caption), way in product(enumerate(captions, 1), WAYS):
            strength, correlation = WAYS[way]
            named = {"caption": caption, "prefix": f"{number}_{way.replace(' ', '_')}"}
            job = variant(prompt, strength=strength, correlation=correlation, **named, **given)
            show = partial(progress.update, progress.add_task(f"{caption}, {way}", total=1.0))
            file, seconds = _brought_home(client, job, workflow, out, show)
            takes.append(Take(caption, way, file, *read_clip(file), seconds))
        about = _about(client.system_stats(), job, options)
        if faults := log_faults(server.log()):
            raise ServerError("The server's log has faults:\n" + "\n".join(faults))
        return takes, about


def _brought_home(
    client: ComfyClient, job: dict[str, Any], workflow: dict[str, Any], out: Path, show: Callable[..., Any]
) -> tuple[Path, float]:
    """Render one prompt; returns the saved clip in `out`, and the seconds until it was there. show: of its bar."""

    def advance(event: Event) -> None:
        data = event["data"]
        if event["type"] == "progress" and data["max"]:
            show(completed=data["value"] / data["max"])

    started = time.monotonic()
    record = saved_clip(client.run(job, workflow, advance))
    path = out / record["filename"]
    write_whole(path, client.view(record))
    show(completed=1.0)
    return path, time.monotonic() - started


def _about(machine: dict[str, Any], job: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """What the takes were made with, for the report."""
    system = machine["system"]
    return {
        **{name: system.get(f"{name}_version") for name in ("comfyui", "python", "pytorch")},
        "device": [device["name"] for device in machine["devices"]],
        "model": options.checkpoint.name if options.checkpoint else "toon",
        "adapter": only(job, "SAV_LoadTemporalAdapter")["adapter_name"],
        "noise": {name: only(job, "SAV_CorrelatedNoise")[name] for name in ("mode", "correlation")},
        "seed": options.seed,
        "steps": only(job, "SAV_BestHQSigmas")["steps"],
        "cfg": only(job, "SamplerCustom")["cfg"],
    }


def _publish(
    takes: Sequence[Take], about: dict[str, Any], started: float, options: argparse.Namespace, console: Console
) -> None:
    """Pictures, report, table and page from the rendered clips."""
    out, fps = Path(options.out), float(takes[0].fps)
    rows = [(caption, list(some)) for caption, some in groupby(takes, lambda take: take.caption)]
    judges = judges_of([caption for caption, _ in rows], takes[0].frames.shape)
    page = [(c, _page_clips(c, some, judge, options.seed)) for (c, some), judge in zip(rows, judges, strict=True)]
    labels = [clip.label for clip in page[0][1]]
    measured = {label: [clip.figures for _, clips in page for clip in clips if clip.label == label] for label in labels}
    means = {label: mean_scores(some) for label, some in measured.items()}

    strips = [(f"{caption}   {clip.label}", clip.frames) for caption, some in page for clip in some]
    with whole_or_nothing(out / "contact_sheet.png") as part:
        contact_sheet(strips).save(part, "PNG")
    cells = [[(f"{clip.label}\n{caption}", clip.frames) for clip in clips] for caption, clips in page]
    write_clip(out / "side_by_side.mp4", side_by_side(cells), fps)
    write_whole(out / "side_by_side.webp", animated_webp(side_by_side(cells, side=176), fps))

    files = {(take.caption, take.way): {"file": take.file.name, "seconds": round(take.seconds, 2)} for take in takes}
    clips = [
        {"caption": caption, "variant": clip.label, **files.get((caption, clip.label), {}), **clip.figures}
        for caption, some in page
        for clip in some
    ]
    seconds = time.monotonic() - started
    frames = len(takes[0].frames)
    report = {**about, "frames": frames, "seconds": round(seconds, 1), "mean": means, "clips": clips}
    write_whole(out / "report.json", report_text(report))
    base, *_, best = WAYS
    write_whole(out / "index.html", demo_page(page, means, about, fps, base, best).encode())

    parts = [(caption, {clip.label: clip.figures for clip in some}) for caption, some in page]
    for caption, ways in (*parts, ("mean", means)):
        console.print(figure_table(caption, ways, TOON_FIGURES if PAINTED in labels else FIGURES))
    console.print(f"{len(takes)} clips in {seconds:.0f} s. Look at:", highlight=False)
    for name in ("contact_sheet.png", "side_by_side.mp4", "side_by_side.webp", "report.json", "index.html"):
        console.print(f"  {out / name}", highlight=False, soft_wrap=True)
    if options.open and not webbrowser.open((out / "index.html").resolve().as_uri()):
        console.print("No browser could be opened here; open index.html yourself.")


def _page_clips(caption: str, takes: Sequence[Take], judge: Judge | None, seed: int) -> list[PageClip]:
    """The clips of a caption with their figures; with the painter's own at the end if there is a judge."""
    clips = {take.way: take.frames for take in takes}
    if judge:
        length, height = takes[0].frames.shape[:2]
        clips[PAINTED] = paint_clip(caption, length, height, seed).frames
    return [PageClip(label, frames, report_figures(frames, judge)) for label, frames in clips.items()]


if __name__ == "__main__":
    sys.exit(main())
