"""The shapes of a character and of a background, in the coordinates of their parts."""

import numpy as np

from .raster import Shape
from .world import BACKGROUNDS, CLOTHES, EYE, EYE_LIGHT, HAIR, LIMB_COLOURS, MOUTH, SKIN, Spec

LINE = 0.014
FAR_PERIOD, NEAR_PERIOD, GROUND_PERIOD = 0.32, 0.56, 0.5
HORIZON = 0.80

_CIRCLE = np.linspace(0, 2 * np.pi, 28, endpoint=False)


def _ellipse(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    return np.stack([x + rx * np.cos(_CIRCLE), y + ry * np.sin(_CIRCLE)], axis=1)


def _capsule(length: float, radius: float) -> np.ndarray:
    """A bone from (0, 0) to (length, 0)."""
    half = np.linspace(-np.pi / 2, np.pi / 2, 8)
    right = np.stack([length + radius * np.cos(half), radius * np.sin(half)], axis=1)
    left = np.stack([-radius * np.cos(half), -radius * np.sin(half)], axis=1)
    return np.concatenate([right, left])


def _wave(period: float, top: float, height: float, bottom: float, reach: float = 3.0) -> np.ndarray:
    x = np.arange(-reach, reach + 1e-6, period / 12)
    crest = top + height * np.cos(2 * np.pi * x / period)
    return np.concatenate([np.stack([x, crest], axis=1), [[x[-1], bottom], [x[0], bottom]]])


def background_shapes(spec: Spec) -> list[Shape]:
    """Sky, sun or moon, two ranges of hills and the ground; far to near; units are frame heights."""
    sky, sun, far, near, ground, stripe = BACKGROUNDS[spec.background]
    everything = np.array([[-9.0, -9.0], [9.0, -9.0], [9.0, 9.0], [-9.0, 9.0]])
    ground_edge = np.array([[-9.0, HORIZON], [9.0, HORIZON], [9.0, 9.0], [-9.0, 9.0]])
    return [
        Shape("sky", everything, sky, "sky"),
        Shape("sun", _ellipse(0.0, 0.0, 0.10, 0.10), sun, "sun"),
        Shape("far_hills", _wave(FAR_PERIOD, 0.60, 0.045, 9.0), far, "far_hills", period=FAR_PERIOD),
        Shape("near_hills", _wave(NEAR_PERIOD, 0.72, 0.05, 9.0), near, "near_hills", period=NEAR_PERIOD),
        Shape("ground", ground_edge, ground, "ground"),
        Shape("ground", _wave(GROUND_PERIOD, 0.91, 0.045, 9.0), stripe, "stripe", period=GROUND_PERIOD),
    ]


def character_shapes(spec: Spec) -> list[Shape]:
    """Back to front, in character units."""
    hair, cloth = HAIR[spec.hair], CLOTHES[spec.clothes]
    shapes = _back_hair(spec.character, hair)
    shapes += _arm("far", cloth) + _leg("far") + _leg("near")
    shapes += _body(spec.character, cloth)
    shapes += _head(spec.character, hair)
    return shapes + _arm("near", cloth)


def _arm(side: str, cloth: tuple) -> list[Shape]:
    group, hand = f"{side}_arm", LIMB_COLOURS[f"{side}_hand"]
    return [
        Shape(f"{side}_upper_arm", _capsule(0.095, 0.030), cloth, group, LINE),
        Shape(f"{side}_fore_arm", _capsule(0.085, 0.028), cloth, group, LINE),
        Shape(f"{side}_hand", _ellipse(0.0, 0.0, 0.052, 0.052), hand, f"{side}_glove", LINE),
    ]


def _leg(side: str) -> list[Shape]:
    group, foot = f"{side}_leg", LIMB_COLOURS[f"{side}_foot"]
    boot = np.array([[-0.05, -0.045], [0.035, -0.045], [0.05, -0.01], [0.09, 0.012], [0.095, 0.05], [-0.05, 0.05]])
    return [
        Shape(f"{side}_thigh", _capsule(0.095, 0.034), SKIN, group, LINE),
        Shape(f"{side}_shin", _capsule(0.095, 0.032), SKIN, group, LINE),
        Shape(f"{side}_foot", boot, foot, f"{side}_boot", LINE),
    ]


def _body(character: str, cloth: tuple) -> list[Shape]:
    hem = {"girl": 0.135, "boy": 0.085, "cat": 0.105}[character]
    low = {"girl": 0.055, "boy": 0.02, "cat": 0.075}[character]
    points = np.array([[-0.07, -0.16], [0.07, -0.16], [0.095, -0.06], [hem, low], [-hem, low], [-0.095, -0.06]])
    return [Shape("trunk", points, cloth, "trunk", LINE)]


def _back_hair(character: str, hair: tuple) -> list[Shape]:
    if character == "girl":
        tail = np.array(
            [[-0.02, -0.03], [0.04, -0.02], [0.075, 0.08], [0.055, 0.20], [0.01, 0.27], [-0.03, 0.19], [-0.045, 0.08]]
        )
        return [
            Shape("left_tail", tail * [-1, 1], hair, "left_tail", LINE),
            Shape("right_tail", tail, hair, "right_tail", LINE),
        ]
    if character == "cat":
        bob = np.array([[-0.2, -0.05], [0.2, -0.05], [0.225, 0.12], [0.19, 0.17], [-0.19, 0.17], [-0.225, 0.12]])
        return [Shape("hair_back", bob, hair, "hair_back", LINE)]
    spikes = np.array(
        [[-0.19, 0.10], [-0.245, 0.06], [-0.2, 0.0], [0.2, 0.0], [0.245, 0.06], [0.19, 0.10], [0.0, 0.15]]
    )
    return [Shape("hair_back", spikes, hair, "hair_back", LINE)]


def _head(character: str, hair: tuple) -> list[Shape]:
    eyes = [Shape("face", _ellipse(x, 0.045, 0.031, 0.050), EYE, "eyes") for x in (-0.075, 0.075)]
    eyes += [Shape("face", _ellipse(x + 0.010, 0.025, 0.013, 0.017), EYE_LIGHT, "eye_lights") for x in (-0.075, 0.075)]
    mouth = Shape("face", np.array([[-0.03, 0.115], [0.03, 0.115], [0.0, 0.14]]), MOUTH, "mouth")
    shapes = [Shape("head", _ellipse(0.0, 0.0, 0.195, 0.18), SKIN, "head", LINE)]
    return [*shapes, mouth, *eyes, *_front_hair(character, hair)]


def _front_hair(character: str, hair: tuple) -> list[Shape]:
    angle = np.linspace(np.pi, 2 * np.pi, 16)
    width, height = (0.215, 0.20) if character == "boy" else (0.212, 0.205)
    outer = np.stack([width * np.cos(angle), height * np.sin(angle)], axis=1)
    if character == "boy":
        outer[2:-1:3] *= 1.24
    x, y = {  # of the fringe
        "girl": ([0.20, 0.16, 0.08, 0.0, -0.08, -0.16, -0.20], [0.05, -0.05, -0.035, -0.09, -0.035, -0.05, 0.05]),
        "boy": ([0.20, 0.14, 0.10, 0.03, -0.04, -0.12, -0.20], [0.03, -0.07, -0.01, -0.08, -0.01, -0.08, 0.03]),
        "cat": ([0.205, 0.165, 0.0, -0.165, -0.205], [0.12, -0.03, -0.045, -0.03, 0.12]),
    }[character]
    cap = np.concatenate([outer, np.stack([x, y], axis=1)])
    shapes = []
    if character == "cat":
        for sign in (-1, 1):
            ear = np.array([[0.05, -0.17], [0.16, -0.285], [0.195, -0.10]]) * [sign, 1]
            shapes.append(Shape("hair", ear, hair, "ears", LINE))
        shapes += [
            Shape("hair", (s.points - s.points.mean(0)) * 0.45 + s.points.mean(0), SKIN, "inner_ears") for s in shapes
        ]
    if character == "girl":
        shapes += [
            Shape("hair", _ellipse(sign * 0.2, -0.09, 0.035, 0.045), MOUTH, f"bow{sign}", LINE) for sign in (-1, 1)
        ]
    return [*shapes, Shape("hair", cap, hair, "hair", LINE)]
