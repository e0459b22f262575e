"""Whether the limbs of a clip do what its action asks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...temporal.measure.paths import path_correlation
from .pose import act, skeleton

ACTIONS_OF_LIMBS = ("run", "jump", "wave")
"""Actions that limbs act out; in the others they rest while head or camera moves."""
_LOOP, _PARTS = 16, 4  # every action loops in 8 or 16 beats; a phase is a quarter of one


def action_correlation(limbs: Mapping[str, np.ndarray], action: str) -> float:
    """Return the correlation of the paths of all limbs with the painter's, at the best phase of the action.

    One phase for all limbs, because the order in which they swing is part of the action. 1 for the painter's own
    clips, about 0 to 0.3 for another action of `ACTIONS_OF_LIMBS` and for noise; place and amplitude do not count.

    limbs: joint of the skeleton -> path `[F, 2]` at 12 frames a second, NaN where the limb is not seen.
    NaN for an action that limbs do not act out, and if fewer than three places are known.
    """
    if action not in ACTIONS_OF_LIMBS:
        return float("nan")
    frames = len(next(iter(limbs.values())))
    seen = _stacked(limbs, limbs)
    if np.isfinite(seen).all(-1).sum() < 3:
        return float("nan")
    poses = [skeleton(act(action, part / _PARTS)) for part in range((_LOOP + frames) * _PARTS)]
    found = []
    for phase in range(_LOOP * _PARTS):
        clip = poses[phase : phase + frames * _PARTS : _PARTS]
        painted = {name: np.array([pose[name] for pose in clip]) for name in limbs}
        found.append(path_correlation(seen, _stacked(painted, limbs)))
    return float(np.nanmax(found)) if np.isfinite(found).any() else 0.0  # a clip that stands still


def _stacked(paths: Mapping[str, np.ndarray], seen: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the paths one after another, each about its own mean of the places where the limb is seen."""
    known = [np.where(np.isfinite(path).all(-1, keepdims=True), paths[name], np.nan) for name, path in seen.items()]
    return np.concatenate([path - np.nanmean(path, axis=0) for path in known if np.isfinite(path).any()] or [known[0]])
