"""Columns to numbers and back: the same in training and in prediction, and exact."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import hypothesis
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.preprocessing import StandardScaler

from common.errors import BadData, CorruptRecord, Invalid
from common.features.encoder import FeatureEncoder
from common.features.feature import Feature
from common.features.moments import mean_and_std
from common.features.split import split_rows
from common.features.table import Coded, StoredTable, Table, TableColumn, code_values
from common.features.target import ClassTarget, NumberTarget, fit_target, target_from_document
from common.network.embedding import Embedding
from common.schemas.columns import ColumnOptions, FeatureKind
from common.schemas.training import ColumnSplit, GroupSplit, NoSplit, RandomSplit, TimeSplit

Cells = Sequence[object]


def table_of(columns: dict[str, tuple[FeatureKind, Cells]]) -> Table:
    """Python values, None for missing, as a table."""
    return {
        name: code_values(cells)  # type: ignore[arg-type]
        if kind == "categorical"
        else np.array([math.nan if cell is None else cell for cell in cells], np.float64)
        for name, (kind, cells) in columns.items()
    }


def fit(
    columns: dict[str, tuple[FeatureKind, Cells]], rows: Sequence[int] | None = None, vector: int | None = None
) -> FeatureEncoder:
    """With a `vector`, every other column of texts is embedded."""
    table = table_of(columns)
    count = len(next(iter(table.values())))
    chosen = np.array(range(count) if rows is None else rows, np.intp)
    kinds = {name: kind for name, (kind, _) in columns.items()}
    texts = [name for name, kind in kinds.items() if kind == "categorical"]
    embedded = ColumnOptions(encoding="embedding", width=vector)
    options = {} if vector is None else dict.fromkeys(texts[::2], embedded)
    return FeatureEncoder.fit(table, features(kinds, options), chosen)


def features(kinds: Mapping[str, FeatureKind], options: Mapping[str, ColumnOptions] | None = None) -> list[Feature]:
    """What is wanted of columns that are stored as the kinds that they are taken for."""
    return [Feature(name, kind, kind, (options or {}).get(name, ColumnOptions())) for name, kind in kinds.items()]


def faults_of(encoder: FeatureEncoder, instances: Sequence[object]) -> list[tuple[str, str]]:
    with pytest.raises(Invalid) as caught:
        encoder.encode_records(instances)
    return [(fault.pointer, fault.code) for fault in caught.value.faults]


# Moments


def exact_moments(values: NDArray[np.float64]) -> tuple[float, float]:
    exact = [Fraction(float(value)) for value in values]
    mean = sum(exact, Fraction(0)) / len(exact)
    variance = sum(((value - mean) ** 2 for value in exact), Fraction(0)) / len(exact)
    if variance == 0:
        return float(mean), 0.0
    shift = 0
    while variance * Fraction(4) ** shift < 1:
        shift += 16
    while variance * Fraction(4) ** shift > 2**1000:
        shift -= 16
    return float(mean), math.ldexp(math.sqrt(variance * Fraction(4) ** shift), -shift)


@pytest.mark.parametrize("spread", [1e-6, 1e-3, 1.0])
def test_moments_are_exact_far_from_zero(spread: float) -> None:
    values = 1e9 + spread * np.random.default_rng(0).normal(size=3000)
    mean, std = exact_moments(values)
    assert mean_and_std(values)[0] == pytest.approx(mean, rel=1e-15)
    assert mean_and_std(values)[1] == pytest.approx(std, rel=1e-12)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30))
def test_moments_of_any_floats_are_finite_and_exact(numbers: list[float]) -> None:
    values = np.array(numbers)
    mean, std = mean_and_std(values)
    exact_mean, exact_std = exact_moments(values)
    largest = float(np.abs(values).max())
    assert mean == pytest.approx(exact_mean, rel=1e-12, abs=largest * 1e-15)
    assert std == pytest.approx(exact_std, rel=1e-12, abs=largest * 1e-15)


def test_moments_of_equal_values_are_that_value_and_zero() -> None:
    assert mean_and_std(np.full(7, 0.1)) == (0.1, 0.0)
    assert mean_and_std(np.array([])) == (0.0, 0.0)


# Encoding


def test_numbers_are_scaled_as_scikit_learn_does() -> None:
    values = np.random.default_rng(1).normal(3, 7, (500, 4)) * [1, 1e6, 1e-6, 0]
    values[::7, 1] = np.nan
    table = {f"x{j}": values[:, j] for j in range(4)}
    rows = np.arange(0, 500, 2)
    ours = FeatureEncoder.fit(table, features(dict.fromkeys(table, "numeric")), rows).encode(table)
    oracle = np.nan_to_num(StandardScaler().fit(values[rows]).transform(values))
    np.testing.assert_allclose(ours, oracle, rtol=1e-6, atol=1e-6)
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous


def test_only_training_rows_are_learned_from() -> None:
    columns: dict[str, tuple[FeatureKind, Cells]] = {
        "x": ("numeric", [1.0, 3.0, 1e6]),
        "c": ("categorical", ["b", "a", "z"]),
    }
    encoder = fit(columns, rows=[0, 1])
    assert encoder.inputs[1].categories == ("a", "b")
    np.testing.assert_array_equal(encoder.encode(table_of(columns))[:2], [[-1, 0, 1], [1, 1, 0]])


def test_a_missing_number_stands_at_the_mean_and_a_constant_column_at_zero() -> None:
    encoder = fit({"x": ("numeric", [1.0, None, 3.0]), "k": ("numeric", [5.0] * 3), "none": ("numeric", [None] * 3)})
    matrix = encoder.encode_records([{"x": None, "k": 5, "none": None}, [3, 6, 2]])
    np.testing.assert_array_equal(matrix, [[0, 0, 0], [1, 1, 2]])


def test_a_missing_boolean_stands_at_the_mean() -> None:
    encoder = fit({"b": ("boolean", [True, False, None])})
    np.testing.assert_array_equal(encoder.encode_records([[True], [False], [None]]), [[1], [-1], [0]])


def test_an_unknown_category_is_all_zeros_and_a_missing_one_its_own_if_training_had_it() -> None:
    with_missing = fit({"c": ("categorical", ["b", "a", None])})
    without = fit({"c": ("categorical", ["b", "a", "b"])})
    instances = [["a"], ["b"], [None], ["never seen"]]
    np.testing.assert_array_equal(with_missing.encode_records(instances), [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(without.encode_records(instances), [[1, 0], [0, 1], [0, 0], [0, 0]])
    assert with_missing.inputs[0].categories == ("a", "b")


def test_the_most_frequent_thousand_categories_are_kept() -> None:
    cells = [f"c{i:04}" for i in range(1200)] + ["c1199"]
    encoder = fit({"c": ("categorical", cells)})
    assert encoder.width == 1001  # the others share a place
    assert encoder.inputs[0].categories == (*(f"c{i:04}" for i in range(999)), "c1199")


def test_pixels_are_scaled_together() -> None:
    pixels = load_digits().data
    table: Table = {f"p{j}": pixels[:, j] for j in range(64)} | {"id": np.arange(len(pixels), dtype=float)}
    encoder = FeatureEncoder.fit(table, features(dict.fromkeys(table, "numeric")), np.arange(len(pixels)))
    assert encoder.joint_columns == tuple(f"p{j}" for j in range(64))
    expected = (pixels - pixels.mean()) / pixels.std()
    np.testing.assert_allclose(encoder.encode(table)[:, :64], expected, rtol=1e-6)
    assert np.abs(encoder.encode(table)).max() < 3


@pytest.mark.parametrize(
    ("count", "change"),
    [(15, 0.0), (16, 0.5), (16, -1.0), (16, 256.0)],
    ids=["few", "half", "negative", "large"],
)
def test_columns_that_do_not_look_like_pixels_are_scaled_one_by_one(count: int, change: float) -> None:
    table: Table = {f"p{j}": np.array([0.0, 7.0, 255.0]) for j in range(count)}
    changed = {"p0": np.array([0.0, change, 255.0])}
    encoder = FeatureEncoder.fit({**table, **changed}, features(dict.fromkeys(table, "numeric")), np.arange(3))
    assert encoder.joint_columns == ()


def test_counts_of_unlike_ranges_are_not_pixels() -> None:
    table: Table = {f"n{j}": np.array([0.0, 1.0, 2.0 + j]) for j in range(20)}
    assert FeatureEncoder.fit(table, features(dict.fromkeys(table, "numeric")), np.arange(3)).joint_columns == ()


def test_a_number_too_far_away_for_float32_is_refused_with_its_column() -> None:
    encoder = fit({"x": ("numeric", [1.0, 2.0]), "y": ("numeric", [0.0, 1e-200])})
    with pytest.raises(Invalid, match="column y") as caught:
        encoder.encode({"x": np.array([1.0, 1.0]), "y": np.array([0.0, 1.0])})
    assert caught.value.faults[0].pointer == "row 2, column y"
    assert faults_of(encoder, [[1, 0], [1e300, 1]]) == [
        ("/instances/1/x", "number_too_large"),
        ("/instances/1/y", "number_too_large"),
    ]


def test_a_column_near_the_largest_float_becomes_finite() -> None:
    encoder = fit({"x": ("numeric", [1.7e308, -1.7e308, 1e308])})
    assert np.isfinite(encoder.encode_records([[1.7e308], [-1.7e308], [0]])).all()


def test_the_matrix_may_be_written_to_memory_that_is_there() -> None:
    columns: dict[str, tuple[FeatureKind, Cells]] = {
        "x": ("numeric", [1, 2]),
        "c": ("categorical", ["a", "b"]),
    }
    encoder = fit(columns)
    out = np.full((2, 3), 9, np.float32)
    assert encoder.encode(table_of(columns), out) is out
    np.testing.assert_array_equal(out, [[-1, 1, 0], [1, 0, 1]])
    with pytest.raises(ValueError, match="shape"):
        encoder.encode(table_of(columns), np.empty((3, 3), np.float32))


def test_unusable_columns_are_refused() -> None:
    table = table_of({"x": ("numeric", [1, 2]), "c": ("categorical", ["a", "b"]), "inf": ("numeric", [math.inf, 1])})
    x = features({"x": "numeric"})
    for wanted in (
        [],
        [*x, *x],
        features({"x": "categorical"}),
        features({"c": "numeric"}),
        features({"inf": "numeric"}),
    ):
        with pytest.raises(BadData):
            FeatureEncoder.fit(table, wanted, np.arange(2))
    with pytest.raises(BadData):
        FeatureEncoder.fit(table, x, np.array([], np.intp))


# Records


MIXED: dict[str, tuple[FeatureKind, Cells]] = {
    "age": ("numeric", [1, 2]),
    "member": ("boolean", [True, False]),
    "a/b~c": ("categorical", ["x", "y"]),
}


def test_the_order_of_keys_does_not_matter() -> None:
    encoder = fit(MIXED)
    one = encoder.encode_records([{"age": 1, "member": True, "a/b~c": "y"}])
    np.testing.assert_array_equal(one, encoder.encode_records([{"a/b~c": "y", "member": True, "age": 1}]))
    np.testing.assert_array_equal(one, encoder.encode_records([[1, True, "y"]]))


@pytest.mark.parametrize(
    ("instance", "faults"),
    [
        ({"age": 1, "member": True}, [("/a~1b~0c", "missing_column")]),
        ({"age": 1, "member": True, "a/b~c": "x", "to/o": 1}, [("/to~1o", "unknown_column")]),
        (
            {"age": "1", "member": True, "b": 1},
            [("/a~1b~0c", "missing_column"), ("/b", "unknown_column"), ("/age", "wrong_type")],
        ),
        ([True, True, "x"], [("/age", "wrong_type")]),
        (["1", 1, 1], [("/age", "wrong_type"), ("/member", "wrong_type"), ("/a~1b~0c", "wrong_type")]),
        ([[], {}, []], [("/age", "wrong_type"), ("/member", "wrong_type"), ("/a~1b~0c", "wrong_type")]),
        ([10**400, True, "x"], [("/age", "number_too_large")]),
        ([math.nan, True, "x"], [("/age", "non_finite_number")]),
        ([math.inf, True, True], [("/age", "non_finite_number"), ("/a~1b~0c", "wrong_type")]),
        ([1, True], [("", "wrong_length")]),
        ([1, True, "x", 2], [("", "wrong_length")]),
        ("abc", [("", "wrong_type")]),
        (7, [("", "wrong_type")]),
        (None, [("", "wrong_type")]),
    ],
)
def test_what_is_wrong_with_a_record_is_told_with_a_pointer(instance: object, faults: list[tuple[str, str]]) -> None:
    good = [1, True, "x"]
    expected = [(f"/instances/1{tail}", code) for tail, code in faults]
    assert faults_of(fit(MIXED), [good, instance]) == expected


@pytest.mark.parametrize("cell", [True, "1", math.inf, 10**400])
def test_a_record_of_numbers_only_is_checked_as_well(cell: object) -> None:
    encoder = fit({"x": ("numeric", [1, 2]), "y": ("numeric", [1, 2])})
    assert [pointer for pointer, _ in faults_of(encoder, [[1, cell]])] == ["/instances/0/y"]


def test_faults_of_all_records_are_told_at_once_up_to_a_hundred() -> None:
    encoder = fit({"x": ("numeric", [1, 2])})
    assert faults_of(encoder, [["a"], [1], ["b"]]) == [
        ("/instances/0/x", "wrong_type"),
        ("/instances/2/x", "wrong_type"),
    ]
    assert len(faults_of(encoder, [["a"]] * 500)) == 100
    assert faults_of(encoder, []) == [("/instances", "empty")]


NUMBER = st.one_of(st.none(), st.floats(-1e6, 1e6), st.integers(-1000, 1000))
TEXT = st.one_of(st.none(), st.sampled_from(["", "a", "b", "é", "🙂", "A"]))
BOOLEAN = st.one_of(st.none(), st.booleans())
KINDS: dict[FeatureKind, st.SearchStrategy[object]] = {
    "numeric": NUMBER,
    "categorical": TEXT,
    "boolean": BOOLEAN,
}


@st.composite
def tables(draw: st.DrawFn) -> dict[str, tuple[FeatureKind, Cells]]:
    count = draw(st.integers(1, 12))
    kinds = draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=20))
    return {
        f"c{i}": (kind, draw(st.lists(KINDS[kind], min_size=count, max_size=count))) for i, kind in enumerate(kinds)
    }


@settings(max_examples=150, deadline=None)
@given(tables(), st.sampled_from((None, 3)), st.data())
def test_records_and_columns_give_the_same_bits_and_so_does_a_saved_encoder(
    columns: dict[str, tuple[FeatureKind, Cells]], vector: int | None, data: st.DataObject
) -> None:
    count = len(next(iter(columns.values()))[1])
    rows = data.draw(st.lists(st.integers(0, count - 1), min_size=1, unique=True))
    try:
        encoder = fit(columns, sorted(rows), vector)
        matrix = encoder.encode(table_of(columns))
    except Invalid as error:  # next to tiny deviations in training, other rows can be too far away
        assert {fault.code for fault in error.faults} == {"number_too_large"}  # noqa: PT017
        return
    records = [{name: cells[row] for name, (_, cells) in columns.items()} for row in range(count)]
    assert np.isfinite(matrix).all()
    assert matrix.shape == (count, encoder.width)
    np.testing.assert_array_equal(encoder.encode_records(records), matrix)
    np.testing.assert_array_equal(encoder.encode_records([list(r.values()) for r in records[:1]]), matrix[:1])
    saved = json.loads(json.dumps(encoder.to_document(), allow_nan=False))
    restored = FeatureEncoder.from_document(saved)
    assert restored.to_document() == encoder.to_document()
    assert restored.inputs == encoder.inputs
    np.testing.assert_array_equal(restored.encode(table_of(columns)), matrix)


def test_an_embedded_column_becomes_the_numbers_of_its_categories() -> None:
    cells: Cells = ["b", "a", None, "b", "z"]
    encoder = fit({"x": ("numeric", [1.0, 2.0, 3.0, 4.0, 5.0]), "zip": ("categorical", cells)}, [0, 1, 2, 3], vector=4)
    assert encoder.width == 2
    assert encoder.embeddings == (Embedding(place=1, categories=4, width=4),)
    matrix = encoder.encode(table_of({"x": ("numeric", [0.0] * 5), "zip": ("categorical", cells)}))
    assert matrix[:, 1].tolist() == [1, 0, 2, 1, 3]
    assert encoder.inputs[1].categories == ("a", "b")
    without = fit({"zip": ("categorical", ["b", "a"])}, vector=4)
    assert without.encode_records([[None], ["a"], ["?"]])[:, 0].tolist() == [2, 0, 2]  # a gap is as unknown


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"version": 2, "columns": []},
        {"version": 1, "columns": []},
        {"version": 1, "columns": [{"name": "x", "kind": "numeric", "mean": 0.0, "scale": 0.0}]},
        {"version": 1, "columns": [{"name": "x", "kind": "numeric", "mean": "0", "scale": 1.0}]},
        {"version": 1, "columns": [{"name": "x", "kind": "numeric", "mean": math.nan, "scale": 1.0}]},
        {"version": 1, "columns": [{"name": "x", "kind": "pickled"}]},
    ],
)
def test_a_damaged_document_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(CorruptRecord):
        FeatureEncoder.from_document(document)


def test_rows_are_encoded_in_chunks_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    table: Table = {f"x{j}": np.random.default_rng(j).normal(size=101) for j in range(3)}
    encoder = FeatureEncoder.fit(table, features(dict.fromkeys(table, "numeric")), np.arange(101))
    whole = encoder.encode(table)
    monkeypatch.setattr("common.features.encoder._CHUNK_CELLS", 30)
    np.testing.assert_array_equal(encoder.encode(table), whole)


@settings(max_examples=100, deadline=None)
@given(tables(), st.integers(1, 60))
def test_parts_of_an_encoder_make_the_parts_of_its_matrix(
    columns: dict[str, tuple[FeatureKind, Cells]], numbers: int
) -> None:
    encoder, table = fit(columns), table_of(columns)
    whole, names = encoder.encode(table), list[str]()
    found = np.full_like(whole, np.nan)
    for places, part_names, part in encoder.parts(numbers):
        assert part.width <= max(numbers, encoder.widest)
        assert part.width <= numbers or len(part_names) == 1
        found[:, places] = part.encode({name: table[name] for name in part_names})
        names += part_names
    np.testing.assert_array_equal(found, whole)
    assert names == list(columns)


def test_the_rows_of_a_part_of_a_table_keep_their_numbers() -> None:
    encoder = fit({"y": ("numeric", [0.0, 1e-200])})
    with pytest.raises(Invalid) as caught:
        encoder.encode({"y": np.array([0.0, 1.0])}, first_row=40)
    assert caught.value.faults[0].pointer == "row 42, column y"


# Tables


def test_a_stored_table_comes_back_as_numbers_and_codes(tmp_path: Path) -> None:
    frame = pl.DataFrame({"n": [1, None, 3], "f": [0.5, None, 2.5], "b": [True, None, False], "c": ["y", None, "x"]})
    frame = frame.with_columns(
        pl.lit("2020-01-01").str.to_date().alias("day"),
        pl.Series("at", ["1970-01-01T00:00:01.5Z", None, "1969-12-31T23:00:00Z"]).str.to_datetime(time_zone="UTC"),
        pl.Series("odd", [[1], [2], [3]]),
    )
    frame.write_parquet(tmp_path / "t.parquet")
    table = StoredTable(tmp_path / "t.parquet", ["c", "b", "f", "n"])
    assert table.rows == 3
    assert len(table) == 4
    assert list(table) == ["c", "b", "f", "n"]
    np.testing.assert_array_equal(table["n"], [1, math.nan, 3])
    np.testing.assert_array_equal(table["b"], [1, math.nan, 0])
    column = table["c"]
    assert isinstance(column, Coded)
    assert column.values == ("x", "y")
    assert column.codes.tolist() == [1, -1, 0]
    np.testing.assert_array_equal(table.read(["day"])["day"], [1577836800.0] * 3)
    np.testing.assert_array_equal(table.read(["at"])["at"], [1.5, math.nan, -3600])
    for name in ("odd", "nowhere"):
        with pytest.raises(BadData, match=name):
            StoredTable(tmp_path / "t.parquet", [name])[name]
        with pytest.raises(BadData, match=name):
            table.read([name])


@pytest.mark.parametrize("cells", [1, 7, 1 << 20])
def test_columns_are_read_by_their_own_names_however_many_are_read_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: int
) -> None:
    monkeypatch.setattr("common.features.table._CELLS", cells)
    names = ["*", "^a.*$", "ab", "[x]", "", "é", "a b"]
    frame = pl.DataFrame({name: np.array([place, place + 0.5]) for place, name in enumerate(names)})
    frame.write_parquet(tmp_path / "[t]*.parquet")
    table = StoredTable(tmp_path / "[t]*.parquet", names)
    for place in [*range(7), 6, 3, 0, 5]:
        np.testing.assert_array_equal(table[names[place]], [place, place + 0.5])
    read = table.read(names[::-1], 1, 2)
    assert list(read) == names[::-1]
    np.testing.assert_array_equal([read[name] for name in names], [[place + 0.5] for place in range(7)])


@given(st.lists(st.sampled_from(["b", "", "a", "🙂", None]) | st.none(), max_size=40), st.data())
def test_a_part_of_the_rows_is_that_part_of_the_column(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str | None], data: st.DataObject
) -> None:
    numbers = [None if text is None else float(len(text) + place) for place, text in enumerate(texts)]
    file = tmp_path_factory.mktemp("rows") / "t.parquet"
    columns = {"t": pl.Series(texts, dtype=pl.String), "n": pl.Series(numbers, dtype=pl.Float64)}
    pl.DataFrame(columns).write_parquet(file, row_group_size=7)
    table = StoredTable(file, ["t", "n"])
    stop = data.draw(st.integers(0, len(texts)))
    start = data.draw(st.integers(0, stop))
    read = table.read(["t", "n"], start, stop)
    coded, labels = read["t"], table.labels("n", start, stop)
    assert isinstance(coded, Coded)
    assert [None if code < 0 else coded.values[code] for code in coded.codes] == texts[start:stop]
    assert list(coded.values) == sorted({text for text in texts[start:stop] if text is not None})
    assert [None if code < 0 else labels.values[code] for code in labels.codes] == numbers[start:stop]
    np.testing.assert_array_equal(read["n"], np.array(numbers[start:stop], np.float64))


def test_labels_keep_their_type(tmp_path: Path) -> None:
    frame = pl.DataFrame({"i": [7, None, -3], "b": [True, False, None], "s": ["b", "a", "b"], "w": [2.0, 1.0, None]})
    frame.with_columns(f=pl.Series([0.5, 1.0, 2.0])).write_parquet(tmp_path / "t.parquet")
    table = StoredTable(tmp_path / "t.parquet", [])
    labels = {name: table.labels(name) for name in "ibsw"}
    assert {name: coded.values for name, coded in labels.items()} == {
        "i": (-3, 7),
        "b": (False, True),
        "s": ("a", "b"),
        "w": (1, 2),
    }
    assert labels["i"].codes.tolist() == [1, -1, 0]
    assert [type(coded.values[0]) for coded in labels.values()] == [int, bool, str, int]
    with pytest.raises(BadData, match="not whole"):
        table.labels("f")


# Targets


@pytest.mark.parametrize("labels", [["b", "a", None, "b"], [True, False, True], [10, -2, 10, None, 3]])
def test_classes_are_sorted_and_keep_their_type(labels: list[str | bool | int | None]) -> None:
    values = code_values(labels)
    target = fit_target("classification", values, np.array([0]))
    assert isinstance(target, ClassTarget)
    assert target.classes == tuple(sorted({label for label in labels if label is not None}))
    codes = target.encode(values).tolist()
    assert [None if code < 0 else target.decode(code) for code in codes] == labels
    assert [type(target.decode(c)) for c in codes if c >= 0] == [type(v) for v in labels if v is not None]
    restored = target_from_document(json.loads(json.dumps(target.to_document())))
    assert restored == target
    assert list(map(type, restored.classes)) == list(map(type, target.classes))


def test_an_unknown_label_has_no_class() -> None:
    target = ClassTarget.fit(code_values(["a", "b"]))
    assert target.encode(code_values(["b", "z", None])).tolist() == [1, -1, -1]


def test_a_target_of_one_class_or_none_is_refused() -> None:
    for labels in (["a", "a", None], [None], []):
        with pytest.raises(BadData):
            ClassTarget.fit(code_values(labels))


@given(st.lists(st.floats(-1e100, 1e100), min_size=2, max_size=20))
def test_numbers_survive_scaling_and_back(numbers: list[float]) -> None:
    values = np.array(numbers)
    target = NumberTarget.fit(values, np.arange(len(values)))
    scaled = target.encode(values, np.float64)
    assert scaled.shape == (len(values), 1)
    np.testing.assert_allclose(
        target.decode(scaled)[:, 0], values, rtol=1e-12, atol=max(1e-14 * np.abs(values).max(), 1e-300)
    )
    assert target_from_document(json.loads(json.dumps(target.to_document()))) == target


def test_a_number_target_is_scaled_by_training_rows_and_a_constant_one_by_one() -> None:
    values = np.array([1.0, 3.0, math.nan, 1e9])
    target = fit_target("regression", values, np.array([0, 1, 2]))
    assert isinstance(target, NumberTarget)
    encoded = target.encode(values)
    assert encoded.dtype == np.float32
    np.testing.assert_array_equal(encoded[:3, 0], [-1, 1, math.nan])
    assert NumberTarget.fit(np.full(3, 4.0), np.arange(3)) == NumberTarget(mean=4.0, scale=1.0)


def test_targets_that_do_not_fit_the_task_or_hold_nothing_are_refused() -> None:
    rows = np.array([0])
    with pytest.raises(BadData):
        fit_target("classification", np.array([1.0]), rows)
    with pytest.raises(BadData):
        fit_target("regression", code_values(["a"]), rows)
    for value in (math.nan, math.inf):
        with pytest.raises(BadData):
            NumberTarget.fit(np.array([value]), rows)
    for document in ({}, {"task": "regression", "mean": 0.0}, {"task": "classification", "classes": ["a"]}):
        with pytest.raises(CorruptRecord):
            target_from_document(document)


# Splits


@given(
    st.lists(st.integers(-1, 4), min_size=2, max_size=200).map(lambda codes: np.array(codes, np.int64)),
    st.floats(0.001, 0.999),
    st.booleans(),
    st.integers(0, 2**63 - 1),
)
def test_a_split_is_a_partition_of_the_labelled_rows_true_to_each_class(
    codes: NDArray[np.int64], fraction: float, stratify: bool, seed: int
) -> None:
    known = np.flatnonzero(codes >= 0)
    validation = RandomSplit(fraction=fraction, stratify=stratify)
    if len(known) < 2 or (stratify and np.bincount(codes[known]).max() < 2):
        with pytest.raises(BadData):
            split_rows(codes, validation, seed)
        return
    training_rows, validation_rows = split_rows(codes, validation, seed)
    assert sorted([*training_rows, *validation_rows]) == known.tolist()
    assert len(training_rows) > 0
    assert len(validation_rows) > 0
    again = split_rows(codes, validation, seed)
    np.testing.assert_array_equal(again[0], training_rows)
    np.testing.assert_array_equal(again[1], validation_rows)
    for code in np.unique(codes[known]) if stratify else ():
        count, drawn = int((codes == code).sum()), int((codes[validation_rows] == code).sum())
        assert abs(drawn - fraction * count) <= 1 + 1e-9
        assert drawn < count


@given(st.lists(st.integers(-1, 3), min_size=2, max_size=200), st.booleans(), st.integers(0, 1000))
def test_the_first_rows_of_a_shuffle_are_drawn_class_by_class(codes: list[int], stratify: bool, seed: int) -> None:
    known = [row for row, code in enumerate(codes) if code >= 0]
    groups = [[row for row in known if codes[row] == code] for code in range(4)] if stratify else [known]
    counts = [min(int(len(group) * 0.3 + 0.5), max(len(group) - 1, 0)) for group in groups]
    hypothesis.assume(sum(counts) > 0)
    shuffled = [known[place] for place in np.random.default_rng([seed, 0x5B117]).permutation(len(known))]
    expected = sorted(
        row
        for group, count in zip(groups, counts, strict=True)
        for row in [row for row in shuffled if row in group][:count]
    )
    for piece in (3, 1 << 16):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("common.features.split._PIECE", piece)
            drawn = split_rows(np.array(codes), RandomSplit(fraction=0.3, stratify=stratify), seed)[1]
        assert drawn.tolist() == expected


def test_every_row_is_drawn_as_often_as_any_other_and_seeds_differ() -> None:
    times = np.zeros(20)
    for seed in range(2000):
        times[split_rows(20, RandomSplit(fraction=0.25), seed)[1]] += 1
    assert np.abs(times - 500).max() < 100  # five standard deviations


GROUPED = st.one_of(
    st.lists(st.one_of(st.none(), st.sampled_from("abcde")), min_size=2, max_size=60),
    st.lists(st.one_of(st.none(), st.integers(-3, 3)), min_size=2, max_size=60),
)


def cells_of(values: Sequence[object]) -> TableColumn:
    if any(isinstance(value, str) for value in values):
        return code_values(values)  # type: ignore[arg-type]
    return np.array([math.nan if value is None else value for value in values], np.float64)


@given(GROUPED, st.floats(0.01, 0.99), st.integers(0, 1000))
def test_groups_are_never_torn_apart(values: list[object], fraction: float, seed: int) -> None:
    split = GroupSplit(column="g", fraction=fraction)
    column = cells_of(values)
    if len({value for value in values if value is not None}) + values.count(None) < 2:
        with pytest.raises(BadData, match="no row to learn from"):
            split_rows(len(values), split, seed, column)
        return
    training_rows, validation_rows = split_rows(len(values), split, seed, column)
    assert sorted([*training_rows, *validation_rows]) == list(range(len(values)))
    sides = [{values[row] for row in rows} - {None} for rows in (training_rows, validation_rows)]
    assert not sides[0] & sides[1]
    assert min(len(training_rows), len(validation_rows)) > 0
    np.testing.assert_array_equal(split_rows(len(values), split, seed, column)[1], validation_rows)


def test_groups_come_near_to_the_fraction() -> None:
    groups = np.random.default_rng(1).integers(0, 300, 3000).astype(float)
    shares = [len(split_rows(3000, GroupSplit(column="g", fraction=0.2), seed, groups)[1]) / 3000 for seed in range(20)]
    assert np.abs(np.array(shares) - 0.2).max() < 0.005
    assert len({tuple(split_rows(3000, GroupSplit(column="g"), seed, groups)[1]) for seed in range(5)}) == 5


@given(st.lists(st.one_of(st.none(), st.integers(-5, 5)), min_size=2, max_size=60), st.floats(0.01, 0.99))
def test_the_latest_rows_judge_and_none_of_them_is_earlier_than_one_learned_from(
    times: list[int | None], fraction: float
) -> None:
    split = TimeSplit(column="t", fraction=fraction)
    known = [time for time in times if time is not None]
    if len(set(known)) < 2 and not (known and None in times):
        with pytest.raises(BadData):
            split_rows(len(times), split, 0, cells_of(times))
        return
    column = np.asarray(cells_of(times))
    training_rows, validation_rows = split_rows(len(times), split, 0, column)
    latest = column[validation_rows]
    assert not np.isnan(latest).any()
    assert not (column[training_rows] >= latest.min()).any()
    assert sorted([*training_rows, *validation_rows]) == list(range(len(times)))


@pytest.mark.parametrize(
    ("values", "value"),
    [(["a", "b", None, "b"], "b"), ([0, 2, None, 2], 2.0), ([False, True, None, True], True)],
)
def test_the_rows_that_have_the_value_judge(values: list[object], value: bool | float | str) -> None:
    column = cells_of(values)
    training_rows, validation_rows = split_rows(4, ColumnSplit(column="c", value=value), 0, column)
    assert (training_rows.tolist(), validation_rows.tolist()) == ([0, 2], [1, 3])
    for wrong in ("z", 7.0):
        with pytest.raises(BadData):
            split_rows(4, ColumnSplit(column="c", value=wrong), 0, column)


def test_without_validation_all_labelled_rows_are_learned_from() -> None:
    training_rows, validation_rows = split_rows(np.array([0, -1, 2]), NoSplit(), 0)
    assert training_rows.tolist() == [0, 2]
    assert validation_rows.tolist() == []


def test_a_split_that_leaves_a_side_empty_is_refused() -> None:
    for rows, validation in ((1, RandomSplit()), (0, NoSplit()), (0, RandomSplit())):
        with pytest.raises(BadData):
            split_rows(rows, validation, 0)
    assert [len(side) for side in split_rows(2, RandomSplit(fraction=0.01), 0)] == [1, 1]
    assert [len(side) for side in split_rows(2, RandomSplit(fraction=0.99), 0)] == [1, 1]
