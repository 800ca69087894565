"""Mean and standard deviation that stay exact where the textbook formula cancels or overflows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Number = float | NDArray[np.float64]
EXACT = 2.0**53
"""Floats below keep every whole number."""
_SMALLEST_SCALE = 1e-300


def mean_and_std(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and population standard deviation of finite `values`, shape (n,); (0, 0) when there are none.

    The corrected two-pass algorithm (Chan, Golub and LeVeque, 1983) on values divided by a power of two, so
    that neither a mean far from zero nor values near the largest float lose digits. Equal values give exactly
    0.
    """
    if values.size == 0:
        return 0.0, 0.0
    low, high = float(values.min()), float(values.max())
    if low == high:
        return low, 0.0
    exponent = math.frexp(max(-low, high))[1]
    scaled = np.ldexp(values, -exponent)
    mean = float(scaled.mean())
    deviations = np.subtract(scaled, mean, out=scaled)  # in place: a column may be all that memory has room for
    offset = float(deviations.mean())
    largest = max(float(deviations.max()), -float(deviations.min()))  # keeps the squares of tiny deviations above zero
    deviations -= offset
    deviations /= largest
    spread = float(np.square(deviations, out=deviations).mean())
    return math.ldexp(mean + offset, exponent), math.ldexp(math.sqrt(spread) * largest, exponent)


def usable_scale(std: float) -> float:
    """What to divide by: the standard deviation, or 1 where it is zero or too small to divide by."""
    return std if std > _SMALLEST_SCALE else 1.0


class Standardizer:
    """(values - mean) / scale as a new array; in halves, as the difference of two floats can overflow."""

    def __init__(self, mean: _Number, scale: _Number) -> None:
        self._half_mean = mean * 0.5
        self._half_scale = scale * 0.5

    def __call__(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Of these values, whose shape the mean and the scale can be brought to."""
        result: NDArray[np.float64] = np.multiply(values, 0.5, dtype=np.float64)
        result -= self._half_mean
        result /= self._half_scale
        return result


def standardize(values: NDArray[Any], mean: _Number, scale: _Number) -> NDArray[np.float64]:
    """The same, where it is wanted once."""
    return Standardizer(mean, scale)(values)
