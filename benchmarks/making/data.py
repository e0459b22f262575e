"""Painted frames as training data: random attributes, phases and placements, kept in a cache file."""

import multiprocessing
from pathlib import Path

import numpy as np

from ...demo.hints import hint_pictures
from ...demo.painter import TRAIN, paint_clip
from ...files import whole_or_nothing

_LIMBS = ("near_hand", "far_hand", "near_foot", "far_foot", "face")


def _paint(caption: str, seed: int, size: int, hint: str | None) -> tuple[np.ndarray, np.ndarray]:
    # Two moments of one scene, four beats apart: half of the set-up work, nearly independent pictures.
    clip = paint_clip(caption, frames=2, size=size, seed=seed, fps=3)
    if hint:
        return clip.frames, hint_pictures(clip, hint)
    small = np.isin(clip.part, [i for i, name in enumerate(clip.part_names) if name in _LIMBS])
    return clip.frames, np.where(small, 2, clip.character.astype(np.uint8)).astype(np.uint8)


def painted_frames(
    count: int, seed: int, cache: Path, size: int = 128, hint: str | None = None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return `count` random frames of the training captions: pictures uint8 `[N,H,W,3]`, importance uint8 `[N,H,W]`
    (0 background, 1 character, 2 limbs and face) and captions. Painted once, then read from the folder `cache`.

    With a `hint`, one of `hints.KINDS`, hint pictures uint8 `[N,H,W,3]` are in the place of the importance."""
    random = np.random.default_rng(seed)
    captions = [TRAIN[i] for i in random.integers(0, len(TRAIN), count // 2)]
    path = cache / f"{hint or 'frames'}-{size}-{count}-{seed}.npz"
    if not path.exists():
        jobs = [(caption, int(random.integers(2**31)), size, hint) for caption in captions]
        with multiprocessing.get_context("spawn").Pool() as pool:
            frames, weight = map(np.concatenate, zip(*pool.starmap(_paint, jobs, chunksize=64), strict=True))
        with whole_or_nothing(path) as part, part.open("wb") as file:
            np.savez(file, frames=frames, weight=weight)
    with np.load(path) as stored:
        return stored["frames"], stored["weight"], [caption for caption in captions for _ in range(2)]
