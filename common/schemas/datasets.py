"""Data sets: what was uploaded and what was understood of it."""

from __future__ import annotations

from typing import Literal

from common.schemas.record import Listed, Record, Time

ColumnKind = Literal["numeric", "categorical", "boolean", "datetime", "text"]
DataFormat = Literal["csv", "parquet", "ndjson", "rows"]
Cell = bool | int | float | str | None


class Frequent(Record):
    """A value and how often it stands in its column."""

    value: Cell
    count: int


class Histogram(Record):
    """How the values of a column are spread: bins of equal width, of which the last holds `high` too."""

    low: float | str
    """Where the first bin begins: at the 1st percentile, or at the smallest value if that is the 99th as well."""
    high: float | str
    """Where the last bin ends: at the 99th percentile or the largest value. Bins of whole numbers or days hold equally
    many of them, and the last may reach beyond it."""
    counts: Listed[int]
    """Values in each bin, 20 bins at most."""
    below: int = 0
    """Values below `low`."""
    above: int = 0
    """Values above `high`."""


class Column(Record):
    """One column as it was understood."""

    name: str
    kind: ColumnKind
    missing: int
    """Rows without a value."""
    distinct: int
    """Different values, missing ones not counted."""
    integer: bool = False
    """A numeric column whose every value is a whole number."""
    mean: float | None = None
    std: float | None = None
    """Population standard deviation."""
    min: float | None = None
    max: float | None = None
    earliest: str | None = None
    latest: str | None = None
    """Of dates and times, as in RFC 3339; times without a zone stand without one."""
    quantiles: dict[str, float | str] = {}
    """Of numbers, dates and times: `"25"` is the value that a quarter of them do not exceed, between two it is
    interpolated. 0, 1, 5, 25, 50, 75, 95, 99 and 100."""
    histogram: Histogram | None = None
    """Of numbers, dates and times."""
    top: Listed[Frequent] = ()
    """The most frequent values, most frequent first, 20 at most."""


class Dataset(Record):
    """The description of a stored data set."""

    id: str
    name: str
    version: int
    format: DataFormat
    bytes: int
    """Size of the upload."""
    sha256: str
    """Of the bytes as they were sent."""
    rows: int
    columns: Listed[Column]
    warnings: Listed[str]
    created_at: Time

    def column(self, name: str) -> Column | None:
        """The column of that name, if there is one."""
        return next((column for column in self.columns if column.name == name), None)
