"""Columns of numbers: what was learned about each, and how its values become places of the matrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise
from statistics import NormalDist
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, Strict, model_validator

from common.errors import BadData
from common.features.feature import Feature
from common.features.moments import mean_and_std, standardize, usable_scale
from common.features.table import Coded, TableColumn
from common.schemas.columns import ConstantMissing, ErrorMissing, MeanMissing, MedianMissing, Missing, Scale
from common.schemas.datasets import ColumnKind
from common.schemas.record import Listed, Record

Cells = NDArray[np.float64]
Wrong = tuple[str, str]
"""The stable code and the message for a value that does not fit."""

MISSING_REFUSED: Wrong = ("missing_value", "must not be missing: the model refuses it")
_KNOTS = 256
_LARGEST = float(np.finfo(np.float64).max)
_LAST_QUANTILE = 1e-7
_SMALL = 1e-200


class NumberColumn(Record):
    """What all columns of numbers have in common; their cells are float64, NaN where a value is missing."""

    name: str
    kind: Literal["numeric", "boolean", "datetime"]
    indicator: bool = False
    """Whether the last place is 1 where the value is missing."""
    refuses_missing: bool = False
    texts: bool = False
    """Whether the data set holds texts, which are read as numbers; what is none counts as missing."""
    seen: Annotated[tuple[float, float], Strict(False)] | None = None
    """The smallest and the largest value of the training rows; None for booleans, without any value, and in models of
    earlier versions."""

    @property
    def width(self) -> int:
        """How many places of the matrix it takes."""
        return 1 + self.indicator

    @property
    def holds(self) -> tuple[ColumnKind, ...]:
        """The kinds of columns whose values it takes."""
        return ("categorical", "text") if self.texts else (self.kind,)

    def cells(self, values: TableColumn) -> Cells:
        """The values of a whole column, shape (n,)."""
        if not isinstance(values, Coded):
            return values
        if not self.texts and values.values:
            raise BadData(f"column {self.name} holds text, where numbers are expected")
        numbers = [number_of(str(value)) for value in values.values]
        return np.array([*numbers, math.nan], np.float64)[values.codes]

    def cell(self, value: object) -> float | Wrong:
        """One value as a float, or what is wrong with it."""
        if value is None:
            return MISSING_REFUSED if self.refuses_missing else math.nan
        if self.kind == "boolean":
            return float(value) if isinstance(value, bool) else ("wrong_type", "expected true, false or null")
        if self.texts and isinstance(value, str):
            number = number_of(value)
            return MISSING_REFUSED if self.refuses_missing and math.isnan(number) else number
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "wrong_type", "expected a number, or null"
        try:
            number = float(value)
        except OverflowError:
            return "number_too_large", "the number is too large"
        return number if math.isfinite(number) else ("non_finite_number", "expected a finite number, or null")


class Scaled(NumberColumn):
    """A column that becomes one number, (value - mean) / scale."""

    form: Literal["scaled"] = "scaled"
    kind: Literal["numeric", "boolean"]
    mean: float
    """What becomes 0: the mean, or the minimum or median where they were asked for."""
    scale: Annotated[float, Field(gt=0)]
    joint: bool = False
    """Whether mean and scale are those of all joint columns together."""
    logarithm: bool = False
    """Whether values are sign(x) log(1 + |x|) before they are scaled."""
    fill: float | None = None
    """What a missing value counts as; None: as what becomes 0."""

    @property
    def filled(self) -> float:
        """What a missing value becomes."""
        if self.fill is None:
            return 0.0
        value = np.array([self.fill])
        return float(standardize(signed_log(value) if self.logarithm else value, self.mean, self.scale)[0])


class QuantileNormal(NumberColumn):
    """A column whose ranks become those of a bell curve: linear between the quantiles of the training rows.

    The mid-distribution function (Parzen, 2004) of a value, through the inverse of the normal distribution; beyond the
    smallest and the largest of the training rows it stays what it is there.
    """

    form: Literal["quantile_normal"] = "quantile_normal"
    kind: Literal["numeric"] = "numeric"
    values: Annotated[Listed[float], Field(min_length=1)]
    """Ascending, each another one."""
    normals: Annotated[Listed[float], Field(min_length=1)]
    """What each of them becomes."""
    fill: float

    @cached_property
    def knots(self) -> tuple[Cells, Cells]:
        """The values, each divided by `unit`, and what they become."""
        return np.array(self.values) / self.unit, np.array(self.normals)

    @cached_property
    def unit(self) -> float:
        """What values are divided by, so that no two are too near to each other to divide by their distance."""
        largest = max(map(abs, self.values))
        return largest if 0 < largest < _SMALL else 1.0

    @model_validator(mode="after")
    def _is_a_function(self) -> Self:
        ascending = all(low < high for low, high in pairwise(self.values))
        if not ascending or len(self.values) != len(self.normals):
            raise ValueError("must hold ascending values and a normal quantile for each")
        return self

    def write(self, cells: Cells, out: NDArray[np.float32]) -> None:
        """The places of a column's `cells`, shape (n,), to `out`, shape (n, width)."""
        missing = np.isnan(cells)
        with np.errstate(over="ignore"):
            values = np.where(missing, self.fill, cells) / self.unit
        out[:, 0] = np.interp(values, *self.knots)
        if self.indicator:
            out[:, 1] = missing


