"""What the painter knows of a frame, drawn as a ControlNet is shown it."""

import numpy as np

from .painter import LIMB_COLOURS, Clip

KINDS = ("pose", "outline", "depth")

_BONES = (
    ("hip", "chest"),
    ("chest", "head"),
    *((a, f"{side}_{b}") for side in ("far", "near") for a, b in (("chest", "elbow"), ("hip", "knee"))),
    *((f"{side}_{a}", f"{side}_{b}") for side in ("far", "near") for a, b in (("elbow", "hand"), ("knee", "foot"))),
)
_BODY = (255, 255, 255)
_SHIFT = 4  # binary places of a coordinate


def hint_pictures(clip: Clip, kind: str) -> np.ndarray:
    """Hint pictures uint8 `[F, H, W, 3]` of a painted clip.

    pose: a skeleton on black, each limb in the colour of its glove or boot. outline: the character's contours, white on
    black. depth: nearness, near is white, of background and character.

    Raises ValueError for any other kind.
    """
    if kind == "pose":
        return np.stack([_skeleton(dict(zip(clip.joints, at, strict=True)), clip.part.shape[1:]) for at in clip.pose])
    if kind not in KINDS:
        raise ValueError(f"hint {kind!r} does not exist; choose one of {', '.join(KINDS)}")
    grey = clip.outline if kind == "outline" else (clip.depth * 255).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _skeleton(at: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """One frame, from joints in pixels."""
    import cv2

    picture = np.zeros((*shape, 3), np.uint8)
    width = max(1, round(min(shape) / 64))

    def place(name: str) -> tuple[int, ...]:
        return tuple(np.round((at[name] - 0.5) * (1 << _SHIFT)).astype(int).tolist())

    for start, end in _BONES:
        limb = end.replace("elbow", "hand").replace("knee", "foot")
        cv2.line(picture, place(start), place(end), LIMB_COLOURS.get(limb, _BODY), width, cv2.LINE_AA, _SHIFT)
    for name in ("head", *LIMB_COLOURS):
        radius = round(min(shape) * (0.05 if name == "head" else 0.025) * (1 << _SHIFT))
        cv2.circle(picture, place(name), radius, LIMB_COLOURS.get(name, _BODY), -1, cv2.LINE_AA, _SHIFT)
    return picture
