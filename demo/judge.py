"""What a clip of a toon caption scores against what the painter paints for that caption."""

from collections.abc import Iterable

import numpy as np

from ..temporal.measure import metrics, paths
from ..temporal.measure.figures import figures
from .painter import LIMB_COLOURS, Clip, Spec, paint_clip
from .painter.action import action_correlation

COLUMNS = (
    "flicker",
    "warp_error",
    "coverage",
    "motion_ratio",
    "identity_drift",
    "centroid_ratio",
    "limb_ratio",
    "jerkiness",
    "limbs_seen",
    "action",
)
_MOVING_LIMB, _MOVING_BODY = 1.5, 1.0  # pixels at 128: below, an amplitude is only noise of the measurement


def read_limbs(clip: np.ndarray) -> dict[str, np.ndarray]:
    """Places of gloves and boots in a clip `[F, H, W, 3]`, each `[F, 2]` (x, y) in pixels; NaN where not seen."""
    return paths.limb_paths(clip, {name: np.array(colour) / 255 for name, colour in LIMB_COLOURS.items()})


class Judge:
    """Scores clips of one caption.

    They are compared with `references` painted clips of other seeds, because a clip may begin at any phase; or with
    `truth`, the one painted clip that they are to repeat frame by frame.
    """

    def __init__(
        self,
        caption: str,
        frames: int = 16,
        size: int = 128,
        seed: int = 90_000,
        truth: Clip | None = None,
        references: int = 4,
    ) -> None:
        painted = [truth] if truth else [paint_clip(caption, frames, size, seed + i) for i in range(references)]
        self.truth = truth
        self.caption = caption
        self.action = Spec.parse(caption).action
        self.identity = painted[0].identity
        seen = np.mean([clip.character.mean(0) for clip in painted], axis=0)  # [H, W], how often the character is there
        self.reach, self.core = seen > 0.02, seen > 0.6
        limbs = [read_limbs(clip.frames) for clip in painted]
        amplitudes = {name: _mean(paths.path_amplitude(limb[name]) for limb in limbs) for name in LIMB_COLOURS}
        self.limbs = {name: value for name, value in amplitudes.items() if value >= _MOVING_LIMB * size / 128}
        self.centroid = _mean(paths.path_amplitude(self._body(clip.frames)) for clip in painted)
        self.body_moves = self.centroid >= _MOVING_BODY * size / 128
        self.motion = _mean(metrics.motion(clip.frames) for clip in painted)

    def _body(self, clip: np.ndarray) -> np.ndarray:
        colours = [np.array(self.identity[name]) / 255 for name in ("hair", "clothes")]
        return paths.centroid_path(clip, colours, region=self.reach)

    def scores(self, clip: np.ndarray) -> dict[str, float]:
        """Figures of a clip `[F, H, W, 3]`; ratios are to the painter's, NaN where the painter keeps that part still.

        With a truth there is also true_warp_error, the warp error along the painter's own flow. It sees every pixel
        that stays in view; estimated flow hides what it cannot follow.

        motion_ratio: mean flow. centroid_ratio, limb_ratio: amplitude of the paths of body and moving limbs.
        jerkiness: of the moving limbs' paths. limbs_seen: share of frames in which a limb is found.
        action: see `action_correlation`.
        """
        found = figures(clip, np.broadcast_to(self.core, clip.shape[:3]))
        limbs = read_limbs(clip)
        moving = {name: limbs[name] for name in self.limbs}
        truth, truly = self.truth, {}
        if truth is not None:
            truly["true_warp_error"] = metrics.warp_error(clip, truth.flow, truth.visible).error
        return {
            **truly,
            **{name: found[name] for name in ("flicker", "warp_error", "coverage", "motion", "identity_drift")},
            "motion_ratio": found["motion"] / self.motion,
            "centroid_ratio": paths.path_amplitude(self._body(clip)) / self.centroid if self.body_moves else np.nan,
            "limb_ratio": _mean(paths.path_amplitude(path) / self.limbs[name] for name, path in moving.items()),
            "jerkiness": _mean(paths.path_jerkiness(path) for path in moving.values()),
            "limbs_seen": _mean(paths.seen_share(path) for path in limbs.values()),
            "action": action_correlation(limbs, self.action),
        }


def _mean(values: Iterable[float]) -> float:
    """Mean of the values that are known, NaN if none is."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def mean_scores(each: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each figure over clips, leaving out clips in which it is not known."""
    return {name: _mean(score[name] for score in each) for name in each[0]} if each else {}
