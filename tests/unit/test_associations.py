"""Associations with a target, against NumPy, SciPy and formulas over whole columns."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from common.describing import stored_columns
from common.schemas.datasets import Dataset
from service.describing import associations
from service.describing.associations import Association, Associations, associate
from service.describing.description import describe
from service.describing.measures import CorrelationRatio, CramersV, Pearson

SOME = settings(max_examples=100, deadline=None)
CUTS = st.lists(st.integers(0, 200), max_size=4).map(sorted)


def measured(folder: Path, frame: pl.DataFrame, target: str) -> Associations:
    """As the API measures them."""
    file = folder / "frame.parquet"
    frame.write_parquet(file)
    found = describe(file)
    dataset = Dataset(
        id="ds_0",
        name="frame",
        version=1,
        format="parquet",
        bytes=1,
        sha256="",
        rows=frame.height,
        columns=found.columns,
        warnings=found.warnings,
        created_at=datetime.now(UTC),
    )
    column = dataset.column(target)
    assert column is not None
    return associate(file, dataset, column)


def one(found: Associations, column: str) -> Association:
    return next(association for association in found.data if association.column == column)


def blocks(cuts: list[int], *columns: NDArray[Any]) -> list[list[NDArray[Any]]]:
    return list(map(list, zip(*(np.split(column, cuts) for column in columns), strict=True)))


NUMBERS = st.floats(-1, 1, width=16) | st.integers(-3, 3).map(float)
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=200)


@SOME
@given(PAIRS, CUTS, st.sampled_from([0.0, 1e6]), st.sampled_from([1.0, 1e-3]))
def test_pearson_in_blocks_is_that_of_scipy(
    pairs: list[tuple[float, float]], cuts: list[int], far: float, scale: float
) -> None:
    x, y = np.array(pairs).T * scale + far
    measure = Pearson()
    for first, second in blocks(cuts, x, y):
        measure.add(first, second)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert measure.value() is None
    else:
        exact = [v.astype(np.longdouble) - v.astype(np.longdouble).mean() for v in (x, y)]
        expected = float((exact[0] @ exact[1]) / np.sqrt((exact[0] @ exact[0]) * (exact[1] @ exact[1])))
        assert measure.value() == pytest.approx(expected, abs=1e-9)
        if not far and min(x.std(), y.std()) > 0.01:
            assert measure.value() == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)


@SOME
@given(st.lists(st.tuples(st.integers(0, 5), NUMBERS), min_size=1, max_size=200), CUTS, st.sampled_from([0.0, 1e6]))
def test_eta_in_blocks_is_the_part_of_the_variance_between_categories(
    pairs: list[tuple[int, float]], cuts: list[int], far: float
) -> None:
    codes = np.array([code for code, _ in pairs])
    numbers = np.array([number for _, number in pairs]) + far
    measure = CorrelationRatio(7)
    for first, second in blocks(cuts, codes, numbers):
        measure.add(first, second)
    if np.ptp(numbers) == 0 or np.ptp(codes) == 0:
        assert measure.value() is None
        return
    numbers = numbers - numbers[0]
    means = {code: math.fsum(numbers[codes == code]) / np.sum(codes == code) for code in set(codes.tolist())}
    between = math.fsum((means[code] - math.fsum(numbers) / len(numbers)) ** 2 for code in codes.tolist())
    total = math.fsum((number - math.fsum(numbers) / len(numbers)) ** 2 for number in numbers.tolist())
    found = measure.value()
    assert found is not None
    assert found**2 == pytest.approx(between / total, abs=1e-9)


@SOME
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=200), CUTS)
def test_cramers_v_in_blocks_is_bergsmas_over_scipys_chi_square(pairs: list[tuple[int, int]], cuts: list[int]) -> None:
    a, b = np.array(pairs).T
    measure = CramersV(6, 5)
    for first, second in blocks(cuts, a, b):
        measure.add(first, second)
    counts = stats.contingency.crosstab(a, b).count
    n, (rows, columns) = len(a), counts.shape
    reduced = [side - (side - 1) ** 2 / (n - 1) for side in (rows, columns)]
    if min(rows, columns) < 2 or min(reduced) - 1 <= 0:
        assert measure.value() is None
        return
    chi = stats.chi2_contingency(counts, correction=False).statistic
    corrected = max(0.0, chi / n - (rows - 1) * (columns - 1) / (n - 1))
    assert measure.value() == pytest.approx(min(1.0, math.sqrt(corrected / (min(reduced) - 1))), abs=1e-6)


def test_independent_categories_have_none_and_the_same_have_all() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.integers(0, 30, (2, 2000))
    far, same = CramersV(30, 30), CramersV(30, 30)
    far.add(a, b)
    same.add(a, (a * 7) % 30)
    assert far.value() == pytest.approx(0, abs=0.05)  # uncorrected it would be 0.12
    assert same.value() == pytest.approx(1)


MIXED = pl.DataFrame(
    {
        "x": [1.0, 2.0, None, 4.0, 5.0, 7.0] * 20,
        "y": [2.0, 4.5, 5.0, 8.0, None, 13.0] * 20,
        "whole": list(range(30, 60)) * 4,
        "c": ["a", "b", "a", None, "b", "c"] * 20,
        "flag": [True, False, True, True, False, None] * 20,
        "at": [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=i * i) for i in range(120)],
    }
)


@pytest.mark.parametrize("cells", [1 << 21, 50])
def test_every_kind_gets_its_measure_over_the_rows_that_have_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: int
) -> None:
    monkeypatch.setattr(stored_columns, "CELLS", cells)  # in one block, or in many
    monkeypatch.setattr(associations, "CELLS", cells)
    found = measured(tmp_path, MIXED, "y")
    assert {a.column: (a.measure, a.rows) for a in found.data} == {
        "x": ("pearson", 80),
        "whole": ("pearson", 100),
        "c": ("eta", 80),
        "flag": ("eta", 80),
        "at": ("pearson", 100),
    }
    both = MIXED.drop_nulls(["x", "y"])
    assert one(found, "x").value == pytest.approx(stats.pearsonr(both["x"], both["y"]).statistic)
    timed = MIXED.drop_nulls("y")
    assert one(found, "at").value == pytest.approx(stats.pearsonr(timed["at"].to_physical(), timed["y"]).statistic)
    assert [abs(a.value or 0) for a in found.data] == sorted((abs(a.value or 0) for a in found.data), reverse=True)
    classes = measured(tmp_path, MIXED, "c")
    assert {a.column: a.measure for a in classes.data} == {
        "x": "eta",
        "y": "eta",
        "whole": "eta",
        "flag": "cramers_v",
        "at": "eta",
    }
    grouped = MIXED.drop_nulls(["c", "x"])
    share = stats.f_oneway(*(group["x"] for _, group in grouped.group_by("c"))).statistic * 2 / (grouped.height - 3)
    assert one(classes, "x").value == pytest.approx(math.sqrt(share / (1 + share)))


def test_a_column_that_gives_the_target_away_is_named_whatever_its_measure(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    n = 2000
    code = draw.integers(0, 50, n)
    target = np.isin(code, draw.permutation(50)[:25])  # a code in no order
    frame = pl.DataFrame(
        {
            "label": np.where(target, "yes", "no"),
            "code": code,
            "score": target + draw.normal(size=n) * 0.01,
            "word": [f"w{c}" for c in code],
            "noise": draw.normal(size=n),
            "id": [f"u{i}" for i in range(n)],
            "number": draw.permutation(n),
        }
    )
    assert measured(tmp_path, frame, "label").warnings == (
        "2 columns (word, code): what the target is can be told from it in every row; is it known beforehand?",
        "column score: associated with the target almost perfectly; is it known beforehand?",
        "2 columns (id, number): with a value of its own in more than 95% of the rows (an id?); nothing general can be "
        "learned from it; `features` can leave it out",
    )
    price = frame.with_columns(pl.Series("price", draw.normal(size=50)[code]))
    told = [w for w in measured(tmp_path, price, "price").warnings if "told" in w]
    assert told == [
        "2 columns (word, code): what the target is can be told from it in every row; is it known beforehand?"
    ]


def test_small_classes_and_missing_targets_are_counted(tmp_path: Path) -> None:
    classes = ["M4RKER"] * 9 + ["b"] * 981 + [None] * 10
    frame = pl.DataFrame({"y": classes, "x": range(1000)})
    found = measured(tmp_path, frame, "y")
    assert found.warnings[:2] == (
        "column y: 10 of 1,000 rows have no value; they cannot be learned from",
        "column y: the smallest class has 9 of 990 rows, the largest 981",
    )
    even = pl.DataFrame({"y": [0] * 500 + [1] * 500, "x": [1.0, 2.0] * 500})
    assert measured(tmp_path, even, "y").warnings == ()


def test_categories_beyond_a_thousand_are_one(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    common = draw.integers(0, 1000, 20_000)
    rare = np.arange(2000) + 1000
    code = draw.permutation(np.concatenate([common, rare]))
    y = (code % 7).astype(float) + draw.normal(size=len(code))
    found = one(measured(tmp_path, pl.DataFrame({"t": [f"v{c}" for c in code], "y": y}), "y"), "t")
    assert (found.kind, found.grouped, found.rows) == ("text", True, 22_000)
    measure = CorrelationRatio(1001)
    measure.add(np.minimum(code, 1000), y)
    assert found.value == pytest.approx(measure.value(), rel=1e-9)


def test_nothing_varies_with_what_is_constant_or_missing(tmp_path: Path) -> None:
    frame = pl.DataFrame({"y": [0.1, 0.3, 0.2], "one": [0.1] * 3, "word": ["a"] * 3, "none": [None] * 3})
    found = measured(tmp_path, frame.with_columns(pl.col("none").cast(pl.Float64)), "y")
    assert [(a.column, a.value, a.rows) for a in found.data] == [("one", None, 3), ("word", None, 3), ("none", None, 0)]
    assert all(a.value is None for a in measured(tmp_path, frame.select("y", "word"), "word").data)


def test_numbers_near_the_largest_and_the_smallest_float_are_measured(tmp_path: Path) -> None:
    x = np.linspace(-1, 1, 101)
    frame = pl.DataFrame({"y": x**3, "huge": x * 1.7e308, "tiny": x * 1e-307, "class": (x > 0).tolist()})
    expected = pytest.approx(stats.pearsonr(x, x**3).statistic)
    assert [one(measured(tmp_path, frame, "y"), name).value for name in ("huge", "tiny")] == [expected, expected]
    etas = [one(measured(tmp_path, frame, "class"), name).value for name in ("huge", "tiny")]
    assert etas[0] == pytest.approx(etas[1])


def test_of_a_very_large_data_set_blocks_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_columns, "CELLS", 300)
    monkeypatch.setattr(associations, "MOST_CELLS", 10_000)
    draw = np.random.default_rng(0)
    frame = pl.DataFrame({name: draw.normal(size=10_000) for name in ("x", "y", "z")})
    found = measured(tmp_path, frame, "y")
    assert [a.rows for a in found.data] == [pytest.approx(3333, abs=100)] * 2
    assert found.warnings == ("the data set is large: one block of rows in 3 was looked at",)
