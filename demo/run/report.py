"""What the rendered clips score: figures, report.json, a table, and the page on which the clips play in step."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from ...rendering.page import Figure, PageClip, clips_page
from ...temporal.measure.figures import figures
from ..judge import Judge

PAINTED = "painted"

FIGURES = {
    "flicker": Figure(
        "flicker", 4, "Mean change of a pixel from frame to frame. A still has 0, so read motion beside it."
    ),
    "warp_error": Figure("warp error", 4, "Colour that changes although the drawing only moved. Lower is steadier."),
    "identity_drift": Figure(
        "colour drift", 4, "How far colours are from those of the first frame. Lower is steadier."
    ),
    "motion": Figure("motion px/frame", 2, "Mean length of the optical flow, in pixels a frame. Flicker counts, too."),
}
TOON_FIGURES = {
    "limb_ratio": Figure("limb motion", 2, "How far gloves and boots move, as a share of the painter's. 1 is as far."),
    "centroid_ratio": Figure("body motion", 2, "The same of the body; – where the painter keeps it still."),
    "jerkiness": Figure("jerkiness", 2, "How abruptly limbs turn. Smooth swings have about 0.4, random places 2.4."),
    "action": Figure("action", 2, "Do limbs do what the caption says? Correlation of their paths with the painter's."),
    **{name: figure for name, figure in FIGURES.items() if name != "motion"},
}


def judges_of(captions: Sequence[str], shape: Sequence[int]) -> list[Judge | None]:
    """Return a judge for each caption; None for each unless all are toon captions and clips `[F, H, W, 3]` square."""
    frames, height, width = shape[:3]
    if height == width:
        with suppress(ValueError):  # a caption of another world
            return [Judge(caption, frames, height, references=1) for caption in captions]
    return [None] * len(captions)


def report_figures(frames: np.ndarray, judge: Judge | None) -> dict[str, float]:
    """Return the figures of a clip, uint8 `[F, H, W, 3]`, by their names in report.json."""
    found = judge.scores(frames) if judge else figures(frames)
    names = dict.fromkeys((*FIGURES, *(TOON_FIGURES if judge else ())))
    return {"warp_coverage": found["coverage"], **{name: found[name] for name in names}}


def figure_table(title: str, ways: Mapping[str, Mapping[str, float]], shown: Mapping[str, Figure]) -> Table:
    """Return a table for the terminal, a row for each way -> figures."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("", no_wrap=True)
    for figure in shown.values():
        table.add_column(figure.title, justify="right", min_width=max(map(len, figure.title.split())))
    for way, found in ways.items():
        values = [(found.get(name, np.nan), figure.digits) for name, figure in shown.items()]
        table.add_row(way, *(f"{value:.{n}f}" if np.isfinite(value) else "–" for value, n in values))
    return table


def report_text(report: Mapping[str, Any]) -> str:
    """Return report.json; a figure that is unknown is null."""
    known = json.loads(json.dumps(report), parse_constant=lambda _: None)
    return json.dumps(known, indent=2, ensure_ascii=False) + "\n"


def demo_page(
    rows: Sequence[tuple[str, Sequence[PageClip]]],
    means: Mapping[str, Mapping[str, float]],
    about: Mapping[str, Any],
    fps: float,
    base: str,
    best: str,
) -> str:
    """Return the page. rows: caption -> clips; base, best: labels of the plainest and the best way to make a clip."""
    toon = PAINTED in means
    lead = (
        f"Each row is one caption and one seed, in {about['steps']} steps on {', '.join(about['device'])}; only noise "
        f"and temporal layers differ. “{base}” draws every frame anew, “{best}” draws one clip: watch gloves and boots."
    )
    if toon:
        lead += (
            " The model is a small relative of SDXL, trained on painted clips; it says nothing about SDXL's quality. "
            f"“{PAINTED}” was painted by the program that made those clips; it begins at a moment of its own."
        )
    further = [
        "Next: start ComfyUI with this pack, open <b>Workflow → Browse Templates → SDXL Anime Video</b> and run "
        f"<b>{'demo' if toon else 'temporal_adapter'}</b>: it makes a clip like those of “{best}”. Or drop one of the "
        "<code>.mp4</code> files beside this page on ComfyUI: it opens as the graph that made it.",
        "With your own SDXL: <code>make demo CHECKPOINT=PATH/sdxl.safetensors ADAPTER=PATH/adapter.safetensors</code>. "
        "README.md says how to train an adapter on your clips.",
    ]
    shown = TOON_FIGURES if toon else FIGURES
    title = "The same captions three ways"
    return clips_page(title, lead, rows, shown, means, fps, further, PAINTED if toon else None, base if toon else None)
