"""What is said of the columns of a data set, against NumPy and Polars."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.describing.column import describe_column
from common.describing.distribution import PERCENTS
from common.schemas.datasets import Column, Histogram
from service.describing import fingerprints
from service.describing.description import Description, describe

SOME = settings(max_examples=100, deadline=None)
WHOLE = st.integers(-(2**63), 2**63 - 1) | st.integers(-30, 30)
FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-30, 30).map(float) | st.floats(-1, 1)
DAY = datetime.fromisoformat("2024-01-01")
TIMES = st.datetimes() | st.datetimes(DAY, DAY + timedelta(days=1))


def columns(cells: st.SearchStrategy[Any], most: int = 300) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.none() | cells, min_size=1, max_size=most).filter(
        lambda found: any(c is not None for c in found)
    )


def described(folder: Path, frame: pl.DataFrame) -> Description:
    frame.write_parquet(folder / "frame.parquet")
    return describe(folder / "frame.parquet")


def binned(values: list[Any], low: Any, high: Any, bins: int) -> list[int]:
    """How many of some exact numbers lie below, in each of the bins, and above, one after the other."""
    counts = [0] * (bins + 2)
    for value in values:
        if value < low:
            counts[0] += 1
        elif value > high:
            counts[-1] += 1
        else:
            counts[1 + min(bins - 1, int((value - low) * bins // (high - low)) if high > low else 0)] += 1
    return counts


def told(histogram: Histogram | None) -> list[int]:
    assert histogram is not None
    assert len(histogram.counts) <= 20
    return [histogram.below, *histogram.counts, histogram.above]


@SOME
@given(columns(FLOATS))
def test_numbers_are_described_as_numpy_describes_them(cells: list[float | None]) -> None:
    column = describe_column("x", pl.Series(cells, dtype=pl.Float64))
    values = np.array([cell for cell in cells if cell is not None])
    assert (column.missing, column.distinct) == (len(cells) - len(values), len(set(values.tolist())))
    assert (column.min, column.max) == (values.min(), values.max())
    with np.errstate(over="ignore", invalid="ignore"):
        expected = np.percentile(values / 4, PERCENTS)  # NumPy's differences overflow
    found = [column.quantiles[str(percent)] for percent in PERCENTS]
    assert found == sorted(found, key=float)
    np.testing.assert_allclose(np.array(found, float) / 4, expected, rtol=1e-9, atol=1e-9 * np.abs(values / 4).max())
    assert sum(told(column.histogram)) == len(values)


@SOME
@given(columns(WHOLE))
def test_whole_numbers_lie_in_bins_of_equally_many_to_the_last_bit(cells: list[int | None]) -> None:
    column = describe_column("x", pl.Series(cells, dtype=pl.Int64))
    values = sorted(cell for cell in cells if cell is not None)
    assert column.integer
    assert column.distinct == len(set(values))
    low, high = values[(len(values) - 1) // 100], values[len(values) - 1 - (len(values) - 1) // 100]
    if low == high:
        low, high = values[0], values[-1]
    width = max(1, math.ceil((high - low + 1) / 20)) if high - low < 2**50 else -(-(high - low + 1) // 20)
    edges = [low + place * width for place in range(-(-(high - low + 1) // width) + 1)]
    inside = [sum(a <= value < b for value in values) for a, b in pairwise(edges)]
    beyond = sum(value < low for value in values), sum(value >= edges[-1] for value in values)
    assert told(column.histogram) == [beyond[0], *inside, beyond[1]]
    assert column.histogram is not None
    assert (column.histogram.low, column.histogram.high) == (float(low), float(edges[-1] - 1))
    if edges[-1] < 2**31 and low > -(2**31):  # the rule that is told of all histograms gives the same
        assert told(column.histogram) == binned(values, low, edges[-1] - 1, len(inside))


@SOME
@given(columns(TIMES), st.booleans())
def test_times_are_told_as_text_in_utc(cells: list[datetime | None], zoned: bool) -> None:
    dtype = pl.Datetime("us", "UTC" if zoned else None)
    column = describe_column("t", pl.Series(cells, dtype=pl.Datetime("us")).cast(dtype))
    values = sorted(cell for cell in cells if cell is not None)
    assert (column.missing, column.distinct) == (len(cells) - len(values), len(set(values)))
    assert column.earliest is not None
    assert column.histogram is not None

    def read(text: float | str | None) -> datetime:
        assert isinstance(text, str)
        assert text.endswith("Z") == zoned
        return datetime.fromisoformat(text).replace(tzinfo=None)

    assert (read(column.earliest), read(column.latest)) == (values[0], values[-1])
    quantiles = [read(column.quantiles[str(percent)]) for percent in PERCENTS]
    ticks = np.array(values, "datetime64[us]").astype(np.int64)
    exact = [divmod(percent * (len(ticks) - 1), 100) for percent in PERCENTS]
    for found, (place, rest) in zip(quantiles, exact, strict=True):
        after = values[min(place + 1, len(values) - 1)]
        assert abs(found - (values[place] + (after - values[place]) * rest / 100)) <= timedelta(microseconds=1)
    low, high = (
        int(np.datetime64(read(end), "us").astype(int)) for end in (column.histogram.low, column.histogram.high)
    )
    assert told(column.histogram) == binned(ticks.tolist(), low, high, len(column.histogram.counts))


@SOME
@given(columns(st.dates(date(2023, 12, 20), date(2024, 3, 1)) | st.dates()))
def test_days_lie_in_bins_of_equally_many_days(cells: list[date | None]) -> None:
    column = describe_column("day", pl.Series(cells, dtype=pl.Date))
    values = sorted(cell for cell in cells if cell is not None)
    histogram = column.histogram
    assert histogram is not None
    assert (column.earliest, column.latest) == (str(values[0]), str(values[-1]))
    first, last = np.datetime64(str(histogram.low)), np.datetime64(str(histogram.high))  # which may be in year 10000
    low, days = int((first - np.datetime64("0001-01-01")).astype(int)) + 1, int((last - first).astype(int)) + 1
    assert days % len(histogram.counts) == 0
    assert told(histogram) == binned([day.toordinal() for day in values], low, low + days - 1, len(histogram.counts))


def test_times_of_any_unit_and_year_are_told() -> None:
    def told_of(*ticks: int, dtype: Any) -> list[str | None]:
        column = describe_column("t", pl.Series(ticks, dtype=pl.Int64).cast(dtype))
        return [column.earliest, column.latest]

    assert told_of(0, 1, dtype=pl.Datetime("ms")) == ["1970-01-01T00:00:00", "1970-01-01T00:00:00.001"]
    assert told_of(1, dtype=pl.Datetime("ns"))[0] == "1970-01-01T00:00:00.000000001"
    assert told_of(0, dtype=pl.Datetime("us", "Europe/Berlin"))[0] == "1970-01-01T00:00:00Z"
    assert told_of(10**18, dtype=pl.Datetime("us"))[0] == "33658-09-27T01:46:40"


def test_a_few_extreme_values_leave_the_others_in_more_than_one_bin() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=10_000), [1e12, -1e12]])
    histogram = describe_column("x", pl.Series(values)).histogram
    assert histogram is not None
    assert min(histogram.counts) > 10
    assert (histogram.below, histogram.above) == (100, 100)
    mostly = describe_column("x", pl.Series([0.0] * 990 + [0.5, 1.5] * 2)).histogram
    assert mostly is not None
    assert (mostly.low, mostly.high, mostly.counts[0], mostly.counts[-1]) == (0.0, 1.5, 990, 2)


@SOME
@given(columns(st.sampled_from(["a", "b", "ä", "", "名"])) | columns(st.booleans()) | columns(st.integers(-3, 3)))
def test_the_most_frequent_values_come_first_and_ties_in_order(cells: list[Any]) -> None:
    column = describe_column("c", pl.Series(cells))
    counts = Counter(cell for cell in cells if cell is not None)
    assert [(top.value, top.count) for top in column.top] == sorted(
        counts.items(), key=lambda item: (-item[1], item[0])
    )


ROWS = st.lists(st.tuples(st.none() | st.integers(0, 2), st.sampled_from(["x", "y", None]), st.booleans()), min_size=1)


@SOME
@given(ROWS)
def test_repeated_rows_are_counted_exactly(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int | None, str | None, bool]]
) -> None:
    frame = pl.DataFrame(rows, {"a": pl.Int64, "b": pl.String, "c": pl.Boolean}, orient="row")
    repeated = len(rows) - len(set(rows))
    said = [w for w in described(tmp_path_factory.mktemp("d"), frame).warnings if "repeat" in w]
    assert said == ([f"{repeated} of {len(rows)} rows repeat an earlier row in all columns"] if repeated else [])


def test_repeated_rows_are_counted_over_blocks_and_many_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints, "_BLOCK", 1000)
    draw = np.random.default_rng(1)
    frame = pl.DataFrame({f"x{place}": draw.integers(0, 3, 20_000) for place in range(8)})
    swapped = frame.select(pl.col("x1").alias("x0"), pl.col("x0").alias("x1"), *frame.columns[2:])
    frame = pl.concat([frame, swapped])
    repeated = frame.height - frame.n_unique()
    assert f"{repeated:,} of 40,000 rows repeat an earlier row in all columns" in described(tmp_path, frame).warnings


def test_columns_that_hold_the_same_are_named_together(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    a, b = draw.normal(size=(2, 200_000))
    moved = np.concatenate([a[1:], a[:1]])  # the same values, in other rows
    frame = pl.DataFrame({"a": a, "moved": moved, "b": b, "a again": a, "*": b, "one": 1, "also one": 1})
    assert [w for w in described(tmp_path, frame).warnings if "same" in w] == [
        "2 columns (a, a again): hold the same in every row; one of them is enough",
        "2 columns (b, *): hold the same in every row; one of them is enough",
    ]


def test_what_is_worth_knowing_is_said_once_with_the_columns_it_is_true_of(tmp_path: Path) -> None:
    n = 1000
    frame = pl.DataFrame(
        {
            "empty": pl.Series([None] * n, dtype=pl.Float64),
            "constant": ["M4RKER"] * n,
            "number": range(n),
            "key": [f"M4RKER{i}" for i in range(n)],
            "sparse": [i if i < 499 else None for i in range(n)],
            "half": [i % 7 if i < 500 else None for i in range(n)],
            "real": np.random.default_rng(0).normal(size=n),
            "day": [date(2020, 1, 1) + timedelta(days=i) for i in range(n)],
        }
    )
    assert described(tmp_path, frame).warnings == (
        "column empty: without any value",
        "column constant: with one value only (constant)",
        "column sparse: without a value in more than half of the rows",
        'column key: of text, too many different ones; left out of training, unless {"kind": "categorical"} in columns '
        "takes the most frequent thousand",
        "2 columns (number, key): with a value of its own in more than 95% of the rows (an id?); nothing general can be "
        "learned from it; `features` can leave it out",
    )


def test_columns_of_every_stored_type_without_any_value_are_described() -> None:
    for dtype in (pl.Int64, pl.Float64, pl.Boolean, pl.String, pl.Date, pl.Datetime("us", "UTC")):
        column = describe_column("c", pl.Series([None, None], dtype=dtype))
        assert (column.missing, column.distinct, column.histogram, column.quantiles, column.top) == (2, 0, None, {}, ())


def test_small_integers_are_counted_in_their_own_type() -> None:
    for dtype in (pl.Int8, pl.UInt8, pl.Int16, pl.UInt32):
        column = describe_column("c", pl.Series([0, 5, 127], dtype=dtype))
        assert column.histogram == Histogram(low=0, high=132, counts=(2, *[0] * 17, 1))


def test_a_description_comes_back_from_its_json() -> None:
    times = pl.Series([datetime(2024, 1, 1, tzinfo=UTC), None])
    for column in (describe_column("t", times), describe_column("n", pl.Series([1, 2]))):
        assert Column.model_validate_json(column.model_dump_json()) == column


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_columns(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from service.describing.description import describe; describe(Path(sys.argv[1]));"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    )

    peaks = []
    for width in (1, 6):
        values = np.tile(np.random.default_rng(0).normal(size=1000), 4000)  # a small file: it is mapped
        file = tmp_path / f"{width}.parquet"
        pl.DataFrame({f"c{place}": values + place for place in range(width)}).write_parquet(file)
        root = Path(fingerprints.__file__).parents[1]
        command, two = [sys.executable, "-c", code, str(file)], {"POLARS_MAX_THREADS": "2"}
        done = subprocess.run(command, cwd=root, env=os.environ | two, capture_output=True, check=True)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 2 * 31, peaks  # MiB: two columns
