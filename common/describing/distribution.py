"""Quantiles and histogram of values that are sorted already: one sort serves both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

PERCENTS: Final = (0, 1, 5, 25, 50, 75, 95, 99, 100)
MAX_BINS: Final = 20

Sorted = NDArray[Any]
"""Integers or finite floats, ascending, at least one."""

Steps = Literal["whole", "ticks", "none"]
"""What lies between two values: other whole ones that people count (numbers, days), ticks of a clock, or anything."""


def quantiles(values: Sorted) -> list[float]:
    """The quantiles at `PERCENTS`, linear between two values (type 7 of Hyndman and Fan, 1996)."""
    found = []
    for percent in PERCENTS:
        place, hundredths = divmod(percent * (len(values) - 1), 100)
        below = float(values[place])
        above = float(values[place + 1]) if hundredths else below
        share = hundredths / 100
        between = below + (above - below) * share
        if math.isinf(between):  # their difference is
            between = below * (1 - share) + above * share
        found.append(min(between, above))
    return found


def whole_quantiles(values: Sorted) -> list[int]:
    """The same of integers, rounded down to integers: of any size, exactly."""
    found = []
    for percent in PERCENTS:
        place, hundredths = divmod(percent * (len(values) - 1), 100)
        below = int(values[place])
        above = int(values[place + 1]) if hundredths else below
        found.append(below + (above - below) * hundredths // 100)
    return found


def histogram(values: Sorted, steps: Steps) -> tuple[float, float, list[int]]:
    """Where the first bin begins and the last ends, and how many values lie below, in each bin, and above.

    Bins are of equal width, between the 1st and the 99th percentile, so that a few extreme values do not leave all
    others in one bin; if these are the same, between the smallest and the largest value. The last bin holds its end. Of
    whole numbers every bin holds equally many, for which the last may reach further.
    """
    last = len(values) - 1
    low, high = values[last // 100].item(), values[last - last // 100].item()
    if low == high:
        low, high = values[0].item(), values[-1].item()
    edges: Sequence[float]
    if low == high:
        edges = []
    elif steps == "whole":
        low, high = int(low), int(high)  # whole floats are below 2**53
        width = -(-(high - low + 1) // MAX_BINS)
        edges = range(low + width, high + 1, width)
        high = low + (len(edges) + 1) * width - 1
    elif steps == "ticks":
        bins = min(MAX_BINS, high - low)
        edges = [low - (low - high) * k // bins for k in range(1, bins)]  # rounded up: the first tick of its bin
    else:
        shares = [k / MAX_BINS for k in range(1, MAX_BINS)]
        edges = [min(max(low * (1 - share) + high * share, low), high) for share in shares]
    begins = np.searchsorted(values, np.array([low, *edges], values.dtype), side="left").tolist()
    end = len(values) if high >= values[-1] else int(np.searchsorted(values, values.dtype.type(high), side="right"))
    places = [0, *begins, end, len(values)]
    return low, high, np.diff(places).tolist()
