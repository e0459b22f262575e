"""Motion: where hips, head, hands and feet are at a moment, for each action.

Lengths are in character units: the character is about 0.8 high, x to the right, y down, the hips at rest at (0, 0).
"""

import math
from dataclasses import dataclass, field

import numpy as np

_LIMBS = (("elbow", "hand"), ("knee", "foot"))
JOINTS = ("hip", "chest", "head", *(f"{side}_{joint}" for limb in _LIMBS for side in ("near", "far") for joint in limb))

ARM, LEG = 0.095, 0.095  # length of each of the two bones
CHEST, HEAD = np.array([0.0, -0.115]), np.array([0.0, -0.31])
SHOULDER = {"near": np.array([-0.075, -0.015]), "far": np.array([0.075, -0.015])}
HIP = {"near": np.array([-0.045, 0.0]), "far": np.array([0.045, 0.0])}
GROUND = 0.175  # y of the soles' joint when standing


@dataclass
class Targets:
    """What an action decides; the rest of the body follows by inverse kinematics."""

    hip: tuple[float, float] = (0.0, 0.0)
    lean: float = 0.0  # rotation of trunk and head, radians, clockwise
    yaw: float = 0.35  # -1 looks left, 1 looks right
    swing: float = 0.0  # rotation of loose hair, radians
    hands: dict[str, tuple[float, float]] = field(default_factory=dict)  # from the shoulder
    feet: dict[str, tuple[float, float]] = field(default_factory=dict)  # from the hip at rest
    scroll: float = 0.0  # distance walked, frame heights
    pan: float = 0.0  # camera to the right, frame heights
    zoom: float = 1.0


def act(action: str, beat: float) -> Targets:
    """The targets of `action` at `beat`, counted in frames of a 12 fps clip; every action loops in 8 or 16 beats."""
    slow, fast = 2 * math.pi * beat / 16, 2 * math.pi * beat / 8
    breath = 0.006 * math.sin(slow)
    rest = Targets(
        hip=(0.0, breath),
        swing=0.04 * math.sin(slow),
        hands={"near": (-0.08, 0.14 + breath), "far": (0.08, 0.14 + breath)},
        feet={"near": (-0.06, GROUND), "far": (0.065, GROUND)},
    )
    if action == "run":
        _run(rest, fast, beat)
    elif action == "jump":
        _jump(rest, beat)
    elif action == "wave":
        angle = 2.35 + 0.42 * math.sin(fast)
        rest.hands["near"] = (-0.185 * math.sin(angle), 0.185 * math.cos(angle))
        rest.lean = 0.03 * math.sin(fast)
    elif action == "turn":
        rest.yaw, rest.swing = math.sin(slow), -0.16 * math.cos(slow)
    elif action == "pan":
        rest.pan = 0.10 * math.sin(slow)
    elif action == "zoom":
        rest.zoom = 1.0 + 0.14 * math.sin(slow)
    return rest


def _run(rest: Targets, fast: float, beat: float) -> None:
    rest.hip = (0.0, -0.02 + 0.018 * math.cos(2 * fast))
    rest.lean, rest.yaw, rest.swing = 0.10, 0.8, 0.30 + 0.12 * math.sin(2 * fast)
    for side, phase in (("near", fast), ("far", fast + math.pi)):
        rest.feet[side] = (0.125 * math.cos(phase), GROUND - 0.01 - 0.075 * max(0.0, -math.sin(phase)))
        rest.hands[side] = (0.03 - 0.125 * math.cos(phase), 0.10 - 0.03 * math.cos(phase))
    rest.scroll = beat * 0.0625


def _jump(rest: Targets, beat: float) -> None:
    phase = (beat / 16) % 1.0
    air = (phase - 0.3) / 0.5
    if 0.0 < air < 1.0:
        height = 0.11 * 4 * air * (1 - air)
        tuck = 0.6 * height
        rest.hip = (0.0, -height)
        rest.feet = {"near": (-0.08, GROUND - height - tuck), "far": (0.085, GROUND - height - tuck)}
        lift = math.sin(math.pi * air)
        rest.swing = 0.25 * math.cos(math.pi * air)
    else:
        ground = (phase - 0.8) % 1.0 / 0.5
        rest.hip = (0.0, 0.05 * math.sin(math.pi * ground) ** 2)
        lift = 0.0
        rest.swing = -0.25 * math.cos(math.pi * ground)
    angle = 0.5 + 2.0 * lift
    for side, sign in (("near", -1.0), ("far", 1.0)):
        rest.hands[side] = (sign * 0.17 * math.sin(angle), 0.17 * math.cos(angle))


def bend(start: np.ndarray, end: np.ndarray, bone: float, side: float) -> tuple[np.ndarray, np.ndarray]:
    """Two-bone inverse kinematics: the middle joint and the end that can be reached, both `[2]`."""
    reach = end - start
    distance = float(np.hypot(*reach))
    limit = 2 * bone * 0.995
    if distance > limit:
        reach, distance = reach * (limit / distance), limit
    height = math.sqrt(max(bone * bone - distance * distance / 4, 0.0))
    normal = np.array([-reach[1], reach[0]]) / max(distance, 1e-6)
    return start + reach / 2 + side * height * normal, start + reach


def skeleton(targets: Targets) -> dict[str, np.ndarray]:
    """Joint positions `[2]` by name, in character units."""
    cos, sin = math.cos(targets.lean), math.sin(targets.lean)
    rotation = np.array([[cos, -sin], [sin, cos]])
    hip = np.array(targets.hip)
    chest = hip + rotation @ CHEST
    joints = {"hip": hip, "chest": chest, "head": hip + rotation @ HEAD}
    for side in ("near", "far"):
        shoulder = chest + rotation @ SHOULDER[side]
        socket = hip + HIP[side]
        joints[f"{side}_shoulder"], joints[f"{side}_socket"] = shoulder, socket
        hand, foot = np.array(targets.hands[side]), np.array(targets.feet[side])
        joints[f"{side}_elbow"], joints[f"{side}_hand"] = bend(shoulder, shoulder + hand, ARM, 1.0)
        joints[f"{side}_knee"], joints[f"{side}_foot"] = bend(socket, foot, LEG, -1.0)
    return joints
