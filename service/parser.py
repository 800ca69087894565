"""Reads one uploaded file: `python -m service.parser '{"source": …}'`, a process that may die without harm.

The task is one JSON argument, the answer one JSON document on standard output; a result that is not whole
never stands at its destination. `service.parsing` has a module for each form of data: all of them read in
batches, so that the memory in use does not grow with the file, and decide on the type of a column by all of
its rows.

Rows are counted from 1, the first row of data. Neither faults nor warnings repeat what a cell holds.
"""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import polars as pl

from common import processes
from common.errors import Invalid, StorageFull, TooLarge, Unreadable
from common.features.moments import mean_and_std
from common.schemas.datasets import Column, ColumnKind, DataFormat, Frequent
from service.ingest import Parsed, ParseLimits, ParseOptions, ParseTask, Refusal, Refused
from service.parsing.canonical import Table, whole_file
from service.parsing.csv_values import CsvTable
from service.parsing.json_rows import JsonTable, NdjsonTable
from service.parsing.parquet import ParquetTable

MAX_CATEGORIES: Final = 1000
ALWAYS_CATEGORIES: Final = 20
MAX_CATEGORY_BYTES: Final = 1000
TOP: Final = 20
NAMES_SHOWN: Final = 5

_FORMS: Final[dict[DataFormat, Callable[[Path, ParseOptions, ParseLimits], Table]]] = {
    "csv": CsvTable,
    "parquet": ParquetTable,
    "ndjson": NdjsonTable,
    "rows": JsonTable,
}


def parse(source: Path, destination: Path, options: ParseOptions, limits: ParseLimits) -> Parsed:
    """Read `source` and write it to `destination`; raises what `service.ingest.parse_in_child` does."""
    table = _FORMS[options.format](source, options, limits)
    with whole_file(destination) as partial:
        rows = table.write(partial)
        columns = _describe_all(partial)
    warnings = table.warnings({column.name: column.kind for column in columns})
    return Parsed(rows=rows, columns=columns, warnings=(*warnings, *_column_warnings(columns)), name=table.name)


def _describe_all(file: Path) -> tuple[Column, ...]:
    """Describe what was written, a column at a time."""
    scan = pl.scan_parquet(file, glob=False, hive_partitioning=False)
    return tuple(
        describe(scan.select(pl.nth(place)).collect().to_series()) for place in range(scan.collect_schema().len())
    )


# Description


def describe(column: pl.Series) -> Column:
    """What a column of a stored type holds."""
    name, column = column.name, column.alias("value")
    kind, missing = _kind(column), column.null_count()
    distinct = column.n_unique() - (missing > 0)
    integer = column.dtype.is_integer() or (column.dtype.is_float() and _holds_whole_numbers(column))
    mean = std = low = high = None
    if kind in ("numeric", "boolean") and missing < len(column):
        values = column.drop_nulls().cast(pl.Float64).to_numpy()
        mean, std = mean_and_std(values)
        low, high = float(np.min(values)), float(np.max(values))
    counted = kind in ("categorical", "boolean") or (integer and distinct <= MAX_CATEGORIES)
    numeric = kind == "numeric"
    return Column(
        name=name,
        kind=kind,
        missing=missing,
        distinct=distinct,
        integer=integer,
        mean=mean,
        std=std if numeric else None,
        min=low if numeric else None,
        max=high if numeric else None,
        top=_most_frequent(column) if counted else (),
    )


def _holds_whole_numbers(column: pl.Series) -> bool:
    """Whether floats are whole numbers in disguise: a table with a gap among its integers often has them so."""
    values = column.drop_nulls()
    return len(values) > 0 and bool(((values == values.floor()) & (values.abs() < 2.0**53)).all())


def _kind(column: pl.Series) -> ColumnKind:
    if column.dtype == pl.Boolean:
        return "boolean"
    if column.dtype.is_numeric():
        return "numeric"
    if column.dtype != pl.String:
        return "datetime"
    distinct = column.n_unique() - (column.null_count() > 0)
    few = distinct <= MAX_CATEGORIES and (distinct <= len(column) / 2 or distinct <= ALWAYS_CATEGORIES)
    few = few and not (column.str.len_bytes() > MAX_CATEGORY_BYTES).any()  # every model holds its categories
    return "categorical" if few else "text"


def _most_frequent(column: pl.Series) -> tuple[Frequent, ...]:
    counts = column.drop_nulls().rename("value").value_counts()
    top = counts.sort(["count", "value"], descending=[True, False]).head(TOP)
    return tuple(Frequent(value=value, count=count) for value, count in top.iter_rows())


def _column_warnings(columns: Sequence[Column]) -> list[str]:
    """One warning for each thing worth knowing, naming the columns it is true of."""
    cases = [
        ([c.name for c in columns if c.distinct == 0], "without any value"),
        ([c.name for c in columns if c.distinct == 1], "with one value only (constant)"),
        (
            [c.name for c in columns if c.kind == "text"],
            "of text, too many different ones; left out of training",
        ),
        ([c.name for c in columns if c.kind == "datetime"], "of dates or times; left out of training"),
    ]
    return [f"{_named(names)} {what}" for names, what in cases if names]


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    if len(names) == 1:
        return f"column {shown}:"
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return f"{len(names):,} columns ({shown}{more}):"


# The process


def _limit_self(limits: ParseLimits) -> None:
    """Bound memory and time, also for when the parent is gone."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds))
    signal.alarm(limits.wall_seconds + 5)


def main(argument: str) -> None:
    """Do the task and answer; anything else that goes wrong ends the process with exit status 1."""
    task = ParseTask.model_validate_json(argument)
    processes.die_with_parent()
    _limit_self(task.limits)
    answer: Parsed | Refused
    try:
        answer = parse(Path(task.source), Path(task.destination), task, task.limits)
    except (Invalid, TooLarge, StorageFull, Unreadable) as error:
        answer = Refused(error=_refusal(error))
    sys.stdout.buffer.write(answer.model_dump_json().encode())


def _refusal(error: Invalid | TooLarge | StorageFull | Unreadable) -> Refusal:
    if isinstance(error, Invalid):
        return Refusal(kind="invalid", code=error.stable_code, message=error.message, faults=error.faults)
    kind: Literal["too_large", "storage_full", "unreadable"] = "storage_full"
    if not isinstance(error, StorageFull):
        kind = "too_large" if isinstance(error, TooLarge) else "unreadable"
    return Refusal(kind=kind, code=error.stable_code, message=error.message)


if __name__ == "__main__":
    main(sys.argv[1])
