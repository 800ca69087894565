"""Columns as the encoder takes them: numbers and times as float64, NaN for missing, and texts as codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from common.errors import BadData
from common.features.moments import EXACT
from common.schemas.models import Label

MISSING = -1
"""The code of a row without a value."""
_CELLS = 1 << 21
"""That are read together: 16 MiB of float64."""
_PLAIN = "value"
"""What a series is called while it is worked on: Polars reads some names, such as `*`, as patterns."""


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
"""Columns of one length by name: float64 (numbers; booleans as 0 and 1; times in seconds since 1970; NaN is missing) or
`Coded` (text)."""


def code_values(values: Sequence[Label | None]) -> Coded:
    """A `Coded` column of Python values; None is missing."""
    distinct = tuple(sorted({value for value in values if value is not None}))
    codes: dict[Label | None, int] = {value: code for code, value in enumerate(distinct)}
    return Coded(np.array([codes.get(value, MISSING) for value in values], np.int64), distinct)


class StoredTable(Table):
    """Columns of a canonical Parquet file, read when they are asked for, and not kept.

    Columns that stand side by side in `names` are read together as long as they are few cells, so that asking for one
    after the other in that order is quick.

    Raises `BadData` for a column that is not there, or that holds neither numbers, booleans, times nor text.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._file = pl.scan_parquet(path, glob=False, hive_partitioning=False)  # keeps what the file's end says
        self._stored = self._file.collect_schema()
        self.rows = int(self._file.select(pl.len()).collect().item())
        self._places = {name: place for place, name in enumerate(names)}
        self._names = tuple(names)
        self._together = max(1, _CELLS // max(1, self.rows))
        self._near = pl.DataFrame()

    def __getitem__(self, name: str) -> TableColumn:
        if name not in self._near:
            first = self._places[name]
            self._near = pl.DataFrame()  # before the next columns come, not after
            self._near = self._frame(self._names[first : first + self._together])
        return table_column(name, self._near[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def read(self, names: Sequence[str], start: int = 0, stop: int | None = None) -> dict[str, TableColumn]:
        """The rows `start` … `stop` - 1 of some columns."""
        return {series.name: table_column(series.name, series) for series in self._frame(names, start, stop)}

    def exact(self, name: str) -> TableColumn:
        """A whole column, whose whole numbers are codes as well: as floats, large ones are not told apart."""
        series = self._frame([name]).to_series().alias(_PLAIN)
        return _coded(series) if series.dtype.is_integer() or series.dtype == pl.Boolean else table_column(name, series)

    def labels(self, name: str, start: int = 0, stop: int | None = None) -> Coded:
        """The rows `start` … `stop` - 1 of a column as class labels, which keep their type: text, boolean or integer.

        Raises `BadData` for numbers that are not whole, and for dates.
        """
        series = self._frame([name], start, stop).to_series().alias(_PLAIN)
        if series.dtype.is_float():
            present = series.drop_nulls()
            if not ((present == present.floor()) & (present.abs() < EXACT)).all():
                raise BadData(f"column {name} holds numbers that are not whole; they can't be classes")
            series = series.cast(pl.Int64)
        if not (series.dtype.is_integer() or series.dtype in (pl.Boolean, pl.String)):
            raise BadData(f"column {name} holds neither text, booleans nor whole numbers; they can't be classes")
        return _coded(series)

    def _frame(self, names: Sequence[str], start: int = 0, stop: int | None = None) -> pl.DataFrame:
        for name in names:
            if name not in self._stored:
                raise BadData(f"the data set has no column {name}")
        chosen = self._file.select(pl.selectors.by_name(*names))  # a name alone may be read as a pattern
        if (start, stop) != (0, None):
            chosen = chosen.slice(start, None if stop is None else stop - start)
        return chosen.collect()


def table_column(name: str, series: pl.Series) -> TableColumn:
    """A column of a canonical Parquet file as the encoder takes it.

    Raises `BadData` for one that holds neither numbers, booleans, times nor text.
    """
    series = series.alias(_PLAIN)
    if series.dtype == pl.String:
        return _coded(series)
    if series.dtype.is_numeric() or series.dtype == pl.Boolean:
        values = series.cast(pl.Float64)
        return values.fill_null(float("nan")).to_numpy()
    if series.dtype in (pl.Date, pl.Datetime):
        moments = series.cast(pl.Datetime("us")) if series.dtype == pl.Date else series
        return (moments.dt.epoch("us").cast(pl.Float64) / 1e6).fill_null(float("nan")).to_numpy()
    raise BadData(f"column {name} holds neither numbers, booleans, times nor text")


def _coded(series: pl.Series) -> Coded:
    values = series.drop_nulls().unique().sort()
    if not len(values):
        return Coded(np.full(len(series), MISSING, np.int64), ())
    if series.dtype == pl.String:
        codes = series.cast(pl.Enum(values)).to_physical().cast(pl.Int64).fill_null(MISSING).to_numpy()
    else:
        codes = np.searchsorted(values.to_numpy(), series.fill_null(values[0]).to_numpy()).astype(np.int64, copy=False)
        codes[series.is_null().to_numpy()] = MISSING
    return Coded(codes, tuple(values.to_list()))
