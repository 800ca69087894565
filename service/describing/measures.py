"""Measures of association that take their rows block by block, in room that does not grow with them.

Numbers are float64 arrays, categories int64 codes from 0 below a known count; both of one length, without missing values.
A measure has no value (None) where one of the two columns does not vary.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Codes = NDArray[np.int64]

_EXACTLY = 1e-12
"""What rounding may leave of a variance that is zero."""


class Pearson:
    """Pearson's correlation of two columns of numbers, -1 to 1.

    Blocks are merged as Chan, Golub and LeVeque (1983) merge sums of products of deviations.
    """

    name: Final = "pearson"

    def __init__(self) -> None:
        self._rows = 0
        self._origin = np.zeros((2, 1))  # near all values: what is counted from there loses no digits
        self._mean = np.zeros(2)
        self._products = np.zeros((2, 2))
        self._low = np.full(2, np.inf)
        self._high = np.full(2, -np.inf)

    def add(self, first: Numbers, second: Numbers) -> None:
        """Take the next block in; values near the largest float overflow."""
        count = len(first)
        if not count:
            return
        pair = np.stack([first, second])
        if not self._rows:
            self._origin = pair.mean(axis=1, keepdims=True)
        self._low = np.minimum(self._low, pair.min(axis=1))
        self._high = np.maximum(self._high, pair.max(axis=1))
        pair -= self._origin
        mean = pair.mean(axis=1)
        pair -= mean[:, None]
        rest = pair.mean(axis=1)  # what rounding left
        products = pair @ pair.T - count * np.outer(rest, rest)
        apart = mean + rest - self._mean
        total = self._rows + count
        self._products += products + np.outer(apart, apart) * (self._rows * count / total)
        self._mean += apart * (count / total)
        self._rows = total

    def value(self) -> float | None:
        """Of all blocks."""
        if not (self._low < self._high).all():
            return None
        spread = math.sqrt(self._products[0, 0]) * math.sqrt(self._products[1, 1])
        return min(1.0, max(-1.0, float(self._products[0, 1]) / spread)) if spread > 0 else None


class CorrelationRatio:
    """Fisher's correlation ratio eta, 0 to 1: the root of the part of numbers' variance that lies between categories."""

    name: Final = "eta"

    def __init__(self, categories: int) -> None:
        self._rows = 0
        self._origin = 0.0  # as above
        self._counts = np.zeros(categories)
        self._means = np.zeros(categories)
        self._squares = np.zeros(categories)  # of deviations from the category's own mean
        self._low = np.inf
        self._high = -np.inf

    def add(self, codes: Codes, numbers: Numbers) -> None:
        """Take the next block in."""
        if not len(codes):
            return
        size = len(self._counts)
        counts = np.bincount(codes, minlength=size).astype(np.float64)
        present = np.maximum(counts, 1)
        if not self._rows:
            self._origin = float(numbers.mean())
        self._low, self._high = min(self._low, float(numbers.min())), max(self._high, float(numbers.max()))
        numbers = numbers - self._origin
        means = np.bincount(codes, weights=numbers, minlength=size) / present
        deviations = numbers - means[codes]
        rests = np.bincount(codes, weights=deviations, minlength=size)
        squares = np.bincount(codes, weights=np.square(deviations), minlength=size) - np.square(rests) / present
        means += rests / present
        totals = np.maximum(self._counts + counts, 1)
        apart = np.where(counts > 0, means - self._means, 0)
        self._squares += squares + np.square(apart) * self._counts * counts / totals
        self._means += apart * counts / totals
        self._counts += counts
        self._rows += len(codes)

    def value(self) -> float | None:
        """Of all blocks."""
        part = self._part_between()
        return None if part is None else math.sqrt(part)

    def determined(self) -> bool:
        """Whether a category with two rows at least on average says what the number is."""
        part = self._part_between()
        return part is not None and part > 1 - _EXACTLY and 2 * int(np.count_nonzero(self._counts)) <= self._rows

    def _part_between(self) -> float | None:
        if not self._low < self._high or np.count_nonzero(self._counts) < 2:
            return None
        mean = float(self._counts @ self._means) / self._rows
        between = float(self._counts @ np.square(self._means - mean))
        total = between + max(0.0, float(self._squares.sum()))
        return between / total if total > 0 else None


class CramersV:
    """Cramér's V of two columns of categories, 0 to 1, corrected for its bias (Bergsma, 2013)."""

    name: Final = "cramers_v"

    def __init__(self, categories: int, others: int) -> None:
        self._counts = np.zeros((categories, others), np.int32)

    def add(self, codes: Codes, others: Codes) -> None:
        """Take the next block in."""
        height, width = self._counts.shape
        cells = np.bincount(codes * width + others, minlength=height * width)
        self._counts += cells.reshape(height, width).astype(np.int32)

    def value(self) -> float | None:
        """Of all blocks."""
        counts = self._occurring()
        rows, (height, width) = int(counts.sum()), counts.shape
        if min(height, width) < 2:
            return None
        expected = np.outer(counts.sum(axis=1) / rows, counts.sum(axis=0))
        phi = float((np.square(counts - expected) / expected).sum()) / rows
        phi = max(0.0, phi - (height - 1) * (width - 1) / (rows - 1))
        smaller = min(side - (side - 1) ** 2 / (rows - 1) for side in (height, width)) - 1
        return min(1.0, math.sqrt(phi / smaller)) if smaller > 0 else None

    def determined(self) -> bool:
        """Whether a category of the first column, with two rows at least on average, says that of the other."""
        counts = self._occurring()
        alone = bool((np.count_nonzero(counts, axis=1) == 1).all())
        return alone and counts.shape[1] > 1 and 2 * len(counts) <= int(counts.sum())

    def _occurring(self) -> Numbers:
        present = self._counts[self._counts.any(axis=1)]
        return present[:, present.any(axis=0)].astype(np.float64)
