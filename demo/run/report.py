"""Figures of the rendered clips: computed, averaged, written as report.json and shown as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ...files import write_whole
from ...temporal.measure.metrics import flicker, identity_drift, motion, warp_error

# figure -> (heading, digits)
FIGURES = {
    "flicker": ("flicker", 4),
    "warp_error": ("warp error", 4),
    "identity_drift": ("identity drift", 4),
    "motion": ("motion px/frame", 2),
}


def figures(frames: np.ndarray) -> dict[str, float]:
    """The temporal figures of one clip, uint8 [F, H, W, 3]. Low flicker counts only where the motion stays."""
    error = warp_error(frames)
    return {
        "flicker": flicker(frames),
        "warp_error": error.error,
        "warp_coverage": error.coverage,
        "identity_drift": identity_drift(frames),
        "motion": motion(frames),
    }


def mean_figures(records: Sequence[dict[str, float]]) -> dict[str, float]:
    """Average of each figure over several clips."""
    return {name: float(np.mean([record[name] for record in records])) for name in records[0]}


def figure_table(rows: Sequence[tuple[str, str, dict[str, float]]], title: str) -> Table:
    """rows: (caption, variant, figures)."""
    table = Table(title=title, title_justify="left")
    table.add_column("caption")
    table.add_column("clip")
    for heading, _ in FIGURES.values():
        table.add_column(heading, justify="right")
    for caption, kind, record in rows:
        table.add_row(caption, kind, *(f"{record[name]:.{digits}f}" for name, (_, digits) in FIGURES.items()))
    return table


def write_report(path: Path, report: dict[str, Any]) -> None:
    """report.json, whole or not at all."""
    write_whole(path, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
