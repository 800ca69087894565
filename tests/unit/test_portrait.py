"""Data sets as a terminal shows them."""

from __future__ import annotations

from io import StringIO

import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from common.describing.column import describe_column
from service import portrait


def printed(table: Table) -> str:
    file = StringIO()
    Console(file=file, width=200, color_system=None).print(table)
    return file.getvalue()


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=20))
def test_every_bin_is_a_bar_and_none_that_holds_something_is_empty(counts: list[int]) -> None:
    bars = portrait.bars(counts)
    assert len(bars) == (len(counts) if any(counts) else 0)
    for count, bar in zip(counts, bars, strict=False):
        assert (bar == " ") == (count == 0)
        assert (bar == "█") >= (count == max(counts) > 0)
    assert list(bars) == [bar for _, bar in sorted(zip(counts, bars, strict=False))] or counts != sorted(counts)


def test_columns_are_shown_with_bars_or_their_most_frequent_values() -> None:
    series = {
        "n": pl.Series([1, 1, 1, 2, None]),
        "c": pl.Series(["[red]x", "[red]x", "[red]x", "y\x1b[2J", None]),
        "t": pl.Series(["2024-01-01", "2024-01-02", None, None, None]).str.to_date(),
        "text": pl.Series([f"{i}" * 2000 for i in range(5)]),
    }
    columns = [describe_column(name, column).model_dump() for name, column in series.items()]
    lines = printed(portrait.of_columns({"rows": 5, "columns": columns})).splitlines()
    assert lines[0].split() == [
        "column",
        "kind",
        "missing",
        "distinct",
        "mean",
        "std",
        "least",
        "median",
        "most",
        "values",
    ]
    assert lines[1].split() == ["n", "numeric", "1", "2", "1.25", "0.43301", "1", "1", "2", "█▃"]
    assert lines[2].strip().split(maxsplit=4) == ["c", "categorical", "1", "2", "[red]x 60%, y·[2J 20%"]
    assert lines[3].split() == ["t", "datetime", "3", "2", "2024-01-01", "2024-01-01", "2024-01-02", "██"]
    assert lines[4].split() == ["text", "text", "0", "5"]


def test_associations_are_shown_as_long_as_they_are_strong() -> None:
    data = [
        {"column": "a", "measure": "pearson", "value": -0.5, "rows": 1000},
        {"column": "b", "measure": "eta", "value": None, "rows": 0},
    ]
    lines = printed(portrait.of_associations({"target": "y", "data": data})).splitlines()
    assert lines[0].strip() == "with y"
    assert lines[2].split() == ["a", "pearson", "-0.500", "1,000", "█" * 10]
    assert lines[3].split() == ["b", "eta", "0"]
