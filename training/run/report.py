"""`report.html` of a run folder: curves, contact sheets and clips in one file that needs no network."""

import base64
from html import escape
from pathlib import Path
from typing import Any

from ...files import write_whole
from .journal import figures, read_log

WIDTH, HEIGHT, EDGE = 640, 200, 48  # of a plot, pixels
POINTS = 800  # of a curve; longer ones are averaged
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280", "#4a5568", "#975a16")
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1320px;margin:2em auto;padding:0 1em}
body{color:#222;background:#fff}
figure{display:inline-block;margin:0 1em 1em 0;vertical-align:top}figcaption{font-size:13px;color:#555}
svg text{font:11px system-ui,sans-serif;fill:#555}img,video{max-width:100%}
pre{background:#f5f5f5;padding:1em;overflow:auto}"""


def write_report(folder: Path, megabytes: float) -> Path:
    """Write the report of a run folder; returns its path.

    megabytes: limit of the clips and contact sheets inside the file, the newest first; it links to the others.
    Raises OSError where it cannot be written.
    """
    events = read_log(folder / "log.jsonl")
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    body = [
        f"<h1>{escape(folder.name)}</h1><p>{_summary(events)}</p>",
        *(plot(title, curves) for title, curves in _plots(events)),
        *_samples(folder, events, int(megabytes * 1e6)),
        f"<h2>Config</h2><pre>{escape(config)}</pre>",
    ]
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(folder.name)}</title>'
        f"<style>{STYLE}</style><body>{''.join(body)}</body></html>\n"
    )
    path = folder / "report.html"
    write_whole(path, page)
    return path


def _summary(events: list[dict[str, Any]]) -> str:
    steps = [event for event in events if "loss" in event]
    if not steps:
        return "No step is done yet."
    last = steps[-1]
    recent = [event["loss"] for event in steps[-50:]]
    return (
        f"{last['step']} steps in {last['seconds'] / 60:.1f} minutes; mean loss of the last {len(recent)}: "
        f"{sum(recent) / len(recent):.5f}."
    )


Curve = list[tuple[int, float]]


def _plots(events: list[dict[str, Any]]) -> list[tuple[str, dict[str, Curve]]]:
    """Return title and curves of each plot: loss, rate, validation, and one for each figure of the rendered clips."""
    curves: dict[str, Curve] = {}
    for event in events:
        for name, value in figures(event).items():
            curves.setdefault(name, []).append((event["step"], value))
    plots = [(name, {name: curves.pop(name)}) for name in ("loss", "lr") if name in curves]
    if validation := {name: curves.pop(name) for name in list(curves) if name.startswith("validation")}:
        shares = {
            name: [(step, value / (curve[0][1] or 1.0)) for step, value in curve] for name, curve in validation.items()
        }
        plots.append(("validation, over its first value", shares))
    for name in [name for name in curves if not name.startswith("real_")]:
        real = curves.get(f"real_{name}")
        plots.append((name, {name: curves[name], **({"the clips themselves": real} if real else {})}))
    return plots


def thinned(curve: Curve, points: int = POINTS) -> Curve:
    """Return at most `points` points of a curve, each the mean of its neighbours."""
    size = -(-len(curve) // points)
    groups = [curve[i : i + size] for i in range(0, len(curve), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def plot(title: str, curves: dict[str, Curve]) -> str:
    """Return a figure with an SVG of the curves over steps; values that are not finite are left out."""
    curves = {name: [p for p in thinned(curve) if abs(p[1]) < float("inf")] for name, curve in curves.items()}
    values = [value for curve in curves.values() for _, value in curve]
    if not values:
        return ""
    last = max(step for curve in curves.values() for step, _ in curve) or 1
    low, high = min(values), max(values)
    span = high - low or abs(high) or 1.0

    def place(step: int, value: float) -> str:
        x = EDGE + step / last * (WIDTH - 2 * EDGE)
        return f"{x:.1f},{HEIGHT - 24 - (value - low) / span * (HEIGHT - 40):.1f}"

    lines, key = [], []
    for i, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[i % len(COLOURS)]
        points = " ".join(place(*point) for point in curve)
        dots = "".join(f'<circle cx="{x}" cy="{y}" r="2.5"/>' for x, y in (p.split(",") for p in points.split()))
        line = f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        lines.append(f'<g fill="{colour}">{line}{dots if len(curve) < 60 else ""}</g>')
        key.append(f'<span style="color:{colour}">{escape(name)}</span> {curve[-1][1]:.5g}' if curve else "")
    axes = (
        f'<text x="0" y="20">{high:.4g}</text><text x="0" y="{HEIGHT - 24}">{low:.4g}</text>'
        f'<text x="{EDGE}" y="{HEIGHT - 6}">0</text><text x="{WIDTH - EDGE}" y="{HEIGHT - 6}">{last}</text>'
    )
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="{escape(title)}">'
        f"{axes}{''.join(lines)}</svg><figcaption>{escape(title)}: {', '.join(key)}</figcaption></figure>"
    )


def _samples(folder: Path, events: list[dict[str, Any]], room: int) -> list[str]:
    """Return a section for every rendering, the newest first: embedded within `room` bytes, then as links."""
    parts = []
    for event in reversed([event for event in events if "samples" in event]):
        place = folder / event["samples"]
        said = ", ".join(f"{name} {value:.4g}" for name, value in figures(event).items())
        parts.append(f"<h2>Clips at step {event['step']}</h2><p>{escape(said)}</p>")
        for path in [*sorted(place.glob("*.png")), *sorted(place.glob("*.mp4"))]:
            size = path.stat().st_size * 4 // 3  # as base64
            name = escape(path.relative_to(folder).as_posix())
            if size > room:
                parts.append(f'<p><a href="{name}">{name}</a> is not in this file: report_megabytes are used up.</p>')
                continue
            room -= size
            data = base64.b64encode(path.read_bytes()).decode()
            if path.suffix == ".png":
                shown = f'<img src="data:image/png;base64,{data}" alt="frames of the clips">'
            else:
                shown = f'<video controls loop muted src="data:video/mp4;base64,{data}"></video>'
            parts.append(f"<figure>{shown}<figcaption>{name}</figcaption></figure>")
    return parts
