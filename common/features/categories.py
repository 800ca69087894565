"""Columns of categories: what was learned about each, and how its values become places of the matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from common.errors import BadData
from common.features.feature import Feature
from common.features.moments import mean_and_std, standardize, usable_scale
from common.features.numbers import MISSING_REFUSED, Cells, Wrong, number_of
from common.features.table import MISSING, Coded, TableColumn
from common.schemas.columns import ConstantMissing, ErrorMissing, OwnMissing
from common.schemas.datasets import ColumnKind
from common.schemas.record import Listed, Record

MAX_CATEGORIES = 1000
UNKNOWN = -1


class CategoryColumn(Record):
    """What all columns of categories have in common; their cells are places among `categories`.

    The place after the last category is that of a missing value, where training rows had one. Any other category, and
    those that were too rare, are unknown: -1.
    """

    name: str
    kind: Literal["categorical"] = "categorical"
    categories: Listed[str]
    missing: bool
    """Whether missing is a category of its own."""
    of: Literal["text", "number", "boolean"] = "text"
    """What the data set holds; numbers and booleans are named as JSON writes them."""
    default: str | None = None
    """The category that a missing value counts as, where one was asked for."""
    refuses_missing: bool = False

    @property
    def holds(self) -> tuple[ColumnKind, ...]:
        """The kinds of columns whose values it takes."""
        return _HOLDS[self.of]

    @property
    def missing_place(self) -> int:
        """The place of a missing value; -1 for none."""
        return len(self.categories) if self.missing else UNKNOWN

    def cells(self, values: TableColumn) -> Cells:
        """The places of a whole column, shape (n,)."""
        coded = as_categories(self.name, values, self.of)
        places = self._places
        missing = self.missing_place if self.default is None else places.get(self.default, UNKNOWN)
        if self.refuses_missing:
            return np.array([*(places.get(str(v), UNKNOWN) for v in coded.values), math.nan])[coded.codes]
        lookup = [places.get(str(text), UNKNOWN) for text in coded.values] + [missing]
        return np.array(lookup, np.float64)[coded.codes]

    def cell(self, value: object) -> float | Wrong:
        """The place of one value, or what is wrong with it."""
        if value is None:
            if self.refuses_missing:
                return MISSING_REFUSED
            value = self.default
            if value is None:
                return float(self.missing_place)
        if isinstance(value, str):
            return float(self._places.get(value, UNKNOWN))
        if isinstance(value, bool) and self.of == "boolean":
            return float(self._places.get("true" if value else "false", UNKNOWN))
        if isinstance(value, int | float) and not isinstance(value, bool) and self.of == "number":
            try:
                return float(self._places.get(name_of_number(float(value)), UNKNOWN))
            except OverflowError:
                return float(UNKNOWN)
        return "wrong_type", _EXPECTED[self.of]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {text: place for place, text in enumerate(self.categories)}


_HOLDS: Mapping[str, tuple[ColumnKind, ...]] = {
    "text": ("categorical", "text"),
    "number": ("numeric",),
    "boolean": ("boolean",),
}
_EXPECTED = {
    "text": "expected a text, or null",
    "number": "expected a number, or null",
    "boolean": "expected true, false or null",
}


class OneHot(CategoryColumn):
    """A column that becomes one place per category, one for missing and one for the rare if training rows had them."""

    form: Literal["one_hot"] = "one_hot"
    other: bool = False
    """Whether the last place is for unknown categories, which are those too rare in training; else they are zeros."""

    @property
    def width(self) -> int:
        """How many places of the matrix it takes."""
        return len(self.categories) + self.missing + self.other

    def write(self, cells: Cells, out: NDArray[np.float32]) -> None:
        """The places of a column's `cells`, shape (n,), to `out`, shape (n, width)."""
        places = cells.astype(np.intp)
        if self.other:
            places[places < 0] = self.width - 1
        out[:] = 0.0
        known = np.flatnonzero(places >= 0)
        out[known, places[known]] = 1.0


class Numbered(CategoryColumn):
    """A column that becomes one number, which each category has: its place in an order, or how frequent it is."""

    form: Literal["numbered"] = "numbered"
    numbers: Listed[float]
    """Of each category, and of a missing value after them where that is a category of its own."""
    unknown: float

    @cached_property
    def _lookup(self) -> NDArray[np.float64]:
        return np.array([*self.numbers, self.unknown])  # the last one is found at -1

    @model_validator(mode="after")
    def _has_a_number_for_each(self) -> Self:
        if len(self.numbers) != len(self.categories) + self.missing:
            raise ValueError("must hold one number for each category")
        return self

    @property
    def width(self) -> int:
        """How many places of the matrix it takes."""
        return 1

    def write(self, cells: Cells, out: NDArray[np.float32]) -> None:
        """The places of a column's `cells`, shape (n,), to `out`, shape (n, 1)."""
        out[:, 0] = self._lookup[cells.astype(np.intp)]


