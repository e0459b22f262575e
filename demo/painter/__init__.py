"""Paints cel-style clips of a chibi character, with the truth of every frame."""

from .clip import Clip, paint_clip
from .pose import JOINTS
from .world import ACTIONS, BACKGROUNDS, CHARACTERS, CLOTHES, HAIR, HELD_OUT, LIMB_COLOURS, TRAIN, Spec

__all__ = [
    "ACTIONS",
    "BACKGROUNDS",
    "CHARACTERS",
    "CLOTHES",
    "HAIR",
    "HELD_OUT",
    "JOINTS",
    "LIMB_COLOURS",
    "TRAIN",
    "Clip",
    "Spec",
    "paint_clip",
]
