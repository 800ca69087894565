"""Columns as the encoder takes them: numbers as float64, NaN for missing, and texts as codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from common.errors import BadData
from common.schemas.models import Label

MISSING = -1
"""The code of a row without a value."""


@dataclass(frozen=True, slots=True)
class Coded:
    """A column of few different values: `codes`, int64, shape (n,), point into `values`; -1 is missing.

    `values` are sorted, of one type (text, boolean or integer) and need not all occur.
    """

    codes: NDArray[np.int64]
    values: tuple[Label, ...]

    def __len__(self) -> int:
        return len(self.codes)


TableColumn = NDArray[np.float64] | Coded
Table = Mapping[str, TableColumn]
"""Columns of one length by name: float64 (numbers; booleans as 0 and 1; NaN is missing) or `Coded` (text)."""


def code_values(values: Sequence[Label | None]) -> Coded:
    """A `Coded` column of Python values; None is missing."""
    distinct = tuple(sorted({value for value in values if value is not None}))
    codes: dict[Label | None, int] = {value: code for code, value in enumerate(distinct)}
    return Coded(np.array([codes.get(value, MISSING) for value in values], np.int64), distinct)


def read_table(path: Path, columns: Sequence[str]) -> dict[str, TableColumn]:
    """The named columns of a canonical Parquet file, numbers and booleans as float64 and texts as `Coded`.

    Raises `BadData` for a column that is not there, or that holds neither numbers, booleans nor text.
    """
    return {name: _table_column(_read_column(path, name)) for name in columns}


def read_labels(path: Path, column: str) -> Coded:
    """A column as class labels, which keep their type: text, boolean or integer.

    Raises `BadData` for numbers that are not whole, and for dates.
    """
    series = _read_column(path, column)
    if series.dtype.is_float():
        present = series.drop_nulls()
        if not ((present == present.floor()) & (present.abs() < 2.0**53)).all():
            raise BadData(f"column {column} holds numbers that are not whole; they can't be classes")
        series = series.cast(pl.Int64)
    if not (series.dtype.is_integer() or series.dtype in (pl.Boolean, pl.String)):
        raise BadData(f"column {column} holds neither text, booleans nor whole numbers; they can't be classes")
    return _coded(series)


def _read_column(path: Path, name: str) -> pl.Series:
    try:
        return pl.read_parquet(path, columns=[name], glob=False, hive_partitioning=False).to_series()
    except pl.exceptions.ColumnNotFoundError:
        raise BadData(f"the data set has no column {name}") from None


def _table_column(series: pl.Series) -> TableColumn:
    if series.dtype == pl.String:
        return _coded(series)
    if series.dtype.is_numeric() or series.dtype == pl.Boolean:
        values = series.cast(pl.Float64)
        return values.fill_null(float("nan")).to_numpy(writable=True)
    raise BadData(f"column {series.name} holds neither numbers, booleans nor text")


def _coded(series: pl.Series) -> Coded:
    values = series.drop_nulls().unique().sort()
    places = pl.DataFrame({"value": values, "code": np.arange(len(values), dtype=np.int64)})
    joined = series.rename("value").to_frame().join(places, on="value", how="left", maintain_order="left")
    codes = joined["code"].fill_null(MISSING).to_numpy(writable=True)
    return Coded(codes, tuple(values.to_list()))
