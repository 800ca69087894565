"""Pixels are scaled together, so that a dim one at the border does not become a number in the hundreds."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from common.features.columns import Column
from common.features.feature import Feature
from common.features.moments import mean_and_std, usable_scale
from common.features.numbers import Cells, Scaled

JOINT_COLUMNS = 16
JOINT_MAXIMUM = 255


@dataclass(frozen=True, slots=True)
class _Pixel:
    """A column that looks like the brightness of one pixel."""

    count: int
    mean: float
    std: float
    minimum: float
    maximum: float


class Pixels:
    """Columns that look like the brightness of pixels, by the way they are to be scaled.

    Where at least 16 columns that are scaled alike hold only whole numbers from 0 to 255, and at least half of them
    reach the highest value among them, they share one scale, and one range: a dim border pixel, lit in one image of
    thousands, would otherwise become a number in the hundreds.
    """

    def __init__(self) -> None:
        self._found: dict[str, dict[int, _Pixel]] = {"standard": {}, "min_max": {}}

    def look_at(self, place: int, feature: Feature, column: Scaled, values: Cells) -> None:
        """Takes note of the column at that place if its training rows could be pixels."""
        scale = feature.options.scale or "standard"
        values = values[~np.isnan(values)]
        if column.kind == "numeric" and scale in self._found and _could_be_pixels(values):
            low, high = float(values.min()), float(values.max())
            self._found[scale][place] = _Pixel(len(values), *mean_and_std(values), low, high)

    def scaled_together(self, columns: Sequence[Column]) -> list[Column]:
        """The columns, with a common scale for those that are pixels."""
        scaled = list(columns)
        for scale, pixels in self._found.items():
            if not _are_pixels(pixels.values()):
                continue
            zero, one = _pooled(pixels.values()) if scale == "standard" else _range(pixels.values())
            low, width = _range(pixels.values())
            common = {"mean": zero, "scale": usable_scale(one), "joint": True, "seen": (low, low + width)}
            for place in pixels:
                scaled[place] = scaled[place].model_copy(update=common)
        return scaled


def _could_be_pixels(values: Cells) -> bool:
    return bool(
        values.size and values.min() >= 0 and values.max() <= JOINT_MAXIMUM and (values == np.floor(values)).all()
    )


def _are_pixels(columns: Collection[_Pixel]) -> bool:
    brightest = max((column.maximum for column in columns), default=0.0)
    reached = sum(column.maximum == brightest for column in columns)
    return len(columns) >= JOINT_COLUMNS and 2 * reached >= len(columns)


def _pooled(columns: Collection[_Pixel]) -> tuple[float, float]:
    """Mean and standard deviation of all columns' values taken together."""
    count = sum(column.count for column in columns)
    mean = math.fsum(column.count * column.mean for column in columns) / count
    variance = math.fsum(c.count * (c.std**2 + (c.mean - mean) ** 2) for c in columns) / count
    return mean, math.sqrt(variance)


def _range(columns: Collection[_Pixel]) -> tuple[float, float]:
    """The smallest of all columns' values, and how far the largest is from it."""
    low = min(column.minimum for column in columns)
    return low, max(column.maximum for column in columns) - low
