"""What a column of texts holds: the narrowest kind that all of its values allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

import polars as pl

from common.errors import Fault
from common.features.moments import EXACT
from common.schemas.datasets import ColumnKind
from service.ingest import DecimalMark
from service.parsing.faults import not_finite

MOSTLY_NUMBERS: Final = 0.9

Kind = Literal["integer", "float", "boolean", "day", "moment", "minute", "zoned", "zoned minute", "text"]

_DAY = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:[0-5]\d(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?$"
_LEADING_ZERO = r"^[+-]?0\d"
_WHOLE = r"^[+-]?\d+$"
_FINER_THAN_MICROSECONDS = r"\.\d{7}"
_FORMS: Final[dict[Kind, str]] = {
    "moment": "%Y-%m-%dT%H:%M:%S%.f",
    "minute": "%Y-%m-%dT%H:%M",
    "zoned": "%Y-%m-%dT%H:%M:%S%.f%#z",
    "zoned minute": "%Y-%m-%dT%H:%M%#z",
}
STORED: Final[dict[Kind, pl.DataType]] = {
    "integer": pl.Int64(),
    "float": pl.Float64(),
    "boolean": pl.Boolean(),
    "day": pl.Date(),
    "moment": pl.Datetime("us"),
    "minute": pl.Datetime("us"),
    "zoned": pl.Datetime("us", "UTC"),
    "zoned minute": pl.Datetime("us", "UTC"),
    "text": pl.String(),
}
_ORDER = tuple(STORED)
_WIDER: Final[dict[Kind, tuple[Kind, ...]]] = {"integer": ("float", "text")}
"""What else a column may become whose earlier values were of a kind; else it is text."""


@dataclass(slots=True)
class TextColumn:
    """A column of which more and more values come to be known.

    Attributes:
        kind: None as long as all values are missing.
        tidy: its numbers are written so that Polars' own reader of CSV takes them.

    """

    name: str
    decimal: DecimalMark = "."
    kind: Kind | None = None
    tidy: bool = True
    _present: int = 0
    _first_infinite: int = 0
    _odd: _Tally = field(default_factory=lambda: _Tally())
    _undated: _Tally = field(default_factory=lambda: _Tally())
    _otherwise: _Tally = field(default_factory=lambda: _Tally())
    _zeros: _Tally = field(default_factory=lambda: _Tally())
    _rounded: _Tally = field(default_factory=lambda: _Tally())

    def begin(self) -> None:
        """Counts from the first row again; the kind stays."""
        self._present = self._first_infinite = 0
        self._odd, self._zeros, self._rounded = _Tally(), _Tally(), _Tally()
        self._undated, self._otherwise = _Tally(), _Tally()

    @property
    def stored(self) -> pl.DataType:
        """The type of its values."""
        return STORED[self.kind or "float"]

    def take(self, values: pl.Series, row: int) -> pl.Series:
        """More values, `row` of them known already: numbers of the kind so far, or texts; as they will be stored."""
        present = len(values) - values.null_count()
        if present and values.dtype == pl.String:
            values, texts = self._convert(values), values
            self._look(texts, values, row)
        elif not present:
            values = pl.repeat(None, len(values), dtype=self.stored, eager=True)
        self._present += present
        if self.kind == "float" and not self._first_infinite:
            self._first_infinite = _first(values.is_finite().not_(), row)
        return values

    def _convert(self, texts: pl.Series) -> pl.Series:
        choices: tuple[Kind, ...] = _ORDER if self.kind is None else (self.kind, *_WIDER.get(self.kind, ("text",)))
        for kind in choices:
            values = _as(kind, texts, self.decimal)
            if values is not None and values.null_count() == texts.null_count():
                self.kind = kind
                return values
        raise AssertionError("everything is a text")

    def _look(self, texts: pl.Series, values: pl.Series, row: int) -> None:
        """Counts what a warning is to tell."""
        if self.kind not in ("integer", "float"):
            present = texts.is_not_null()
            other: DecimalMark = "," if self.decimal == "." else "."
            self._odd.add(present & numbers_in(texts, pl.Float64(), self.decimal).is_null(), row)
            self._otherwise.add(present & numbers_in(texts, pl.Float64(), other).is_null(), row)
            self._undated.add(present & ~texts.str.contains(_DAY), row)
            return
        self._zeros.add(texts.str.contains(_LEADING_ZERO), row)
        if self.kind == "float" and is_beyond_exact(values):
            whole = texts.set(~texts.str.contains(_WHOLE), None)
            kept = whole.cast(pl.Int128, strict=False).eq_missing(values.cast(pl.Int128, strict=False))
            self._rounded.add(whole.is_not_null() & ~kept, row)

    def faults(self) -> list[Fault]:
        """The first value that is infinite or no number, in a column of numbers."""
        return [not_finite(self._first_infinite, self.name)] if self.kind == "float" and self._first_infinite else []

    def warnings(self, kind: ColumnKind) -> list[str]:
        """What its numbers have lost, or why it is almost one of numbers; `kind` is what it was found to be."""
        if self.kind == "text":
            return self._almost(kind)
        if self.kind not in ("integer", "float"):
            return []
        lost = ((self._zeros, "begin with a zero, which a number does not keep"), (self._rounded, ROUNDED))
        return [
            f"column {self.name}: {tally.count:,} of {self._present:,} values {what} (first at row {tally.first})"
            for tally, what in lost
            if tally.count
        ]

    def _almost(self, kind: ColumnKind) -> list[str]:
        """What a text could have been, but for few of its values or for the decimal mark."""
        most = (1 - MOSTLY_NUMBERS) * self._present
        if not self._undated.count:
            looks = "its values look like dates or times, but not all are ones, and of one form"
            return [f"column {self.name}: {looks}; the column is treated as {kind}"]
        for tally, what in ((self._odd, "numbers"), (self._undated, "dates or times of ISO 8601")):
            if tally.count <= most:
                return [
                    f"column {self.name}: {tally.count:,} of {self._present:,} values are not {what} "
                    f"(first at row {tally.first}); the column is treated as {kind}"
                ]
        if self._otherwise.count <= most:
            mark = "comma" if self.decimal == "." else "point"
            return [
                f"column {self.name}: its values are numbers if the decimal mark is a {mark} (decimal); it is {kind} now"
            ]
        return []


ROUNDED: Final = "are whole numbers too large to be kept exactly here"


@dataclass(slots=True)
class _Tally:
    """How often there was something, and the first row, from 1 on."""

    count: int = 0
    first: int = 0

    def add(self, marked: pl.Series, row: int) -> None:
        """More values, `row` of them known already."""
        self.count += int(marked.sum())
        self.first = self.first or _first(marked, row)


def is_beyond_exact(values: pl.Series) -> bool:
    """Whether some of these floats are so large that not every whole number there is one."""
    low, high = values.min(), values.max()
    return isinstance(low, float) and isinstance(high, float) and max(-low, high) >= EXACT


def _first(marked: pl.Series, row: int) -> int:
    """The number of the first row that is marked, counted from 1; 0 if there is none."""
    if not marked.any():
        return 0
    place = marked.fill_null(value=False).arg_max()
    assert place is not None
    return row + place + 1


def numbers_in(texts: pl.Series, kind: pl.DataType, decimal: DecimalMark) -> pl.Series:
    """The numbers that texts stand for, null where one stands for none."""
    if decimal == ",":
        texts = texts.set(texts.str.contains(".", literal=True), None).str.replace(",", ".", literal=True)
    return texts.cast(kind, strict=False)


def _as(kind: Kind, texts: pl.Series, decimal: DecimalMark) -> pl.Series | None:
    """The values, null where one is not of that kind; None where that is clear without a look at each."""
    make: Callable[[pl.Series], pl.Series | None] = {
        "integer": lambda texts: numbers_in(texts, pl.Int64(), decimal),
        "float": lambda texts: numbers_in(texts, pl.Float64(), decimal),
        "boolean": booleans_in,
        "text": lambda texts: texts,
    }.get(kind, lambda texts: _times(texts, kind))
    return make(texts)


def booleans_in(texts: pl.Series) -> pl.Series | None:
    """The booleans that texts stand for, in capitals or not; None where one stands for none."""
    words = texts.str.to_lowercase()
    return words == "true" if words.drop_nulls().is_in(["true", "false"]).all() else None


def _times(texts: pl.Series, kind: Kind) -> pl.Series | None:
    """Dates or times as those of ISO 8601, to the microsecond, of the years 1 to 9999 in UTC.

    What is finer, a leap second, or out of reach stays text, as nothing may be lost.
    """
    fits = texts.str.contains(_DAY) & ~texts.str.contains(_FINER_THAN_MICROSECONDS)
    if not fits.all():
        return None
    if kind == "day":
        return _within(texts.str.to_date("%Y-%m-%d", strict=False))
    moments = texts.str.replace(" ", "T", literal=True).str.replace("Z$", "+00:00")
    zone = "UTC" if kind.startswith("zoned") else None
    return _within(moments.str.to_datetime(_FORMS[kind], strict=False, time_zone=zone, time_unit="us"))


def _within(times: pl.Series) -> pl.Series | None:
    years = times.dt.year()
    low, high = years.min(), years.max()
    return (
        None
        if low is None or not (isinstance(low, int) and isinstance(high, int) and 1 <= low <= high <= 9999)
        else times
    )
