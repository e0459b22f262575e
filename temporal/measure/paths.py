"""Paths of a character and its limbs, located in each frame by colour, and measures of these paths.

Flow counts flicker as motion; paths need not: a swinging limb draws a smooth path of the painter's amplitude. A path is
`[F, 2]` (x, y) in pixels, with NaN in frames without its colour. Clips as in `metrics.py`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .metrics import as_clip


def centroid_path(clip: Any, colour: Any, tolerance: float = 0.25, region: Any = None) -> np.ndarray:
    """Return the centre of a colour in each frame, `[F, 2]` (x, y) in pixels; NaN below one pixel of it.

    Args:
        clip: `[F, H, W, 3]`.
        colour: RGB in 0..1, `[3]`, or `[N, 3]`, of which the nearest counts.
        tolerance: Euclidean RGB distance, 0..sqrt(3), over which a pixel's weight falls linearly from 1 to 0.
        region: mask `[H, W]` or `[F, H, W]` outside of which pixels do not count.
    """
    frames = as_clip(clip)
    colours = np.asarray(colour, dtype=np.float32).reshape(-1, 3)
    if colours.size == 0 or colours.min() < 0 or colours.max() > 1:
        raise ValueError(f"colours are RGB in 0..1, not {np.asarray(colour).tolist()}")
    distance = np.stack([np.linalg.norm(frames - c, axis=-1) for c in colours]).min(0)
    weights = np.clip(1 - distance / tolerance, 0, None)  # [F, H, W]
    if region is not None:
        weights = weights * np.asarray(region, dtype=bool)
    height, width = weights.shape[1:]
    total = weights.sum((1, 2))
    seen = total >= 1
    safe = np.where(seen, total, 1)
    x = (weights.sum(1) * np.arange(width)).sum(1) / safe
    y = (weights.sum(2) * np.arange(height)).sum(1) / safe
    return np.where(seen[:, None], np.stack([x, y], -1), np.nan)


def limb_paths(clip: Any, colours: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the path of each limb by its colour."""
    return {name: centroid_path(clip, colour) for name, colour in colours.items()}


def seen_share(path: np.ndarray) -> float:
    """Return the share of frames in which the path is known, 0..1."""
    return float(np.isfinite(path).all(-1).mean())


def path_amplitude(path: np.ndarray) -> float:
    """Return the amplitude: root mean square distance from the mean, pixels. NaN with fewer than two known frames.

    A sine of amplitude A gives A / sqrt(2) over whole periods.
    """
    known = path[np.isfinite(path).all(-1)]
    if len(known) < 2:
        return float("nan")
    return float(np.sqrt(np.square(known - known.mean(0)).sum(-1).mean()))


def path_jerkiness(path: np.ndarray) -> float:
    """Return the root mean square second difference over the amplitude. NaN if unknown, 0 for a still path.

    A straight walk gives 0, a sine of n frames a period about (2 pi / n)^2, independent positions sqrt(6), about 2.4.
    """
    amplitude = path_amplitude(path)
    if not amplitude > 1e-6:
        return 0.0 if np.isfinite(amplitude) else float("nan")
    bend = np.diff(path, n=2, axis=0)
    bend = bend[np.isfinite(bend).all(-1)]
    return float(np.sqrt(np.square(bend).sum(-1).mean()) / amplitude) if len(bend) else float("nan")
