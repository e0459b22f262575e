"""Figures of the rendered clips: computed, and shown as a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from ...temporal.measure.figures import figures

# figure -> (heading, digits)
FIGURES = {
    "flicker": ("flicker", 4),
    "warp_error": ("warp error", 4),
    "identity_drift": ("identity drift", 4),
    "motion": ("motion px/frame", 2),
}


def report_figures(frames: np.ndarray) -> dict[str, float]:
    """Return the figures of a clip, uint8 `[F, H, W, 3]`, by their names in report.json."""
    found = figures(frames)
    return {"warp_coverage": found["coverage"], **{name: found[name] for name in FIGURES}}


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
