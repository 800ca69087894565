"""Sums that do not depend on the order in which, or the parts by which, they were taken."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


def exact_parts(numbers: Iterable[float]) -> tuple[float, ...]:
    """A few numbers whose sum, taken exactly, is that of many: an expansion (Shewchuk, 1997, section 2.2).

    `math.fsum` over the parts of several is the correctly rounded sum of all. What is not finite stays so.
    """
    rest, parts = list(numbers), list[float]()
    while total := math.fsum(rest):
        parts.append(total)
        if not math.isfinite(total):
            break
        rest.append(-total)
    return tuple(parts)


@dataclass(slots=True)
class ExactSum:
    """A sum that grows: of the same numbers always the same, however they come."""

    parts: tuple[float, ...] = ()

    def add(self, numbers: NDArray[np.floating]) -> None:
        """Takes in more numbers; a sum beyond all numbers is infinite from then on."""
        try:
            self.parts = exact_parts([*self.parts, *numbers.tolist()])
        except (OverflowError, ValueError):  # too large on the way, or infinities of both signs
            self.parts = (math.inf,)

    @property
    def exact(self) -> Fraction | None:
        """The sum, not rounded at all; None where it is not finite."""
        return sum(map(Fraction, self.parts), Fraction(0)) if all(map(math.isfinite, self.parts)) else None

    @property
    def value(self) -> float:
        """The sum, rounded once."""
        return math.fsum(self.parts)


def exact_squares(numbers: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The squares, rounded, and what rounding took: together they are exact (Dekker, 1971) where nothing over- or underflows."""
    high = _SPLITTER * numbers
    high -= high - numbers
    low = numbers - high
    squares = np.square(numbers)
    return squares, ((np.square(high) - squares) + 2 * high * low) + np.square(low)


_SPLITTER = float(2**27 + 1)
