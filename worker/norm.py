"""Sums of squares that come out the same however a vector is split over servers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.network.parameters import GRAIN
from worker.channel import Vector

_GRAINS_AT_ONCE = 32


class GrainSums:
    """The sums of squares of a vector's grains, in float64.

    Args:
        vector: shape (size,); the last grain may be short.
        out: where the sums go, shape (grains,); None: a vector of their own.

    """

    def __init__(self, vector: Vector, out: NDArray[np.floating[Any]] | None = None) -> None:
        grains = -(-vector.size // GRAIN)
        self._vector = vector
        self._out = np.empty(grains) if out is None else out
        self._squares = np.zeros((min(grains, _GRAINS_AT_ONCE), GRAIN))

    def compute(self) -> NDArray[np.floating[Any]]:
        """The sums for the vector as it is; infinite or no numbers where it holds such."""
        room = self._squares.reshape(-1)
        for first in range(0, self._out.size, _GRAINS_AT_ONCE):
            numbers = self._vector[first * GRAIN : (first + _GRAINS_AT_ONCE) * GRAIN]
            count = -(-numbers.size // GRAIN)
            np.multiply(numbers, numbers, out=room[: numbers.size], dtype=np.float64)
            room[numbers.size : count * GRAIN] = 0
            np.add.reduce(self._squares[:count], axis=1, out=self._out[first : first + count])
        return self._out

    def norm(self) -> float:
        """The vector's Euclidean norm."""
        return norm_of(self.compute())


def norm_of(sums: NDArray[np.floating[Any]]) -> float:
    """The norm of the vector whose grains have these sums, in any order."""
    total = float(np.add.reduce(sums))
    return math.sqrt(math.fsum(sums.tolist())) if math.isfinite(total) else math.nan


def is_finite(vector: Vector) -> bool:
    """Whether every number is."""
    if math.isfinite(vector.dot(vector)):  # the quickest way through a vector; it may overflow where no number does
        return True
    return bool(np.isfinite(vector).all())


def clipping(largest: float, norm: float) -> float:
    """By what to multiply a gradient of this norm so that it is at most the largest (Pascanu et al., ICML 2013)."""
    return largest / norm if norm > largest else 1.0
