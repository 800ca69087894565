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