class Embedded(CategoryColumn):
    """A column that becomes the number of its category, for which the network learns a vector."""

    form: Literal["embedded"] = "embedded"
    vector: Annotated[int, Field(ge=1)]
    """How wide the vectors are."""

    @property
    def width(self) -> int:
        """How many places of the matrix it takes."""
        return 1

    @property
    def unknown_place(self) -> int:
        """The last number: of a category that training never saw, and of the rarest."""
        return len(self.categories) + self.missing

    def write(self, cells: Cells, out: NDArray[np.float32]) -> None:
        """The numbers of a column's `cells`, shape (n,), to `out`, shape (n, 1); float32 holds them exactly."""
        out[:, 0] = np.where(cells < 0, self.unknown_place, cells)


def fit_categories(feature: Feature, column: TableColumn, rows: NDArray[np.intp]) -> OneHot | Numbered | Embedded:
    """What the training rows say about a column of categories; raises `BadData` where its values don't fit."""
    options = feature.options
    of: Literal["text", "number", "boolean"] = (
        "number" if feature.stored == "numeric" else "boolean" if feature.stored == "boolean" else "text"
    )
    coded = as_categories(feature.name, column, of)
    codes = coded.codes[rows]
    counts = np.bincount(codes[codes >= 0], minlength=len(coded.values))
    missing_count = int((codes < 0).sum())
    policy = options.missing or OwnMissing()
    default = None
    if isinstance(policy, ErrorMissing) and missing_count:
        raise BadData(f"column {feature.name} has {missing_count:,} missing values, which are to be refused")
    if isinstance(policy, ConstantMissing):
        default = name_of_value(policy.value)
        missing_count = 0
    most_frequent = np.argsort(-counts, kind="stable")[:MAX_CATEGORIES]
    kept = [int(code) for code in most_frequent if counts[code] >= (options.min_count or 1)]
    seen = {str(coded.values[code]): int(counts[code]) for code in kept}
    if default is not None and default in map(str, coded.values):
        seen.setdefault(default, 0)
    rare = int(counts.sum()) > sum(seen.values())
    base = CategoryColumn(
        name=feature.name,
        categories=tuple(sorted(seen, key=_by_size if of == "number" else None)),
        missing=missing_count > 0,
        of=of,
        default=default,
        refuses_missing=isinstance(policy, ErrorMissing),
    )
    encoding = options.encoding or "one_hot"
    if encoding == "embedding":
        return Embedded(**dict(base), vector=options.width or 1)
    if encoding == "one_hot":
        return OneHot(**dict(base), other=rare)
    if encoding == "ordinal":
        return _ordinal(
            base
            if options.order is None
            else base.model_copy(update={"categories": tuple(map(name_of_value, options.order))}),
            column,
            rows,
        )
    return _frequency(base, column, rows)


def _ordinal(base: CategoryColumn, column: TableColumn, rows: NDArray[np.intp]) -> Numbered:
    """Places in the order, standardized over the training rows that have one; all else at their mean."""
    base = base.model_copy(update={"missing": False})
    places = base.cells(column)[rows]
    mean, std = mean_and_std(places[places >= 0])
    numbers = standardize(np.arange(len(base.categories), dtype=np.float64), mean, usable_scale(std))
    return Numbered(**dict(base), numbers=numbers.tolist(), unknown=0.0)


def _frequency(base: CategoryColumn, column: TableColumn, rows: NDArray[np.intp]) -> Numbered:
    """The share of training rows that have the category, standardized over these rows; 0 for unknown ones."""
    places = base.cells(column)[rows].astype(np.intp)
    size = len(base.categories) + base.missing
    shares = np.append(np.bincount(places[places >= 0], minlength=size) / len(places), 0.0)
    mean, std = mean_and_std(shares[places])
    *numbers, unknown = standardize(shares, mean, usable_scale(std)).tolist()
    return Numbered(**dict(base), numbers=numbers, unknown=unknown)


def as_categories(name: str, column: TableColumn, of: Literal["text", "number", "boolean"]) -> Coded:
    """A column as texts with codes; numbers and booleans by their names."""
    if isinstance(column, Coded):
        if of != "text":
            raise BadData(f"column {name} holds text, where numbers are expected")
        return column
    if of == "text" and np.isnan(column).all():  # a column without any value is stored as numbers
        return Coded(np.full(len(column), MISSING, np.int64), ())
    if of == "text":
        raise BadData(f"column {name} holds numbers, where text is expected")
    present = ~np.isnan(column)
    values, places = np.unique(column[present], return_inverse=True)
    codes = np.full(len(column), MISSING, np.int64)
    codes[present] = places
    names = [("true" if v else "false") if of == "boolean" else name_of_number(v) for v in values.tolist()]
    return Coded(codes, tuple(names))


def name_of_number(number: float) -> str:
    """A number as a category: whole ones without a point."""
    return str(int(number)) if math.isfinite(number) and number == int(number) else repr(float(number))


def name_of_value(value: bool | float | str) -> str:
    """A value as a category."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else name_of_number(value)


def _by_size(name: str) -> float:
    return number_of(name)
