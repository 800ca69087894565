"""Which values are told of as unlike those of training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.features.bounds import MOST_STRANGERS, Bounds, Stranger
from common.features.categories import Embedded, Numbered, OneHot
from common.features.columns import Column
from common.features.encoder import FeatureEncoder
from common.features.feature import Feature
from common.features.numbers import QuantileNormal, Scaled
from common.features.table import Table, code_values
from common.schemas.columns import ColumnOptions

FAR, UNKNOWN = "far_outside_training_range", "unknown_category"


def scaled(name: str, seen: tuple[float, float] | None, **more: Any) -> Scaled:
    return Scaled(name=name, kind="numeric", mean=0.0, scale=1.0, seen=seen, **more)


def codes(encoder: FeatureEncoder, *instances: object) -> list[tuple[int, str, str]]:
    found = encoder.strangers(encoder.cells(instances))
    assert found.count == len(found.first)
    return [(stranger.row, stranger.column, stranger.code) for stranger in found.first]


@pytest.mark.parametrize(
    ("seen", "near", "far"),
    [
        ((10.0, 20.0), (0.0, 10.0, 15.0, 30.0), (-0.001, 30.001, -1e300, 1e300)),
        ((-1.0, 0.0), (-2.0, 1.0), (-2.001, 1.001)),
        ((5.0, 5.0), (0.0, 5.0, 10.0), (-0.001, 10.001)),
        ((-300.0, -300.0), (-600.0, 0.0), (-600.001, 0.001)),
        ((0.0, 0.0), (-1.0, 1.0), (-1.001, 1.001)),
        ((0.01, 0.01), (-0.99, 1.01), (-0.991, 1.011)),
        ((-1e308, 1e308), (-1.7e308, 1.7e308), None),
        (None, (-1e300, 1e300), None),
    ],
)
def test_far_is_beyond_the_range_by_more_than_its_width(
    seen: tuple[float, float] | None, near: tuple[float, ...], far: tuple[float, ...] | None
) -> None:
    encoder = FeatureEncoder([scaled("x", seen)])
    assert codes(encoder, *([value] for value in near), [None]) == []
    if far is not None:
        assert codes(encoder, *([value] for value in far)) == [(row, "x", FAR) for row in range(len(far))]


def test_categories_that_no_training_row_had_are_unknown_in_every_encoding() -> None:
    common: dict[str, Any] = {"categories": ("a", "b"), "missing": False}
    columns: list[Column] = [
        OneHot(name="p", **common),
        OneHot(name="q", **common, other=True),
        Numbered(name="r", **common, numbers=(0.0, 1.0), unknown=0.5),
        Embedded(name="s", **common, vector=2),
        OneHot(name="t", **{**common, "missing": True}),
        OneHot(name="u", **common, default="b"),
    ]
    encoder = FeatureEncoder(columns)
    assert codes(encoder, ["a"] * 6, ["b"] * 6) == []
    assert codes(encoder, ["c"] * 6) == [(0, name, UNKNOWN) for name in "pqrstu"]
    assert codes(encoder, [None] * 6) == [(0, name, UNKNOWN) for name in "pqrs"]  # none was missing in training


numbers = st.one_of(st.none(), st.floats(-100, 100), st.sampled_from((-math.inf, math.inf)))


@settings(max_examples=50)
@given(
    st.lists(st.one_of(st.none(), st.tuples(st.floats(-10, 10), st.floats(0, 10))), min_size=1, max_size=4),
    st.integers(1, 30),
    st.data(),
)
def test_all_of_them_are_found_and_no_other(ranges: list[Any], rows: int, data: st.DataObject) -> None:
    seen = [None if r is None else (r[0], r[0] + r[1]) for r in ranges]
    drawn = data.draw(st.lists(st.lists(numbers, min_size=len(seen), max_size=len(seen)), min_size=rows, max_size=rows))
    cells = np.array([[math.nan if cell is None else cell for cell in row] for row in drawn])
    found = Bounds([scaled(str(place), r) for place, r in enumerate(seen)]).strangers(cells)
    expected = []
    for row, values in enumerate(cells.tolist()):
        for place, (value, r) in enumerate(zip(values, seen, strict=True)):
            if r is not None and not math.isnan(value):
                low, high = r
                reach = high - low if high > low else max(abs(low), 1.0)
                if value < low - reach or value > high + reach:
                    expected.append(Stranger(row, str(place), "far_outside_training_range"))
    assert list(found.first) == expected[:MOST_STRANGERS]
    assert found.count == len(expected)


def test_ranges_are_those_of_the_training_rows() -> None:
    table: Table = {
        "plain": np.array([1.0, math.nan, 3.0, 1e6]),
        "ranks": np.array([-2.0, 4.0, 0.0, 1e6]),
        "yes": np.array([0.0, 1.0, 0.0, 1.0]),
        "time": np.array([100.0, 200.0, math.nan, 1e12]),
        "text": code_values(["7", "none", "9", "1e6"]),
        "empty": np.array([math.nan, math.nan, math.nan, 1.0]),
    }
    features = [
        Feature("plain", "numeric", "numeric"),
        Feature("ranks", "numeric", "numeric", ColumnOptions(scale="quantile_normal")),
        Feature("yes", "boolean", "boolean"),
        Feature("time", "datetime", "datetime"),
        Feature("text", "numeric", "text"),
        Feature("empty", "numeric", "numeric"),
    ]
    encoder = FeatureEncoder.fit(table, features, np.arange(3))
    ranges = [column.seen for column in encoder.columns if hasattr(column, "seen")]
    assert ranges == [(1.0, 3.0), (-2.0, 4.0), None, (100.0, 200.0), (7.0, 9.0), None]
    again = FeatureEncoder.from_document(encoder.to_document())
    assert again.columns == encoder.columns
    late = {"plain": 9.0, "ranks": 11.0, "yes": True, "time": "2026-01-01", "text": "12", "empty": 1e9}
    assert codes(again, late) == [(0, name, FAR) for name in ("plain", "ranks", "time", "text")]


def test_pixels_share_a_range_as_they_share_a_scale() -> None:
    pixels = {f"p{place}": np.array([0.0, 255.0, 17.0]) for place in range(16)}
    table: Table = {**pixels, "border": np.array([0.0, 0.0, 0.0]), "other": np.array([0.5, 1.0, 0.0])}
    features = [Feature(name, "numeric", "numeric") for name in table]
    encoder = FeatureEncoder.fit(table, features, np.arange(3))
    assert "border" in encoder.joint_columns
    lit = {**dict.fromkeys(table, 200.0), "other": 1.0}
    assert codes(encoder, lit) == []
    assert codes(encoder, {**lit, "border": 511.0, "other": 3.0}) == [(0, "border", FAR), (0, "other", FAR)]


def test_models_that_know_no_ranges_still_answer_and_warn_of_categories() -> None:
    columns: list[Column] = [
        scaled("x", (0.0, 1.0)),
        QuantileNormal(name="y", values=(0.0, 1.0), normals=(-1.0, 1.0), fill=0.0, seen=(0.0, 1.0)),
        OneHot(name="z", categories=("a",), missing=False),
    ]
    document: Any = FeatureEncoder(columns).to_document()
    for column in document["columns"]:
        column.pop("seen", None)
    earlier = FeatureEncoder.from_document(document)
    assert codes(earlier, [1e9, 1e9, "b"]) == [(0, "z", UNKNOWN)]


def test_a_row_of_missing_values_is_made_also_of_columns_that_refuse_them() -> None:
    common: dict[str, Any] = {"categories": ("a", "b"), "refuses_missing": True}
    encoder = FeatureEncoder(
        [
            Scaled(name="x", kind="numeric", mean=3.0, scale=2.0, refuses_missing=True),
            Scaled(name="y", kind="numeric", mean=3.0, scale=2.0, fill=5.0, indicator=True),
            OneHot(name="z", missing=False, **common),
            Embedded(name="v", missing=False, vector=3, **common),
            OneHot(name="w", missing=True, categories=("a",)),
        ]
    )
    assert encoder.all_missing.tolist() == [[0, 1, 1, 0, 0, 2, 0, 1]]
    assert encoder.owners.tolist() == [0, 1, 1, 2, 2, 4, 4, 3, 3, 3]