def fit_number(feature: Feature, column: TableColumn, rows: NDArray[np.intp]) -> Scaled | QuantileNormal:
    """What the training rows say about a column of numbers or booleans.

    Raises `BadData` for an infinite number, and for a missing value that is to be refused.
    """
    scale: Scale = feature.options.scale or "standard"
    missing: Missing = feature.options.missing or MeanMissing()
    common: dict[str, Any] = {
        "name": feature.name,
        "indicator": getattr(missing, "indicator", False),
        "refuses_missing": isinstance(missing, ErrorMissing),
        "texts": feature.kind == "numeric" and feature.stored in ("categorical", "text"),
    }
    values = NumberColumn(kind="numeric", **common).cells(column)[rows]
    known = known_values(feature.name, values, missing)
    fill = _fill(known, missing)
    if scale == "quantile_normal":
        points, normals = _normal_quantiles(known)
        return QuantileNormal(values=points, normals=normals, fill=fill, seen=extremes(known), **common)
    logarithm = scale == "log"
    center, spread = _SCALES[scale](signed_log(known) if logarithm else known)
    at_zero = isinstance(missing, MeanMissing) and scale == "standard"
    return Scaled(
        kind="boolean" if feature.kind == "boolean" else "numeric",
        mean=center,
        scale=usable_scale(spread),
        logarithm=logarithm,
        fill=None if at_zero else fill,
        seen=None if feature.kind == "boolean" else extremes(known),
        **common,
    )


def known_values(name: str, values: Cells, missing: Missing) -> Cells:
    """The values that are not missing.

    Raises `BadData` for an infinite one, and for a missing one that is to be refused.
    """
    known = values[~np.isnan(values)]
    if not np.isfinite(known).all():
        raise BadData(f"column {name} holds an infinite number")
    if isinstance(missing, ErrorMissing) and len(known) < len(values):
        raise BadData(f"column {name} has {len(values) - len(known):,} missing values, which are to be refused")
    return known


def extremes(known: Cells) -> tuple[float, float] | None:
    """The smallest and the largest value; None without any."""
    return (float(known.min()), float(known.max())) if known.size else None


def signed_log(values: Cells) -> Cells:
    """sign(x) log(1 + |x|) as a new array."""
    result: Cells = np.log1p(np.abs(values))
    return np.copysign(result, values, out=result)


def number_of(text: str) -> float:
    """The number that a text stands for; NaN for none."""
    try:
        number = float(text) if "_" not in text else math.nan
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _fill(known: Cells, missing: Missing) -> float:
    if isinstance(missing, ConstantMissing):
        return float(missing.value)
    if known.size == 0:
        return 0.0
    return float(np.median(known)) if isinstance(missing, MedianMissing) else mean_and_std(known)[0]


def _min_max(values: Cells) -> tuple[float, float]:
    if values.size == 0:
        return 0.0, 0.0
    low, high = float(values.min()), float(values.max())
    return low, min(high / 2 - low / 2, _LARGEST / 2) * 2


def _robust(values: Cells) -> tuple[float, float]:
    if values.size == 0:
        return 0.0, 0.0
    low, middle, high = np.quantile(values / 4, (0.25, 0.5, 0.75)).tolist()  # whose differences do not overflow
    return 4 * middle, 4 * min(high - low, _LARGEST / 4) if high > low else mean_and_std(values)[1]


_SCALES: dict[Scale, Callable[[Cells], tuple[float, float]]] = {
    "standard": mean_and_std,
    "log": mean_and_std,
    "min_max": _min_max,
    "robust": _robust,
    "none": lambda _: (0.0, 1.0),
}


def _normal_quantiles(known: Cells) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Quantiles of the values, each once, and the normal quantile of the middle of its ranks."""
    if known.size == 0:
        return (0.0,), (0.0,)
    ordered = np.sort(known)
    ranks = np.linspace(0, ordered.size - 1, min(_KNOTS, ordered.size)).round().astype(np.intp)
    points = np.unique(ordered[ranks])
    middle = (np.searchsorted(ordered, points, "left") + np.searchsorted(ordered, points, "right")) / 2
    shares = np.clip(middle / ordered.size, _LAST_QUANTILE, 1 - _LAST_QUANTILE)
    normal = NormalDist()
    return tuple(points.tolist()), tuple(normal.inv_cdf(share) for share in shares.tolist())
