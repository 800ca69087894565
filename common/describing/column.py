"""What one column of a canonical Parquet file holds.

Numbers and times are sorted once, which serves quantiles, histogram, different values and the most frequent ones.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from common.describing import distribution
from common.describing.distribution import Sorted
from common.features.moments import EXACT, mean_and_std
from common.schemas.datasets import Column, ColumnKind, Frequent, Histogram

MAX_CATEGORIES: Final = 1000
ALWAYS_CATEGORIES: Final = 20
MAX_CATEGORY_BYTES: Final = 1000
TOP: Final = 20


def describe_column(name: str, column: pl.Series) -> Column:
    """What a column of a stored type holds."""
    if column.dtype.is_numeric():
        return _describe_numbers(name, column)
    if column.dtype == pl.String:
        return _describe_text(name, column)
    if column.dtype == pl.Boolean:
        return _describe_flags(name, column)
    return _describe_times(name, column)


def kind_of(column: pl.Series, distinct: int) -> ColumnKind:
    """The kind of a column of a stored type; `distinct` counts its different values."""
    if column.dtype == pl.Boolean:
        return "boolean"
    if column.dtype.is_numeric():
        return "numeric"
    if column.dtype != pl.String:
        return "datetime"
    few = distinct <= MAX_CATEGORIES and (distinct <= len(column) / 2 or distinct <= ALWAYS_CATEGORIES)
    few = few and not (column.str.len_bytes() > MAX_CATEGORY_BYTES).any()  # every model holds its categories
    return "categorical" if few else "text"


def _describe_numbers(name: str, column: pl.Series) -> Column:
    missing = column.null_count()
    present = column.drop_nulls() if missing else column
    del column
    if not len(present):
        return Column(name=name, kind="numeric", missing=missing, distinct=0, integer=present.dtype.is_integer())
    mean, std = mean_and_std(present.cast(pl.Float64).to_numpy())
    ordered = present.sort().to_numpy()
    del present
    starts = _starts(ordered)
    integer = ordered.dtype.kind != "f" or _are_whole(ordered)
    low, high, (below, *counts, above) = distribution.histogram(ordered, "whole" if integer else "none")
    return Column(
        name=name,
        kind="numeric",
        missing=missing,
        distinct=len(starts),
        integer=integer,
        mean=mean,
        std=std,
        min=float(ordered[0]),
        max=float(ordered[-1]),
        quantiles={str(p): q for p, q in zip(distribution.PERCENTS, distribution.quantiles(ordered), strict=True)},
        histogram=Histogram(low=float(low), high=float(high), counts=tuple(counts), below=below, above=above),
        top=_most_frequent(ordered, starts) if integer and len(starts) <= MAX_CATEGORIES else (),
    )


def _starts(ordered: Sorted) -> Sorted:
    """Where each different value begins."""
    return np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1])


def _are_whole(values: Sorted) -> bool:
    """Whether floats are whole numbers in disguise: a table with a gap among its integers often has them so."""
    if max(-values[0], values[-1]) >= EXACT:
        return False
    return all(bool((part == np.floor(part)).all()) for part in np.array_split(values, 1 + len(values) // 100_000))


def _most_frequent(ordered: Sorted, starts: Sorted) -> tuple[Frequent, ...]:
    counts = np.diff(starts, append=len(ordered))
    top = np.argsort(-counts, kind="stable")[:TOP]
    values = ordered[starts[top]].tolist()
    return tuple(Frequent(value=value, count=count) for value, count in zip(values, counts[top].tolist(), strict=True))


def _describe_times(name: str, column: pl.Series) -> Column:
    dtype, missing = column.dtype, column.null_count()
    ordered = column.drop_nulls().to_physical().sort().to_numpy()
    if not len(ordered):
        return Column(name=name, kind="datetime", missing=missing, distinct=0)
    steps: distribution.Steps = "whole" if dtype == pl.Date else "ticks"
    low, high, (below, *counts, above) = distribution.histogram(ordered, steps)
    ticks = distribution.whole_quantiles(ordered)
    return Column(
        name=name,
        kind="datetime",
        missing=missing,
        distinct=len(_starts(ordered)),
        earliest=_time_text(ordered[0], dtype),
        latest=_time_text(ordered[-1], dtype),
        quantiles={str(p): _time_text(tick, dtype) for p, tick in zip(distribution.PERCENTS, ticks, strict=True)},
        histogram=Histogram(
            low=_time_text(low, dtype),
            high=_time_text(high, dtype),
            counts=tuple(counts),
            below=below,
            above=above,
        ),
    )


def _time_text(tick: float, dtype: pl.DataType) -> str:
    """A day, or a time in UTC, of any year."""
    if not isinstance(dtype, pl.Datetime):
        return str(np.datetime64(int(tick), "D"))
    time = np.datetime64(int(tick), dtype.time_unit)
    whole = time.astype("datetime64[s]")
    return f"{whole if whole == time else time}{'Z' if dtype.time_zone else ''}"


def _describe_text(name: str, column: pl.Series) -> Column:
    missing = column.null_count()
    distinct = column.n_unique() - (missing > 0)
    kind = kind_of(column, distinct)
    top = _most_frequent_cells(column) if kind == "categorical" else ()
    return Column(name=name, kind=kind, missing=missing, distinct=distinct, top=top)


def _describe_flags(name: str, column: pl.Series) -> Column:
    top = _most_frequent_cells(column)
    counts = {frequent.value: frequent.count for frequent in top}
    present = sum(counts.values())
    mean = counts.get(True, 0) / present if present else None
    return Column(name=name, kind="boolean", missing=column.null_count(), distinct=len(counts), mean=mean, top=top)


def _most_frequent_cells(column: pl.Series) -> tuple[Frequent, ...]:
    counts = column.drop_nulls().alias("value").value_counts()
    top = counts.sort(["count", "value"], descending=[True, False]).head(TOP)
    return tuple(Frequent(value=value, count=count) for value, count in top.iter_rows())
