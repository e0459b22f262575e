"""`paint_clip`: pictures and truth of one clip."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .figure import FAR_PERIOD, GROUND_PERIOD, NEAR_PERIOD, background_shapes, character_shapes
from .pose import JOINTS, Targets, act, skeleton
from .raster import Raster, part_flow
from .world import CLOTHES, HAIR, LIMB_COLOURS, OUTLINE, SKIN, Spec

# How much of the camera's movement a layer follows, and its nearness (1 = at the lens) for the depth map.
_PARALLAX = {"sky": 0.0, "sun": 0.08, "far_hills": 0.3, "near_hills": 0.55, "ground": 1.0}
_NEARNESS = {"sky": 0.0, "sun": 0.04, "far_hills": 0.2, "near_hills": 0.35, "ground": 0.5}
_CHARACTER_NEARNESS = (0.75, 0.95)
# Distance that a layer passes per unit walked, chosen so that every layer loops in 8 or 16 frames of a run.
_SCROLL = {"far_hills": FAR_PERIOD / GROUND_PERIOD / 2, "near_hills": NEAR_PERIOD / GROUND_PERIOD / 2, "ground": 1.0}


@dataclass(frozen=True)
class Clip:
    """A painted clip of F frames at H x W, and its truth.

    frames: uint8 `[F,H,W,3]` RGB. flow: float32 `[F-1,H,W,2]`, (x, y) in pixels, forward: the surface seen at pixel p
    of frame t is at p + flow in frame t + 1 (or hidden there; see `visible`). part: uint8 `[F,H,W]`, index into
    `part_names`. pose: float32 `[F,J,2]` in pixels, order `joints`.
    outline: uint8 `[F,H,W]` coverage. depth: float32 `[F,H,W]`, nearness from 0 (sky) to 1, as depth maps are drawn.
    identity: RGB of skin, hair, clothes and limbs.
    """

    caption: str
    fps: float
    seed: int
    frames: np.ndarray
    flow: np.ndarray
    part: np.ndarray
    part_names: tuple[str, ...]
    pose: np.ndarray
    outline: np.ndarray
    depth: np.ndarray
    identity: dict[str, tuple[int, int, int]]
    joints: tuple[str, ...] = JOINTS

    @cached_property
    def visible(self) -> np.ndarray:
        """bool `[F-1,H,W]`: the surface seen at each pixel is still seen in the next frame, wherever it has moved."""
        height, width = self.part.shape[1:]
        y, x = np.mgrid[:height, :width]
        column, row = np.rint(x + self.flow[..., 0]).astype(int), np.rint(y + self.flow[..., 1]).astype(int)
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        at = np.arange(len(self.flow))[:, None, None]
        there = self.part[at + 1, row.clip(0, height - 1), column.clip(0, width - 1)]
        return inside & (there == self.part[:-1])

    def joint(self, name: str) -> np.ndarray:
        """Path `[F,2]` of one joint, pixels."""
        return self.pose[:, self.joints.index(name)]

    @property
    def character(self) -> np.ndarray:
        """bool `[F,H,W]`: where the character is seen."""
        behind = [i for i, name in enumerate(self.part_names) if name in _PARALLAX]
        return ~np.isin(self.part, behind)

    @cached_property
    def centroid(self) -> np.ndarray:
        """float32 `[F,2]`: mean pixel of the visible character."""
        seen = self.character
        y, x = np.mgrid[: seen.shape[1], : seen.shape[2]] + 0.5
        count = np.maximum(seen.sum((1, 2)), 1)
        return np.stack([(seen * x).sum((1, 2)) / count, (seen * y).sum((1, 2)) / count], axis=1).astype(np.float32)


def _similarity(scale: float, to: Sequence[float] | np.ndarray, angle: float = 0.0) -> np.ndarray:
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    return np.array([[cos, -sin, to[0]], [sin, cos, to[1]]])


def _after(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """The map `inner`, then `outer`."""
    return np.concatenate([outer[:, :2] @ inner[:, :2], (outer[:, :2] @ inner[:, 2] + outer[:, 2])[:, None]], axis=1)


class _Stage:
    """Everything about a clip that does not change over time: size, placement and the seed's choices."""

    def __init__(self, spec: Spec, height: int, width: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.spec = spec
        self.beat = random.uniform(0, 16)
        self.place = np.array([0.5 + random.uniform(-0.03, 0.03), 0.67 + random.uniform(-0.01, 0.015)])
        self.scale = random.uniform(0.98, 1.06)
        self.offset = {name: random.uniform(0, 1) for name in ("far_hills", "near_hills", "ground")}
        self.sun = np.array([0.17 + random.uniform(-0.04, 0.06), 0.17 + random.uniform(-0.04, 0.06)])
        unit = min(height, width)
        self.to_pixels = _similarity(unit, ((width - unit) / 2, height - unit))

    def camera(self, targets: Targets, parallax: float) -> np.ndarray:
        """Frame heights to pixels, as seen by a layer."""
        zoom = targets.zoom**parallax
        view = _similarity(zoom, (0.5 - zoom * (0.5 + parallax * targets.pan), 0.6 - zoom * 0.6))
        return _after(self.to_pixels, view)

    def background(self, targets: Targets) -> dict[str, np.ndarray]:
        maps = {}
        for name, parallax in _PARALLAX.items():
            x = self.offset.get(name, 0.0) - targets.scroll * _SCROLL.get(name, 0.0)
            place = _similarity(1.0, self.sun if name == "sun" else (x, 0.0))
            maps[name] = _after(self.camera(targets, parallax), place)
        return maps

    def body(self, targets: Targets) -> np.ndarray:
        """Character units to pixels."""
        return _after(self.camera(targets, 1.0), _similarity(self.scale, self.place))


def _bone(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    return _similarity(1.0, start, math.atan2(end[1] - start[1], end[0] - start[0]))


def _character_maps(targets: Targets, joints: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Part name -> affine from part coordinates to character units."""
    head = _similarity(1.0, joints["head"], targets.lean)
    turn, swing = targets.yaw, targets.swing
    maps = {
        "trunk": _similarity(1.0, joints["hip"], targets.lean),
        "head": head,
        "face": _after(head, np.array([[1 - 0.12 * abs(turn), 0, 0.065 * turn], [0, 1, 0]])),
        "hair": _after(head, _similarity(1.0, (0.012 * turn, 0.0))),
        "hair_back": _after(head, _similarity(1.0, (-0.025 * turn, 0.0))),
        "left_tail": _after(head, _similarity(1.0, (-0.19 - 0.02 * turn, -0.06), swing)),
        "right_tail": _after(head, _similarity(1.0, (0.19 - 0.02 * turn, -0.06), swing)),
    }
    for side in ("near", "far"):
        at = {name: joints[f"{side}_{name}"] for name in ("shoulder", "elbow", "hand", "socket", "knee", "foot")}
        maps[f"{side}_upper_arm"] = _bone(at["shoulder"], at["elbow"])
        maps[f"{side}_fore_arm"] = _bone(at["elbow"], at["hand"])
        maps[f"{side}_hand"] = _similarity(1.0, at["hand"])
        maps[f"{side}_thigh"] = _bone(at["socket"], at["knee"])
        maps[f"{side}_shin"] = _bone(at["knee"], at["foot"])
        # A boot follows its shin half-way, about upright.
        shin = math.atan2(at["foot"][1] - at["knee"][1], at["foot"][0] - at["knee"][0])
        maps[f"{side}_foot"] = _similarity(1.0, at["foot"], 0.5 * (shin - math.pi / 2))
    return maps


def paint_clip(
    spec: Spec | str, frames: int = 16, size: int | tuple[int, int] = 128, seed: int = 0, fps: float = 12
) -> Clip:
    """Paint `frames` pictures of `spec` (or of a caption) at `size` (one side, or (height, width)).

    The seed decides phase, placement, scale and the hills' offsets. Raises ValueError for an unknown attribute or a
    size or count below one.
    """
    spec = Spec.parse(spec) if isinstance(spec, str) else spec
    height, width = (size, size) if isinstance(size, int) else size
    if frames < 1 or height < 1 or width < 1 or fps <= 0:
        raise ValueError(
            f"painter: cannot paint {frames} frames of {width}x{height} at {fps} fps; all must be positive"
        )
    stage = _Stage(spec, height, width, seed)
    raster = Raster(background_shapes(spec) + character_shapes(spec), height, width, OUTLINE)
    pictures, maps, pose = [], [], []
    for i in range(frames):
        targets = act(spec.action, stage.beat + i * 12 / fps)
        joints = skeleton(targets)
        body = stage.body(targets)
        moved = {name: _after(body, inner) for name, inner in _character_maps(targets, joints).items()}
        maps.append({**stage.background(targets), **moved})
        pictures.append(raster.draw(maps[-1]))
        pose.append([body[:, :2] @ joints[name] + body[:, 2] for name in JOINTS])
    part = np.stack([picture.part for picture in pictures])
    flow = [part_flow(part[i], raster.parts, maps[i], maps[i + 1]) for i in range(frames - 1)]
    return Clip(
        caption=spec.caption,
        fps=fps,
        seed=seed,
        frames=np.stack([picture.frame for picture in pictures]),
        flow=np.stack(flow) if flow else np.zeros((0, height, width, 2), np.float32),
        part=part,
        part_names=tuple(raster.parts),
        pose=np.array(pose, np.float32),
        outline=np.stack([picture.outline for picture in pictures]),
        depth=_depth(part, raster.parts),
        identity={"skin": SKIN, "hair": HAIR[spec.hair], "clothes": CLOTHES[spec.clothes], **LIMB_COLOURS},
    )


def _depth(part: np.ndarray, names: list[str]) -> np.ndarray:
    figure = [name for name in names if name not in _NEARNESS]
    nearness = _NEARNESS | dict(zip(figure, np.linspace(*_CHARACTER_NEARNESS, len(figure)), strict=True))
    return np.array([nearness[name] for name in names], np.float32)[part]
