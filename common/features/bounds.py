"""Cells that are unlike those of training: numbers far outside their range, and unknown categories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.features.categories import CategoryColumn
from common.features.columns import Column
from common.features.numbers import Cells

MOST_STRANGERS = 100

StrangerCode = Literal["far_outside_training_range", "unknown_category"]


@dataclass(frozen=True, slots=True)
class Stranger:
    """A cell unlike those of training."""

    row: int
    column: str
    code: StrangerCode


@dataclass(frozen=True, slots=True)
class Strangers:
    """All such cells of some rows."""

    first: Sequence[Stranger] = ()
    """Row by row, `MOST_STRANGERS` at most."""
    count: int = 0
    """Of them all."""


class Bounds:
    """What the cells of each column were like in training, in a form that is quick to compare with.

    A number is far outside when it is beyond the range of the training rows by more than that range is wide; where they
    all had one value, by more than its size, and more than 1. A category is unknown when no training row had it, or too
    few to be kept; so is a missing one where none was missing in training.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._low, self._high = np.array([_bounds(column) for column in columns], np.float64).T.copy()

    def strangers(self, cells: Cells) -> Strangers:
        """Those among `cells`, shape (rows, columns), as `FeatureEncoder.cells` makes them."""
        # Nothing is found in most calls, so that is what must be quick; a missing number is on no side.
        low, high = cells < self._low, cells > self._high
        count = int(np.count_nonzero(low)) + int(np.count_nonzero(high))
        if not count:
            return _NONE
        rows, places = np.nonzero(low | high)
        found = zip(rows[:MOST_STRANGERS].tolist(), places[:MOST_STRANGERS].tolist(), strict=True)
        return Strangers([_stranger(row, self._columns[place]) for row, place in found], count)


_NONE = Strangers()


def _stranger(row: int, column: Column) -> Stranger:
    is_category = isinstance(column, CategoryColumn)
    return Stranger(row, column.name, "unknown_category" if is_category else "far_outside_training_range")


def _bounds(column: Column) -> tuple[float, float]:
    """Beyond which a cell is unlike those of training; a category's cells are its number, below 0 if it is unknown."""
    if isinstance(column, CategoryColumn):
        return 0.0, math.inf
    if column.seen is None:
        return -math.inf, math.inf
    low, high = column.seen
    reach = high - low if high > low else max(abs(low), 1.0)
    return low - reach, high + reach
