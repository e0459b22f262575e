"""Numbers on the command line of a benchmark, checked before the slow work begins."""

import argparse
from collections.abc import Callable


class WrongNumber(argparse.ArgumentTypeError, ValueError):
    """A word that is no number in its range: shown by argparse, and an error of the value anywhere else."""


def whole(low: int, high: int = 2**31) -> Callable[[str], int]:
    """Return a `type` for argparse: a whole number from `low` to `high`."""
    return lambda word: int(_read(word, int, low, high))


def number(low: float, high: float) -> Callable[[str], float]:
    """Return a `type` for argparse: a number from `low` to `high`."""
    return lambda word: _read(word, float, low, high)


def _read(word: str, kind: type[int] | type[float], low: float, high: float) -> float:
    try:
        value = kind(word)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        name = "whole number" if kind is int else "number"
        raise WrongNumber(f"{word!r} is no {name} from {low} to {high}")
    return value
