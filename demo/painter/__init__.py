"""Paints cel-style clips of a chibi character, with the truth of every frame."""

from .clip import Clip, paint_clip
from .world import ACTIONS, BACKGROUNDS, HELD_OUT, LIMB_COLOURS, TRAIN, Spec

__all__ = ["ACTIONS", "BACKGROUNDS", "HELD_OUT", "LIMB_COLOURS", "TRAIN", "Clip", "Spec", "paint_clip"]
