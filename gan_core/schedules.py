"""Values that change over training, as functions of the 10³ real images seen: no state to save."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["Schedule", "constant", "cosine", "exponential", "linear"]

Schedule = Callable[[float], float]
"""kimg -> value."""


def constant(value: float) -> Schedule:
    """Always ``value``."""
    return lambda kimg: value


def linear(start: float, end: float, over_kimg: float) -> Schedule:
    """From ``start`` to ``end`` in a straight line, then ``end``.

    Raises:
        ValueError: ``over_kimg`` is not above 0.
    """
    _check(over_kimg)
    return lambda kimg: start + (end - start) * min(kimg / over_kimg, 1.0)


def exponential(start: float, rate: float, every_kimg: float) -> Schedule:
    """Start · rate^⌊kimg / every_kimg⌋: a staircase.

    Raises:
        ValueError: ``every_kimg`` is not above 0.
    """
    _check(every_kimg)
    # 0.3 // 0.1 is 2: a stair isn't to be missed by the last bit
    return lambda kimg: start * rate ** math.floor(kimg / every_kimg + 1e-9)


def cosine(start: float, end: float, over_kimg: float) -> Schedule:
    """End + (start − end)·(1 + cos πt)/2 with t = kimg / over_kimg up to 1, then ``end``.

    The shape of Loshchilov & Hutter 2017, without restarts.

    Raises:
        ValueError: ``over_kimg`` is not above 0.
    """
    _check(over_kimg)
    return lambda kimg: (
        end + (start - end) * (1 + math.cos(math.pi * min(kimg / over_kimg, 1.0))) / 2
    )


def _check(kimg: float) -> None:
    if kimg <= 0:
        raise ValueError(f"a schedule takes more than 0 kimg, not {kimg}")
