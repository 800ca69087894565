"""Parquet: plain columns of any writer, streamed into the types that are stored."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Final

import polars as pl

from common.errors import Fault, TooLarge, lacks_disk
from common.schemas.datasets import ColumnKind
from service.ingest import ParseLimits, ParseOptions
from service.parsing.canonical import sink
from service.parsing.faults import (
    MAX_CELL,
    MAX_FAULTS,
    POLARS_ERRORS,
    name_faults,
    no_rows,
    not_finite,
    refuse,
    too_many,
    too_many_columns,
    unreadable,
)
from service.parsing.parquet_footer import read_footer

MAX_ROW_GROUPS: Final = 10_000
EXACT_DIGITS: Final = 15
"""Decimal digits that every float keeps."""


class ParquetTable:
    """A Parquet file."""

    def __init__(self, source: Path, _: ParseOptions, limits: ParseLimits) -> None:
        self.name: str | None = None
        self._source = source
        self._limits = limits
        self._warnings: list[str] = []

    def write(self, partial: Path) -> int:
        """Writes its rows as canonical Parquet, and answers how many."""
        footer = read_footer(self._source)
        if footer.row_groups > MAX_ROW_GROUPS:
            message = f"{footer.row_groups:,} row groups; at most {MAX_ROW_GROUPS:,} are allowed"
            raise refuse([Fault("file", "too_many_row_groups", message)])
        if footer.columns > self._limits.max_columns:
            raise too_many_columns("file", footer.columns, self._limits)
        try:
            scan = pl.scan_parquet(self._source, glob=False, hive_partitioning=False)
            schema = scan.collect_schema()
            rows = max(footer.rows, scan.select(pl.len()).collect().item())
        except POLARS_ERRORS as error:
            raise unreadable(error, "Parquet") from None
        if rows > self._limits.max_rows or rows * len(schema) > self._limits.max_cells:
            raise TooLarge(too_many(self._limits))
        if faults := name_faults(schema.names()) or _type_faults(schema):
            raise refuse(faults)
        if rows == 0:
            raise no_rows("the file holds no row")
        try:
            sink(
                scan.select(self._canonical(scan, place, *column) for place, column in enumerate(schema.items())),
                partial,
            )
            return _check(partial)
        except POLARS_ERRORS as error:
            if lacks_disk(error):
                raise
            raise unreadable(error, "Parquet") from None

    def warnings(self, _: dict[str, ColumnKind]) -> list[str]:
        """Where a stored type has not the room of the file's."""
        return self._warnings

    def _canonical(self, scan: pl.LazyFrame, place: int, name: str, kind: pl.DataType) -> pl.Expr:
        """A column in one of the types that are stored: integers, Float64, Boolean, String, dates; NaN is missing."""
        column = pl.nth(place)  # Polars takes some names for patterns
        if kind.is_float():
            return column.cast(pl.Float64).fill_nan(None)
        if isinstance(kind, pl.Decimal) and kind.precision > EXACT_DIGITS:
            self._warnings.append(f"column {name}: decimals of more than {EXACT_DIGITS} digits are kept as floats")
        if kind in (pl.Decimal, pl.Null):
            return column.cast(pl.Float64)
        if kind == pl.UInt64:
            largest = scan.select(column.max()).collect().item()
            if largest is None or largest < 2**63:
                return column.cast(pl.Int64)
            self._warnings.append(f"column {name}: whole numbers beyond 63 bits are kept as floats, not exactly")
            return column.cast(pl.Float64)
        if isinstance(kind, pl.Datetime) and kind.time_zone is not None:
            return column.dt.convert_time_zone("UTC")  # as times of all other forms are kept
        return column.cast(pl.String) if kind in (pl.Categorical, pl.Enum) else column


def _type_faults(schema: pl.Schema) -> list[Fault]:
    plain = (pl.Boolean, pl.String, pl.Categorical, pl.Enum, pl.Null, pl.Date, pl.Datetime, pl.Decimal)
    message = "a column of type {}; numbers, booleans, texts and dates can be used"
    return [
        Fault(f"column {name}", "unsupported_type", message.format(type(dtype).__name__))
        for name, dtype in schema.items()
        if not (dtype.base_type() in plain or dtype.is_float() or dtype.is_integer())
        or dtype in (pl.Int128, pl.UInt128)
    ][:MAX_FAULTS]


def _check(partial: Path) -> int:
    """How many rows were written; refuses those that hold an infinite number."""
    scan = pl.scan_parquet(partial, glob=False, hive_partitioning=False)
    schema = scan.collect_schema()
    floats = [(place, name) for place, (name, kind) in enumerate(schema.items()) if kind == pl.Float64]
    infinite = {}
    if floats:
        infinite = scan.select(pl.nth(place).is_infinite().any() for place, _ in floats).collect().row(0, named=True)
    faults = [
        not_finite(scan.select(pl.nth(place).is_infinite().fill_null(value=False).arg_max()).collect().item() + 1, name)
        for place, name in floats
        if infinite[name]
    ]
    faults += _cell_faults(scan, schema)
    if faults:
        raise refuse(faults[:MAX_FAULTS])
    rows: int = scan.select(pl.len()).collect().item()
    return rows


def _cell_faults(scan: pl.LazyFrame, schema: pl.Schema) -> list[Fault]:
    """Texts that are too long, and dates and times that calendars and clients do not have."""
    longest = f"a cell of more than {MAX_CELL:,} bytes"
    checks = [
        (place, name, pl.nth(place).str.len_bytes() > MAX_CELL, Fault("", "cell_too_long", longest))
        if kind == pl.String
        else (
            place,
            name,
            ~_is_told(pl.nth(place), kind),
            Fault("", "invalid_data", "a date beyond the years 1 to 9999"),
        )
        for place, (name, kind) in enumerate(schema.items())
        if kind == pl.String or kind.is_temporal()
    ]
    if not checks:
        return []
    wrong = scan.select(bad.any().alias(str(place)) for place, _, bad, _ in checks).collect().row(0, named=True)
    found = []
    for place, name, bad, fault in checks:
        if wrong[str(place)]:
            row = scan.select(bad.fill_null(value=False).arg_max()).collect().item() + 1
            found.append(Fault(f"row {row}, column {name}", fault.code, fault.message))
    return found


def _is_told(moments: pl.Expr, kind: pl.DataType) -> pl.Expr:
    """Whether RFC 3339 can say it."""
    physical = moments.to_physical()
    if kind == pl.Date:
        first, behind = (date(1, 1, 1).toordinal() - _EPOCH, date(9999, 12, 31).toordinal() - _EPOCH + 1)
    else:
        assert isinstance(kind, pl.Datetime)
        unit = {"ms": 10**3, "us": 10**6, "ns": 10**9}[kind.time_unit] * 86_400
        first = max((date(1, 1, 1).toordinal() - _EPOCH) * unit, -(2**63))
        behind = min((date(9999, 12, 31).toordinal() - _EPOCH + 1) * unit, 2**63 - 1)
    return (physical >= first) & (physical < behind)


_EPOCH = date(1970, 1, 1).toordinal()
