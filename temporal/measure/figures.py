"""The figures of a clip, each by its name, in one pass over its frames."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, pairwise, tee

import numpy as np

from .drawings import new_drawings
from .metrics import as_clip, estimate_flow, flicker, identity_drift, motion, pair_warp_error

FIGURES = {
    "flicker": "mean absolute difference of neighbouring frames, 0..1; a still has 0, so read motion beside it",
    "warp_error": "mean squared colour distance along the flow (Lai et al. 2018; DIS flow)",
    "coverage": "share of pixels that flow can follow, on which warp_error is measured",
    "motion": "mean length of the flow, pixels a frame",
    "identity_drift": "distance of later frames' colours from the first's, 0..1",
    "repeated": "share of frames that repeat the drawing before them; 0.5 on twos",
}
_OF_ONE_FRAME = {**dict.fromkeys(FIGURES, 0.0), "coverage": 1.0}


def figures(frames: Iterable[np.ndarray], region: np.ndarray | None = None) -> dict[str, float]:
    """Return each of `FIGURES` for frames `[H, W, 3]` of one size, uint8 or float 0..1; three are in memory at a time.

    region: mask `[F, H, W]` of the character's pixels, to which `identity_drift` is limited.
    """
    frames, again = tee(frames)
    pairs, first = [], None
    for i, ((here, there), new) in enumerate(zip(pairwise(frames), islice(new_drawings(again), 1, None), strict=False)):
        first = here if first is None else first
        pair = as_clip(np.stack([here, there]))
        flow = estimate_flow(pair[0], pair[1])
        error, coverage = pair_warp_error(pair[0], pair[1], flow, estimate_flow(pair[1], pair[0]))
        pairs.append(
            {
                "flicker": flicker(pair),
                "warp_error": error,
                "coverage": coverage,
                "motion": motion(pair, flow[None]),
                "identity_drift": identity_drift(
                    np.stack([first, there]), None if region is None else region[[0, i + 1]]
                ),
                "repeated": not new,
            }
        )
    means = np.mean([[pair[name] for name in FIGURES] for pair in pairs or [_OF_ONE_FRAME]], axis=0)
    return dict(zip(FIGURES, means.tolist(), strict=True))


def mean_figures(clips: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each figure over clips; nothing for no clips."""
    return {name: float(np.mean([clip[name] for clip in clips])) for name in clips[0]} if clips else {}


def markdown_table(rows: Mapping[str, Mapping[str, float]], columns: Sequence[str]) -> str:
    """Return figures as a Markdown table: a row for each name, three digits."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {row} | " + " | ".join(f"{of[name]:.3g}" for name in columns) + " |" for row, of in rows.items()]
    return "\n".join(lines) + "\n"
