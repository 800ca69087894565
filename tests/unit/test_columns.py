"""What a request can say of its columns: each option does what its name says, in training and in prediction alike."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.preprocessing import MinMaxScaler, RobustScaler

from common.errors import BadData, CorruptRecord, Invalid
from common.features.encoder import FeatureEncoder
from common.features.feature import TAKEN_FOR, Feature
from common.features.table import Table, TableColumn, code_values
from common.schemas.columns import ColumnOptions, FeatureKind
from common.schemas.datasets import ColumnKind

NAN = math.nan
Matrix = NDArray[np.float32]


def feature(stored: ColumnKind, **options: Any) -> Feature:
    read = ColumnOptions.model_validate(options)
    return Feature("x", read.kind or TAKEN_FOR[stored][0], stored, read)


def column_of(stored: ColumnKind, cells: Sequence[object]) -> TableColumn:
    """The cells of a record, None for missing, as a stored column comes back."""
    if stored in ("categorical", "text"):
        return code_values(cells)  # type: ignore[arg-type]
    if stored == "datetime":
        return np.array([NAN if c is None else datetime.fromisoformat(str(c)).timestamp() for c in cells])
    return np.array([NAN if c is None else c for c in cells], np.float64)


def fit(stored: ColumnKind, cells: Sequence[object], **options: Any) -> FeatureEncoder:
    table: Table = {"x": column_of(stored, cells)}
    return FeatureEncoder.fit(table, [feature(stored, **options)], np.arange(len(cells)))


def encoded(encoder: FeatureEncoder, *cells: object) -> list[list[float]]:
    matrix: list[list[float]] = encoder.encode_records([[cell] for cell in cells]).tolist()
    return matrix


def refusal(encoder: FeatureEncoder, cell: object) -> str:
    with pytest.raises(Invalid) as caught:
        encoder.encode_records([{"x": cell}])
    return caught.value.faults[0].code


# Numbers


NUMBERS = np.random.default_rng(2).lognormal(2, 2, 501)


def test_min_max_and_robust_are_those_of_scikit_learn() -> None:
    for scale, theirs in (("min_max", MinMaxScaler()), ("robust", RobustScaler())):
        encoder = fit("numeric", NUMBERS.tolist(), scale=scale)
        expected = theirs.fit_transform(NUMBERS[:, None])
        np.testing.assert_allclose(encoder.encode({"x": NUMBERS}), expected, rtol=1e-6, atol=1e-6)


def test_log_is_standardized_after_the_logarithm_which_keeps_signs() -> None:
    values = np.concatenate([NUMBERS, -NUMBERS[:100], [0.0]])
    expected = np.sign(values) * np.log1p(np.abs(values))
    expected = (expected - expected.mean()) / expected.std()
    encoder = fit("numeric", values.tolist(), scale="log")
    np.testing.assert_allclose(encoder.encode({"x": values})[:, 0], expected, rtol=1e-5, atol=1e-6)


def test_quantile_normal_makes_ranks_those_of_a_bell_curve() -> None:
    encoder = fit("numeric", NUMBERS.tolist(), scale="quantile_normal")
    ranks = np.argsort(np.argsort(NUMBERS))
    shares = (ranks + 0.5) / len(NUMBERS)
    found = encoder.encode({"x": NUMBERS})[:, 0]
    np.testing.assert_allclose(norm.cdf(found), shares, atol=1 / 256)
    assert (np.diff(found[np.argsort(NUMBERS)]) >= 0).all()
    low, high = encoded(encoder, -1e300, 1e300)
    assert low == pytest.approx([norm.ppf(shares.min())], rel=1e-6)
    assert high == pytest.approx([norm.ppf(shares.max())], rel=1e-6)


def test_equal_values_have_the_middle_of_their_ranks() -> None:
    encoder = fit("numeric", [0.0] * 90 + [1.0] * 10, scale="quantile_normal")
    assert encoded(encoder, 0, 1) == [[pytest.approx(norm.ppf(0.45))], [pytest.approx(norm.ppf(0.95))]]


def test_unscaled_numbers_stay_what_they_are() -> None:
    assert encoded(fit("numeric", [1, 2, None], scale="none"), 7, -0.5, None) == [[7], [-0.5], [1.5]]


def test_pixels_are_scaled_together_to_zero_and_one() -> None:
    random = np.random.default_rng(3)
    table: Table = {f"p{j}": random.integers(0, 256 if j else 9, 100).astype(float) for j in range(16)}
    for name in table:
        table[name][:2] = [0, 255]  # type: ignore[index]
    wanted = [Feature(name, "numeric", "numeric", ColumnOptions(scale="min_max")) for name in table]
    encoder = FeatureEncoder.fit(table, wanted, np.arange(100))
    assert encoder.joint_columns == tuple(table)
    pixels = np.column_stack([np.asarray(column) for column in table.values()])
    np.testing.assert_allclose(encoder.encode(table), pixels / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("missing", "stands_at"),
    [("mean", 4), ("median", 2), ({"kind": "constant", "value": 10}, 10), ({"kind": "mean", "indicator": True}, 4)],
)
@pytest.mark.parametrize("scale", ["standard", "min_max", "robust", "quantile_normal", "log", "none"])
def test_a_missing_number_counts_as_what_was_asked_for(missing: object, stands_at: float, scale: str) -> None:
    encoder = fit("numeric", [1, 2, None, 9], scale=scale, missing=missing)
    absent, present = encoded(encoder, None, stands_at)
    assert absent[0] == pytest.approx(present[0], abs=1e-6)
    if isinstance(missing, dict) and missing.get("indicator"):
        assert (absent[1:], present[1:]) == ([1], [0])
    else:
        assert len(absent) == 1


def test_a_missing_value_can_be_refused() -> None:
    for stored, good in (("numeric", 2), ("boolean", True), ("categorical", "a"), ("datetime", "2024-01-01T00:00:00Z")):
        cells = [good, good]
        encoder = fit(stored, cells, missing="error")  # type: ignore[arg-type]
        assert refusal(encoder, None) == "missing_value"
        with pytest.raises(Invalid) as caught:
            encoder.encode({"x": column_of(stored, [good, None])}, first_row=5)  # type: ignore[arg-type]
        assert caught.value.faults[0].pointer == "row 7, column x"
        with pytest.raises(BadData, match="missing"):
            fit(stored, [good, None], missing="error")  # type: ignore[arg-type]


def test_texts_taken_for_numbers_are_read_as_numbers_and_others_are_missing() -> None:
    encoder = fit("text", ["1", " 3 ", "n/a", None, "1_0"], kind="numeric", scale="none")
    assert encoded(encoder, "7", 7, "?", None) == [[7], [7], [2], [2]]
    assert encoder.inputs[0].kind == "numeric"
    assert refusal(encoder, True) == "wrong_type"


# Categories


def test_numbers_taken_for_categories_are_named_as_json_writes_them() -> None:
    encoder = fit("numeric", [10, 9, 2.5, None], kind="categorical")
    assert encoder.inputs[0].categories == ("2.5", "9", "10")
    assert encoded(encoder, 9, 10.0, "2.5", None, 11) == [
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [1, 0, 0, 0],
        [0, 0, 0, 1],
        [0, 0, 0, 0],
    ]
    booleans = fit("boolean", [True, False], kind="categorical")
    assert booleans.inputs[0].categories == ("false", "true")
    assert encoded(booleans, True, "false") == [[0, 1], [1, 0]]
    assert refusal(booleans, 1) == "wrong_type"
    assert refusal(encoder, True) == "wrong_type"


def test_rare_categories_share_a_place_with_unknown_ones() -> None:
    cells = ["a"] * 5 + ["b"] * 5 + ["c", "d", None]
    encoder = fit("categorical", cells, min_count=2)
    assert encoder.inputs[0].categories == ("a", "b")
    rare = [0, 0, 0, 1]
    assert encoded(encoder, "a", None, "c", "never seen") == [[1, 0, 0, 0], [0, 0, 1, 0], rare, rare]
    embedded = fit("categorical", cells, min_count=2, encoding="embedding", width=2)
    assert encoded(embedded, "b", None, "d", "never seen") == [[1], [2], [3], [3]]


def test_ordinal_gives_places_in_the_order_standardized_and_the_mean_to_all_else() -> None:
    cells = ["low", "low", "mid", "high", None, "odd"]
    encoder = fit("categorical", cells, encoding="ordinal", order=["low", "mid", "high"])
    places = np.array([0, 0, 1, 2])
    expected = ((np.arange(3) - places.mean()) / places.std()).tolist()
    found = encoded(encoder, "low", "mid", "high", None, "odd")
    assert [row[0] for row in found] == pytest.approx([*expected, 0, 0], abs=1e-6)
    numbers = fit("numeric", [10, 9], kind="categorical", encoding="ordinal")
    assert encoded(numbers, 9, 10) == [[-1], [1]]


def test_frequency_gives_the_share_of_training_rows_standardized() -> None:
    encoder = fit("categorical", ["a", "a", "a", "b", None], encoding="frequency")
    shares = np.array([0.6, 0.6, 0.6, 0.2, 0.2])
    expected = ((np.array([0.6, 0.2, 0.2, 0.0]) - shares.mean()) / shares.std()).tolist()
    assert [row[0] for row in encoded(encoder, "a", "b", None, "never seen")] == pytest.approx(expected, abs=1e-6)


def test_a_missing_category_can_count_as_a_given_one() -> None:
    encoder = fit("categorical", ["a", "b", None], missing={"kind": "constant", "value": "b"})
    assert encoded(encoder, None, "b", "a") == [[0, 1], [0, 1], [1, 0]]


# Times


def test_times_stand_on_circles_of_the_year_the_week_and_the_day() -> None:
    start = datetime(2023, 1, 1, tzinfo=UTC)
    moments = [(start + timedelta(hours=37 * n)).isoformat() for n in range(400)]
    matrix = fit("datetime", moments).encode({"x": column_of("datetime", moments)})
    for row, text in zip(matrix, moments, strict=True):
        moment = datetime.fromisoformat(text)
        year = datetime(moment.year, 1, 1, tzinfo=UTC)
        length = datetime(moment.year + 1, 1, 1, tzinfo=UTC) - year
        day = (moment.hour + moment.minute / 60) / 24
        turns = [(moment - year) / length, (moment.weekday() + day) / 7, day]
        expected = [f(2 * math.pi * turn) for turn in turns for f in (math.sin, math.cos)]
        assert row[1:].tolist() == pytest.approx(expected, abs=1e-5)
    seconds = column_of("datetime", moments)
    np.testing.assert_allclose(matrix[:, 0], (seconds - np.mean(seconds)) / np.std(seconds), rtol=1e-5)  # type: ignore[arg-type,operator]


def test_a_missing_time_stands_in_the_middle_of_the_circles() -> None:
    cells = ["2024-01-01T00:00:00+00:00", "2024-01-03T00:00:00+00:00", None]
    encoder = fit("datetime", cells, missing={"kind": "mean", "indicator": True})
    assert encoded(encoder, None) == [[0, 0, 0, 0, 0, 0, 0, 1]]
    assert encoded(encoder, "2024-01-02")[0][0] == 0


@pytest.mark.parametrize("cell", ["2024-02-30", "yesterday", "2024", 5, True, "20240101", "2024-01-01T25:00"])
def test_what_is_no_time_is_refused(cell: object) -> None:
    encoder = fit("datetime", ["2024-01-01T00:00:00+00:00"])
    assert refusal(encoder, cell) == "wrong_type"


# All of them


SCALES = st.sampled_from((None, "standard", "min_max", "robust", "quantile_normal", "log", "none"))
INDICATOR = st.booleans()
OF_NUMBERS = st.sampled_from(
    (
        None,
        "mean",
        {"kind": "mean", "indicator": True},
        {"kind": "median", "indicator": True},
        {"kind": "constant", "value": -3.5},
    )
)
OF_CATEGORIES = {
    "encoding": st.sampled_from((None, "one_hot", "ordinal", "frequency", "embedding")),
    "min_count": st.sampled_from((None, 1, 2, 3)),
    "missing": st.sampled_from((None, "category", {"kind": "constant", "value": "a"})),
}
CELLS: dict[ColumnKind, st.SearchStrategy[object]] = {
    "numeric": st.one_of(st.integers(-5, 5), st.floats(-1e6, 1e6)),
    "boolean": st.booleans(),
    "categorical": st.sampled_from(["a", "b", "c", "é", "1.5", "-7"]),
    "text": st.sampled_from(["a", "1", "2e3", " 4 ", "x y", "nan"]),
    "datetime": st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
        lambda moment: moment.replace(microsecond=0).isoformat()
    ),
}


@st.composite
def wanted(draw: st.DrawFn) -> tuple[ColumnKind, dict[str, object], list[object]]:
    """A stored kind, options that fit it, and cells."""
    stored: ColumnKind = draw(st.sampled_from(list(CELLS)))
    kind: FeatureKind = draw(st.sampled_from(TAKEN_FOR[stored]))
    strategies = (
        OF_CATEGORIES
        if kind == "categorical"
        else {"missing": OF_NUMBERS, "scale": SCALES}
        if kind == "numeric"
        else {"missing": st.sampled_from((None, "mean", {"kind": "median", "indicator": True}))}
    )
    options: dict[str, object] = {"kind": kind, **{name: draw(strategy) for name, strategy in strategies.items()}}
    if options.get("encoding") == "embedding":
        options["width"] = 2
    return stored, options, draw(st.lists(st.one_of(st.none(), CELLS[stored]), min_size=1, max_size=12))


@settings(max_examples=400, deadline=None)
@given(wanted(), st.data())
def test_training_and_prediction_agree_for_every_kind_and_option_and_nothing_unknown_or_missing_raises(
    case: tuple[ColumnKind, dict[str, object], list[object]], data: st.DataObject
) -> None:
    stored, options, cells = case
    rows = data.draw(st.lists(st.integers(0, len(cells) - 1), min_size=1, unique=True))
    table: Table = {"x": column_of(stored, cells)}
    encoder = FeatureEncoder.fit(table, [feature(stored, **options)], np.array(sorted(rows), np.intp))
    try:
        matrix = encoder.encode(table)
    except Invalid as error:  # next to tiny deviations in training, other rows can be too far away
        assert {fault.code for fault in error.faults} == {"number_too_large"}  # noqa: PT017
        return
    assert np.isfinite(matrix).all()
    assert matrix.shape == (len(cells), encoder.width)
    np.testing.assert_array_equal(encoder.encode_records([{"x": cell} for cell in cells]), matrix)
    restored = FeatureEncoder.from_document(json.loads(json.dumps(encoder.to_document(), allow_nan=False)))
    assert restored.to_document() == encoder.to_document()
    np.testing.assert_array_equal(restored.encode(table), matrix)
    if encoder.inputs[0].kind == "categorical":
        unknown = {"numeric": 123456, "boolean": True}.get(stored, "never seen")
        assert np.isfinite(encoder.encode_records([[unknown], [None]])).all()
    else:
        assert np.isfinite(encoder.encode_records([[None]])).all()


@pytest.mark.parametrize(
    "broken",
    [
        {"form": "quantile_normal", "values": [1, 1], "normals": [0, 1], "fill": 0},
        {"form": "quantile_normal", "values": [1, 2], "normals": [0], "fill": 0},
        {"form": "numbered", "kind": "categorical", "categories": ["a"], "missing": True, "numbers": [1], "unknown": 0},
        {"form": "times", "mean": 0, "scale": 0, "fill": 0},
        {"form": "something else"},
        {},
    ],
)
def test_a_damaged_column_is_not_taken(broken: dict[str, object]) -> None:
    with pytest.raises(CorruptRecord):
        FeatureEncoder.from_document({"version": 1, "columns": [{"name": "x", **broken}]})


def test_encoders_of_earlier_versions_are_read() -> None:
    columns = [
        {"name": "n", "kind": "numeric", "mean": 1.0, "scale": 2.0, "joint": False},
        {"name": "c", "kind": "categorical", "categories": ["a", "b"], "missing": True},
        {"name": "e", "kind": "categorical", "categories": ["a"], "missing": False, "vector": 3},
    ]
    encoder = FeatureEncoder.from_document({"version": 1, "columns": columns})
    assert encoder.encode_records([[5, "b", "?"], [None, None, "a"]]).tolist() == [[2, 0, 1, 0, 1], [0, 0, 0, 1, 0]]


# Extremes


def test_a_number_too_large_for_a_float_is_an_unknown_category() -> None:
    encoder = fit("numeric", [1, 2], kind="categorical")
    assert encoded(encoder, 10**400, -(10**400)) == [[0, 0], [0, 0]]


@pytest.mark.parametrize("scale", ["standard", "min_max", "robust", "quantile_normal", "log"])
@pytest.mark.parametrize("unit", [1e308, 1e-310])
def test_the_largest_and_the_smallest_floats_become_finite(scale: str, unit: float) -> None:
    values = [-1.5 * unit, -unit, 0.0, unit, 1.5 * unit, None]
    encoder = fit("numeric", values, scale=scale)
    assert np.isfinite(encoder.encode_records([[value] for value in values])).all()


def test_a_column_without_any_value_is_missing_whatever_it_is_stored_as() -> None:
    encoder = fit("numeric", [1.0, 3.0])
    np.testing.assert_array_equal(encoder.encode({"x": code_values([None, None])}), [[0], [0]])


def test_texts_taken_for_times_are_read_as_times_and_others_are_missing() -> None:
    encoder = fit("text", ["2024-01-01", "soon", "2024-01-03"], kind="datetime")
    assert encoded(encoder, "2024-01-02")[0][0] == encoded(encoder, "later")[0][0] == 0
    assert refusal(encoder, 7) == "wrong_type"
