"""Whether the limbs of a clip do what its action asks."""

from collections.abc import Mapping

import numpy as np

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
    frames = len(next(iter(limbs.values())))
    seen = {name: np.isfinite(path).all(-1) for name, path in limbs.items()}
    if action not in ACTIONS_OF_LIMBS or sum(map(np.sum, seen.values())) < 3:
        return float("nan")

    def about_mean(paths: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the places of all limbs where they are seen, each limb's about their mean, as one vector."""
        known = [paths[name][where] for name, where in seen.items() if where.any()]
        return np.concatenate([path - path.mean(0) for path in known]).ravel()

    poses = [skeleton(act(action, part / _PARTS)) for part in range((_LOOP + frames) * _PARTS)]
    clip, best = about_mean(limbs), -1.0
    for phase in range(_LOOP * _PARTS):
        painted = poses[phase : phase + frames * _PARTS : _PARTS]
        other = about_mean({name: np.array([pose[name] for pose in painted]) for name in limbs})
        best = max(best, float(clip @ other / max(np.linalg.norm(clip) * np.linalg.norm(other), 1e-9)))
    return best
