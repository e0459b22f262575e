"""Metrics of a clip: steadiness, motion and constancy of its character.

Every function takes a clip `[F, H, W, 3]` (numpy or torch; float in 0..1, or uint8) and returns plain numbers or numpy
arrays. Report `motion` beside `flicker` and `warp_error`: a still picture has the best of both. Optical flow is
OpenCV's DIS.

Source of the warp error and its occlusion test: Lai et al. 2018, "Learning Blind Video Temporal Consistency".
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

FLOW_MIN_SIZE = 32  # DIS needs a few pyramid levels


class WarpError(NamedTuple):
    """Warp error and the share of pixels it is measured on, which is small in an incoherent clip."""

    error: float  # mean squared colour distance of pixels that flow can follow, 0..3
    coverage: float  # share of pixels that flow can follow, 0..1


def as_clip(clip: Any) -> np.ndarray:
    """Return a checked clip as float32 `[F, H, W, 3]` in 0..1.

    Raises:
        ValueError: the shape is not a clip's, a value is not finite, or floats lie outside 0..1.
    """
    if hasattr(clip, "detach"):
        clip = clip.detach().cpu().float().numpy() if clip.dtype.is_floating_point else clip.detach().cpu().numpy()
    clip = np.asarray(clip)
    if clip.ndim != 4 or clip.shape[-1] != 3 or 0 in clip.shape:
        raise ValueError(f"a clip has shape [frames, height, width, 3], not {list(clip.shape)}")
    if clip.dtype == np.uint8:
        return clip.astype(np.float32) / 255
    clip = clip.astype(np.float32)
    low, high = float(clip.min()), float(clip.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("the clip holds values that are not finite")
    if low < -1e-3 or high > 1 + 1e-3:
        raise ValueError(f"the clip's values are {low:.3g}..{high:.3g}; scale them to 0..1 (or pass uint8)")
    return clip.clip(0, 1)


def flicker(clip: Any) -> float:
    """Return the mean absolute difference of neighbouring frames, 0..1; 0 for a still and for a single frame."""
    frames = as_clip(clip)
    return float(np.abs(np.diff(frames, axis=0)).mean()) if len(frames) > 1 else 0.0


def seam_score(clip: Any, borders: Sequence[int]) -> float:
    """Return the frame difference at the borders of pieces of a clip over that inside the pieces: 1 if no seam shows.

    borders: the first frame of every piece but the first. NaN if there are none or nothing moves inside.
    Raises ValueError for a border outside the clip.
    """
    frames = as_clip(clip)
    if wrong := [border for border in borders if not 0 < border < len(frames)]:
        raise ValueError(f"borders {wrong} lie outside frames 1 to {len(frames) - 1}")
    change = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    seam = np.zeros(len(change), dtype=bool)
    seam[[border - 1 for border in borders]] = True
    if not seam.any() or seam.all() or not change[~seam].mean():
        return float("nan")
    return float(change[seam].mean() / change[~seam].mean())


def estimate_flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return dense optical flow `[H, W, 2]` (x, y in pixels): the pixel at p in `first` is at p + flow in `second`.

    Frames smaller than the estimator's pyramid are enlarged for it, and the flow is scaled back.
    """
    import cv2

    height, width = first.shape[:2]
    scale = max(1, -(-4 * FLOW_MIN_SIZE // min(height, width)))
    grey = []
    for frame in (first, second):
        luma = cv2.cvtColor((frame * 255).round().astype(np.uint8), cv2.COLOR_RGB2GRAY)
        grey.append(
            cv2.resize(luma, (width * scale, height * scale), interpolation=cv2.INTER_LINEAR) if scale > 1 else luma
        )
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(grey[0], grey[1], None)  # type: ignore[call-overload]
    if scale > 1:
        flow = cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA) / scale
    return flow


def warp_back(image: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `image` `[H, W, C]` sampled bilinearly at p + flow(p), and which points lie inside it, `[H, W]`."""
    import cv2

    height, width = flow.shape[:2]
    x = np.arange(width, dtype=np.float32)[None] + flow[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
    warped = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return warped, (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def followable(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Return which pixels `[H, W]` of the first frame are visible in both: there forward and backward flow cancel.

    The test of Lai et al. 2018 (after Ruder et al. 2016): |w + w'|^2 <= 0.01 (|w|^2 + |w'|^2) + 0.5.
    """
    back, inside = warp_back(backward, forward)
    gap = np.square(forward + back).sum(-1)
    size = np.square(forward).sum(-1) + np.square(back).sum(-1)
    return inside & (gap <= 0.01 * size + 0.5)


def warp_error(clip: Any, flow: Any = None, visible: Any = None) -> WarpError:
    """Return how much the colours of followed pixels change between neighbouring frames (Lai et al. 2018).

    For each pair, the squared RGB distance of I_t and I_t+1 warped onto it, averaged over the pixels that can be
    followed; then the mean over pairs. Pairs in which nothing can be followed count with all their pixels, as in the
    authors' code.

    Args:
        clip: `[F, H, W, 3]`.
        flow: true flow `[F-1, H, W, 2]`, pixels, from each frame to the next; estimated both ways where None.
        visible: with `flow`, the pixels `[F-1, H, W]` still seen in the next frame; None means all that stay inside.
    """
    frames = as_clip(clip)
    if len(frames) < 2:
        return WarpError(0.0, 1.0)
    if visible is not None and flow is None:
        raise ValueError("`visible` belongs to a given `flow`; pass both or neither")
    if flow is not None and np.shape(flow) != (len(frames) - 1, *frames.shape[1:3], 2):
        raise ValueError(f"flow of a clip {list(frames.shape)} is [F-1, H, W, 2], not {list(np.shape(flow))}")
    pairs = []
    for t, (here, there) in enumerate(pairwise(frames)):
        if flow is None:
            pairs.append(pair_warp_error(here, there, estimate_flow(here, there), estimate_flow(there, here)))
            continue
        warped, mask = warp_back(there, np.asarray(flow[t], dtype=np.float32))
        if visible is not None:
            mask = mask & np.asarray(visible[t], dtype=bool)
        pairs.append(_masked_error(here, warped, mask))
    return WarpError(*(float(np.mean(part)) for part in zip(*pairs, strict=True)))


def pair_warp_error(here: np.ndarray, there: np.ndarray, forward: np.ndarray, backward: np.ndarray) -> WarpError:
    """Return the warp error of two frames `[H, W, 3]`, 0..1, over the pixels that flow can follow."""
    return _masked_error(here, warp_back(there, forward)[0], followable(forward, backward))


def _masked_error(here: np.ndarray, warped: np.ndarray, mask: np.ndarray) -> WarpError:
    distance = np.square(here - warped).sum(-1)
    return WarpError(float(distance[mask].mean() if mask.any() else distance.mean()), float(mask.mean()))


def motion(clip: Any, flow: Any = None) -> float:
    """Return the mean length of the flow in pixels a frame; of `flow` `[F-1, H, W, 2]`, estimated (DIS) if None."""
    if flow is None:
        flow = [estimate_flow(here, there) for here, there in pairwise(as_clip(clip))]
    return float(np.linalg.norm(np.asarray(flow), axis=-1).mean()) if len(flow) else 0.0


def _directions() -> np.ndarray:
    """Return thirteen unit vectors `[13, 3]`: the axes and diagonals of the RGB cube, each once."""
    grid = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
    half = grid[len(grid) // 2 + 1 :].astype(np.float32)
    return half / np.linalg.norm(half, axis=1, keepdims=True)


def colour_distance(first: np.ndarray, second: np.ndarray, quantiles: int = 128) -> float:
    """Return the distance of two sets of colours `[N, 3]` and `[M, 3]`, whatever their places in the picture.

    Sliced Wasserstein distance (Rabin et al. 2011) along the axes and diagonals of the RGB cube, in mean colour shift
    per axis: shifting every colour by (d, d, d) gives d.
    """
    levels = (np.arange(quantiles) + 0.5) / quantiles
    directions = _directions()
    curves = [np.quantile(colours @ directions.T, levels, axis=0) for colours in (first, second)]
    uniform = np.abs(directions.sum(axis=1)).mean()  # distance of a shift by (1, 1, 1)
    return float(np.abs(curves[0] - curves[1]).mean() / uniform)


def identity_drift(clip: Any, region: Any = None) -> float:
    """Return the mean `colour_distance` of later frames of a clip to its first, of all pixels or of its character's.

    Pixels may move freely; colours may not.

    Args:
        clip: `[F, H, W, 3]`.
        region: mask `[F, H, W]` of the character's pixels; None: whole frames. A frame without any such pixel has lost
            its character, so its whole picture is compared.
    """
    frames = as_clip(clip)
    if region is None:
        colours = [frame.reshape(-1, 3) for frame in frames]
    else:
        region = np.asarray(region, dtype=bool)
        if region.shape != frames.shape[:3]:
            raise ValueError(f"region of a clip {list(frames.shape)} is [F, H, W], not {list(region.shape)}")
        colours = [
            frame[mask] if mask.any() else frame.reshape(-1, 3) for frame, mask in zip(frames, region, strict=True)
        ]
    if len(colours) < 2:
        return 0.0
    return float(np.mean([colour_distance(colours[0], later) for later in colours[1:]]))
