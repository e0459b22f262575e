"""Frame rates as exact fractions."""

import math
from fractions import Fraction

# Rates of film and NTSC are abbreviated, such as 23.976 or 29.97, and mean n * 1000 / 1001.
_NTSC = (24, 30, 48, 60, 120)


def exact_fps(fps: float | Fraction, name: str = "fps") -> Fraction:
    """Return the rate that a number means: 12 -> 12, 8.5 -> 17/2, 23.976 and 23.98 -> 24000/1001, 29.97 -> 30000/1001.

    Fractions and whole numbers stay; other floats become the nearest fraction with a denominator of at most 1001.
    Raises ValueError, starting with `name`, for a rate that is not a finite number above 0.
    """
    if not math.isfinite(fps) or fps <= 0:
        raise ValueError(f"{name} must be a number above 0, got {fps}")
    if isinstance(fps, float) and not fps.is_integer():
        for rate in _NTSC:
            if abs(fps - rate * 1000 / 1001) < 0.005:
                return Fraction(rate * 1000, 1001)
        exact = Fraction(fps).limit_denominator(1001)
        if exact == 0:
            raise ValueError(f"{name} {fps} is below the slowest rate that can be written, 1/1001")
        return exact
    return Fraction(fps)
