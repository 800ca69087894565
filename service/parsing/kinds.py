"""What a column of texts holds: the narrowest kind that all of its values allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import polars as pl

from common.errors import Fault
from common.schemas.datasets import ColumnKind
from service.ingest import DecimalMark
from service.parsing.faults import not_finite

MOSTLY_NUMBERS: Final = 0.9

Kind = Literal["integer", "float", "boolean", "day", "moment", "minute", "zoned", "zoned minute", "text"]

_DAY = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?$"
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
    _odd: int = 0
    _first_odd: int = 0
    _first_infinite: int = 0

    def begin(self) -> None:
        """Counts from the first row again; the kind stays."""
        self._present = self._odd = self._first_odd = self._first_infinite = 0

    @property
    def stored(self) -> pl.DataType:
        """The type of its values."""
        return STORED[self.kind or "float"]

    def take(self, values: pl.Series, row: int) -> pl.Series:
        """More values, `row` of them known already: numbers of the kind so far, or texts; as they will be stored."""
        present = len(values) - values.null_count()
        if present and values.dtype == pl.String:
            values, texts = self._convert(values), values
            if self.kind not in ("integer", "float"):
                self._count_odd(texts, row)
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

    def _count_odd(self, texts: pl.Series, row: int) -> None:
        odd = texts.is_not_null() & _numbers(texts, pl.Float64(), self.decimal).is_null()
        self._odd += int(odd.sum())
        self._first_odd = self._first_odd or _first(odd, row)

    def faults(self) -> list[Fault]:
        """The first value that is infinite or no number, in a column of numbers."""
        return [not_finite(self._first_infinite, self.name)] if self.kind == "float" and self._first_infinite else []

    def warnings(self, kind: ColumnKind) -> list[str]:
        """Whether it is almost one of numbers; `kind` is what it was found to be."""
        if self.kind != "text" or self._present - self._odd < MOSTLY_NUMBERS * self._present:
            return []
        return [
            f"column {self.name}: {self._odd:,} of {self._present:,} values are not numbers "
            f"(first at row {self._first_odd}); the column is treated as {kind}"
        ]


def _first(marked: pl.Series, row: int) -> int:
    """The number of the first row that is marked, counted from 1; 0 if there is none."""
    if not marked.any():
        return 0
    place = marked.fill_null(value=False).arg_max()
    assert place is not None
    return row + place + 1


def _numbers(texts: pl.Series, kind: pl.DataType, decimal: DecimalMark) -> pl.Series:
    if decimal == ",":
        texts = texts.set(texts.str.contains(".", literal=True), None).str.replace(",", ".", literal=True)
    return texts.cast(kind, strict=False)


def _as(kind: Kind, texts: pl.Series, decimal: DecimalMark) -> pl.Series | None:
    """The values, null where one is not of that kind; None where that is clear without a look at each."""
    make: Callable[[pl.Series], pl.Series | None] = {
        "integer": lambda texts: _numbers(texts, pl.Int64(), decimal),
        "float": lambda texts: _numbers(texts, pl.Float64(), decimal),
        "boolean": _booleans,
        "text": lambda texts: texts,
    }.get(kind, lambda texts: _times(texts, kind))
    return make(texts)


def _booleans(texts: pl.Series) -> pl.Series | None:
    words = texts.str.to_lowercase()
    return words == "true" if words.drop_nulls().is_in(["true", "false"]).all() else None


def _times(texts: pl.Series, kind: Kind) -> pl.Series | None:
    """Dates or times as those of ISO 8601, to the microsecond; what is finer stays text, as nothing may be lost."""
    fits = texts.str.contains(_DAY) & ~texts.str.contains(_FINER_THAN_MICROSECONDS)
    if not fits.all():
        return None
    if kind == "day":
        return texts.str.to_date("%Y-%m-%d", strict=False)
    moments = texts.str.replace(" ", "T", literal=True).str.replace("Z$", "+00:00")
    zone = "UTC" if kind.startswith("zoned") else None
    return moments.str.to_datetime(_FORMS[kind], strict=False, time_zone=zone, time_unit="us")
