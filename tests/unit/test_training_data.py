"""The rows of a training: the same bits however they are made, in little memory, and refused when they do not do."""

from __future__ import annotations

import math
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.errors import BadData, OutOfMemory
from common.features.encoder import FeatureEncoder
from common.features.feature import Feature
from common.features.split import split_rows
from common.features.table import Coded, Table, code_values
from common.features.target import NumberTarget, fit_target
from common.schemas.columns import FeatureKind
from common.schemas.datasets import Column, Dataset
from common.schemas.models import Task
from common.schemas.training import TrainingRequest
from common.settings import Settings
from common.store.files import DataFolder
from tests.contract import a_dataset
from tests.unit.training import arrays
from worker.training_data import Preparation, PreparedData

KINDS: dict[type[pl.DataType], FeatureKind] = {pl.String: "categorical", pl.Boolean: "boolean"}
Arrays = list[NDArray[Any] | None]


def stored(frame: pl.DataFrame, state: Path) -> Dataset:
    """The frame as a data set of the state directory; its description, as far as a preparation reads it."""
    columns = tuple(
        Column(name=c.name, kind=KINDS.get(type(c.dtype), "numeric"), missing=c.null_count(), distinct=c.n_unique())
        for c in frame
    )
    dataset = a_dataset(columns=columns, rows=len(frame))
    files = DataFolder(state / "data")
    files.prepare()
    frame.write_parquet(files.dataset(dataset.id), compression="zstd")
    return dataset


def preparation(
    dataset: Dataset, task: Task, state: Path, budget: int | None = None, judge: Dataset | None = None, **request: Any
) -> Preparation:
    target, weights = request.setdefault("target", "y"), request.get("weight_column")
    request.setdefault("features", [c.name for c in dataset.columns if c.name not in (target, weights)])
    resolved = TrainingRequest.model_validate({"dataset_id": dataset.id, "training": {"seed": 5}, **request})
    return Preparation(resolved, task, dataset, judge, Settings(state_dir=state, data_memory_bytes=budget))


def same(found: Arrays, expected: Arrays) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def in_one_go(frame: pl.DataFrame, task: Task, request: TrainingRequest) -> Arrays:
    """The arrays by way of whole columns and a whole matrix."""
    assert request.features is not None
    assert request.training.seed is not None
    kinds: list[tuple[str, FeatureKind]] = [
        (name, KINDS.get(type(frame[name].dtype), "numeric")) for name in request.features
    ]
    table: Table = {
        name: code_values(frame[name].to_list())
        if kind == "categorical"
        else np.array([math.nan if cell is None else cell for cell in frame[name].to_list()], np.float64)
        for name, kind in kinds
    }
    labels = frame[request.target].to_list()
    values = (
        code_values(labels)
        if task == "classification"
        else np.array([math.nan if label is None else label for label in labels], np.float64)
    )
    codes = values.codes if isinstance(values, Coded) else np.where(np.isnan(values), -1, 0)
    sides = split_rows(codes, request.validation, request.training.seed)
    wanted = [Feature(name, kind, kind) for name, kind in kinds]
    x = FeatureEncoder.fit(table, wanted, sides[0]).encode(table)
    targets = fit_target(task, values, sides[0]).encode(values)  # type: ignore[arg-type]
    weights = None if request.weight_column is None else frame[request.weight_column].to_numpy().astype(np.float64)
    if weights is not None and weights[sides[0]].any():
        weights = (weights / weights[sides[0]].mean()).astype(np.float32)
    training, validation = ([x[r], targets[r], None if weights is None else weights[r]] for r in sides)
    return [*training, *(validation if len(sides[1]) else training)]


def a_frame(rows: int, seed: int) -> pl.DataFrame:
    """Numbers, texts and booleans, some missing; `y` is a number, `label` a class; `w` weighs, often by nothing."""
    random = np.random.default_rng(seed)

    def gaps(values: NDArray[Any], share: float = 0.1) -> list[Any]:
        return [None if gap else value for gap, value in zip(random.random(rows) < share, values.tolist(), strict=True)]

    return pl.DataFrame(
        {
            "plain": random.normal(size=rows),
            "gaps": pl.Series(gaps(random.normal(7, 3, rows)), dtype=pl.Float64),
            "text": pl.Series(gaps(random.choice(["b", "a", "ü", ""], rows)), dtype=pl.String),
            "whole": random.integers(-5, 300, rows),
            "flag": pl.Series(gaps(random.random(rows) < 0.3), dtype=pl.Boolean),
            "many": pl.Series([f"v{k}" for k in random.integers(0, 30, rows)]),
            **{f"p{k}": random.integers(0, 256, rows).astype(np.uint8) for k in range(17)},
            "y": pl.Series(gaps(random.normal(size=rows)), dtype=pl.Float64),
            "label": pl.Series(gaps(random.integers(0, 3, rows)), dtype=pl.Int64),
            "w": random.integers(0, 3, rows) / 4,
        }
    )


@pytest.fixture(scope="module")
def other() -> Iterator[ProcessPoolExecutor]:
    """Another process, which might be on another machine."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(20, 150),
    st.integers(0, 1000),
    st.sampled_from([("y", "regression"), ("label", "classification")]),
    st.booleans(),
    st.sampled_from(["none", "random"]),
    st.sampled_from([0, None]),
    st.sampled_from([(1 << 21, 1 << 28), (700, 1 << 28), (200, 1 << 28), (1 << 21, 5000), (50, 4000)]),
)
def test_the_rows_are_the_same_bits_however_they_are_made(
    tmp_path: Path,
    rows: int,
    seed: int,
    target: tuple[str, Task],
    weighted: bool,
    validation: str,
    budget: int | None,
    tiles: tuple[int, int],
) -> None:
    frame, (name, task) = a_frame(rows, seed), target
    dataset = stored(frame, tmp_path)
    request: dict[str, Any] = {
        "target": name,
        "weight_column": "w" if weighted else None,
        "validation": validation,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worker.training_data._TILE_CELLS", tiles[0])
        patch.setattr("worker.training_data._STRIPE_BYTES", tiles[1])
        patch.setattr("common.features.table._CELLS", tiles[0])
        plan = preparation(dataset, task, tmp_path, budget, **request)
        expected = in_one_go(frame, task, plan._request)
        assume(all(weights is None or weights.any() for weights in expected[2::3]))
        prepared = plan.prepare()
    assert prepared.has_validation == (validation == "random")
    assert (prepared.data.block_rows is None) == (budget is None)
    same(arrays(prepared.data), expected)
    prepared.data.close()


def elsewhere(plan: Preparation) -> tuple[Arrays, dict[str, object]]:
    prepared = plan.prepare()
    return [None if array is None else array.copy() for array in arrays(prepared.data)], prepared.encoder.to_document()


def test_another_process_makes_the_same_rows_and_keeps_to_the_same_budget(
    tmp_path: Path, other: ProcessPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = stored(a_frame(500, 3), tmp_path)
    plan = preparation(dataset, "classification", tmp_path, target="label", weight_column="w")
    prepared = plan.prepare()
    there, encoder = other.submit(elsewhere, plan).result()
    same(there, arrays(prepared.data))
    assert encoder == prepared.encoder.to_document()
    small = preparation(dataset, "classification", tmp_path, 1, target="label")
    monkeypatch.setenv("CHAINRULE_DATA_MEMORY_BYTES", str(10**9))  # that machine would hold them in memory
    assert small.prepare().data.block_rows is not None


def test_a_set_of_one_row_group_or_many_gives_the_same_rows(tmp_path: Path) -> None:
    frame = a_frame(400, 1)
    dataset = stored(frame, tmp_path)
    one = preparation(dataset, "regression", tmp_path, target="y").prepare()
    frame.write_parquet(DataFolder(tmp_path / "data").dataset(dataset.id), row_group_size=37)
    many = preparation(dataset, "regression", tmp_path, 0, target="y").prepare()
    same(arrays(many.data), arrays(one.data))


# Weights


def weighing(state: Path, weights: list[Any], **request: Any) -> PreparedData:
    frame = pl.DataFrame({"x": [float(k) for k in range(len(weights))], "y": [1.5 * k for k in range(len(weights))]})
    dataset = stored(frame.with_columns(w=pl.Series(weights)), state)
    return preparation(dataset, "regression", state, weight_column="w", **request).prepare()


@pytest.mark.parametrize(
    "weights",
    [
        [0, 2, 1, 0],
        [0.0, 0.25, 3e38, 1e-30],
        [1e300, 2e300, 1.7e308, 0],
        [1e-320, 2e-320, 0, 0],
        [True, False, False, True],
    ],
)
def test_weights_stand_beside_their_rows_and_rows_that_weigh_nothing_are_kept(
    tmp_path: Path, weights: list[Any]
) -> None:
    data = weighing(tmp_path, weights, validation="none").data
    assert data.weights is not None
    np.testing.assert_allclose(data.weights, np.array(weights, np.float64) / np.mean(weights), rtol=1e-6, atol=1e-38)
    assert data.weights.mean() == pytest.approx(1)  # however large or small they were
    assert data.validation_weights is data.weights
    assert len(data.x) == 4


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        ([1.0, None, 1.0, 1.0], "missing"),
        ([1.0, -1e-9, 1.0, 1.0], "negative"),
        (["1", "1", "1", "1"], "text"),
        ([0.0, 0.0, 0.0, 0.0], "training rows are zero"),
    ],
)
def test_weights_that_cannot_weigh_are_refused(tmp_path: Path, weights: list[Any], why: str) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(BadData, match=why):
        weighing(tmp_path, weights, validation="none")
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_validation_rows_that_all_weigh_nothing_are_refused(tmp_path: Path) -> None:
    rows = 40
    validation = split_rows(rows, TrainingRequest(dataset_id="d", target="t").validation, 5)[1]
    weights = [0.0 if row in validation else 1.0 for row in range(rows)]
    with pytest.raises(BadData, match="validation rows are zero"):
        weighing(tmp_path, weights)


# What does not do


@pytest.mark.parametrize(
    "validation",
    [
        {"kind": "random", "fraction": 0.3},
        {"kind": "group", "column": "many", "fraction": 0.3},
        {"kind": "none"},
        {"kind": "dataset"},
    ],
    ids=lambda validation: validation["kind"],
)
def test_the_targets_that_judge_are_at_hand_as_they_stand_in_the_set(
    tmp_path: Path, validation: dict[str, Any]
) -> None:
    zero = pl.when(pl.col("whole") < 100).then(0.0).otherwise(pl.col("y") + 1e6)
    judging, judge = a_frame(90, 4).with_columns(y=zero), None
    frame = a_frame(120, 3).with_columns(y=zero)
    if validation["kind"] == "dataset":
        judge = stored(judging, tmp_path)
        validation = {**validation, "dataset_id": judge.id}
    features = ["plain", "text", "whole"]
    chosen = stored(frame, tmp_path)
    prepare = preparation(chosen, "regression", tmp_path, judge=judge, validation=validation, features=features)
    prepared, numbers = prepare.prepare(), prepare.validation_numbers()
    assert (numbers == 0).sum() > 3
    assert set(numbers) <= set((frame if judge is None else judging)["y"].drop_nulls())
    assert isinstance(prepared.target, NumberTarget)
    np.testing.assert_array_equal(prepared.target.encode(numbers), prepared.data.validation_targets)


def test_rows_that_are_gone_are_told(tmp_path: Path) -> None:
    dataset = stored(a_frame(20, 0), tmp_path)
    DataFolder(tmp_path / "data").dataset(dataset.id).unlink()
    with pytest.raises(BadData, match="gone"):
        preparation(dataset, "regression", tmp_path).prepare()


@pytest.mark.parametrize("tile", [7, 1 << 21])
def test_a_row_far_from_all_others_is_named_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tile: int
) -> None:
    monkeypatch.setattr("worker.training_data._TILE_CELLS", tile)
    validation = split_rows(100, TrainingRequest(dataset_id="d", target="t").validation, 5)[1]
    far = int(validation[-1])
    values = [1e-200 * (row % 2) for row in range(100)]
    values[far] = 1e200
    frame = pl.DataFrame({"a": [1.0, 2.0] * 50, "b": values, "y": [float(row) for row in range(100)]})
    with pytest.raises(BadData, match=f"row {far + 1}, column b is too far"):
        preparation(stored(frame, tmp_path), "regression", tmp_path).prepare()


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_rows_of_another_data_set_judge_encoded_by_what_the_first_one_holds(tmp_path: Path, task: Task) -> None:
    target = "label" if task == "classification" else "y"
    frame = a_frame(300, 1)
    other = a_frame(80, 2).with_columns(label=pl.when(pl.int_range(pl.len()) < 3).then(99).otherwise("label"))
    dataset, judge = stored(frame, tmp_path), stored(other, tmp_path)
    features = [name for name in frame.columns if name not in ("y", "label", "w")]
    request: dict[str, Any] = {"target": target, "features": features, "weight_column": "w"}
    judged = {"kind": "dataset", "dataset_id": judge.id}
    prepared = preparation(dataset, task, tmp_path, judge=judge, **request, validation=judged).prepare()
    alone = preparation(dataset, task, tmp_path, **request, validation={"kind": "none"}).prepare()
    assert prepared.encoder.to_document() == alone.encoder.to_document()
    same(arrays(prepared.data)[:3], arrays(alone.data)[:3])
    known = [row for row, label in enumerate(other[target]) if label is not None and label != 99]
    records = [[other[name][row] for name in features] for row in known]
    np.testing.assert_array_equal(prepared.data.validation_x, prepared.encoder.encode_records(records))
    left_out = len(other) - len(known)
    assert left_out > 0
    assert any(f"{left_out} validation rows have no target" in warning for warning in prepared.warnings)
    prepared.data.close()
    alone.data.close()


def test_whole_numbers_beyond_those_of_floats_are_told_apart_by_splits(tmp_path: Path) -> None:
    ids = [2**53 + row % 3 for row in range(90)]
    frame = pl.DataFrame({"id": ids, "x": [float(row) for row in range(90)], "y": [float(row) for row in range(90)]})
    dataset = stored(frame, tmp_path)
    for validation in ({"kind": "column", "column": "id", "value": 2**53 + 1}, {"kind": "group", "column": "id"}):
        plan = preparation(dataset, "regression", tmp_path, features=["x"], validation=validation)
        prepared = plan.prepare()
        assert len(prepared.data.validation_x) == 30
        judged = {ids[int(value)] for value in plan.validation_numbers()}
        assert len(judged) == 1
        prepared.data.close()


def test_a_target_too_far_from_the_others_is_told_with_its_row(tmp_path: Path) -> None:
    validation = split_rows(100, TrainingRequest(dataset_id="d", target="t").validation, 5)[1]
    far = int(validation[-1])
    targets = [1e-3 * (row % 2) for row in range(100)]
    targets[far] = 1e300
    dataset = stored(pl.DataFrame({"x": [1.0, 2.0] * 50, "y": targets}), tmp_path)
    with pytest.raises(BadData, match=f"target in row {far + 1} is too far"):
        preparation(dataset, "regression", tmp_path).prepare()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"features": ["nothing"]}, "nothing"),
        ({"features": ["note"]}, "note cannot be learned from"),
        ({"target": "nothing", "features": ["x"]}, "nothing"),
        ({"weight_column": "nothing", "features": ["x"]}, "nothing"),
    ],
)
def test_columns_that_are_not_there_or_do_not_do_are_refused(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    dataset = stored(pl.DataFrame({"x": [1.0, 2.0, 3.0], "note": ["a", "b", "c"], "y": [1.0, 2.0, 3.0]}), tmp_path)
    text = dataset.columns[1].model_copy(update={"kind": "text"})
    dataset = dataset.model_copy(update={"columns": (dataset.columns[0], text, dataset.columns[2])})
    with pytest.raises(BadData, match=why):
        preparation(dataset, "regression", tmp_path, **change).prepare()


def test_without_a_scratch_folder_a_set_beyond_the_budget_is_refused_with_what_to_do(tmp_path: Path) -> None:
    dataset = stored(a_frame(50, 0), tmp_path)
    (tmp_path / "scratch").touch()
    with pytest.raises(OutOfMemory) as caught:
        preparation(dataset, "regression", tmp_path, 0).prepare()
    assert "CHAINRULE_DATA_MEMORY_BYTES" in (caught.value.hint or "")
    assert preparation(dataset, "regression", tmp_path).prepare().data.block_rows is None


# Memory


def anonymous() -> int:
    """Bytes of this process's memory that no file backs."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def growth(work: Callable[[], object]) -> int:
    """By how many bytes anonymous memory grows at most while something is done."""
    before = most = anonymous()
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, anonymous())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return most - before


def grows_by(plan: Preparation) -> tuple[int, int, int]:
    """In another process: bytes of the rows, the growth of memory, and how many rows there are."""
    made: list[PreparedData] = []
    grown = growth(lambda: made.append(plan.prepare()))
    data = made[0].data
    return data.handle.shape.size, grown, len(data.x) + len(data.validation_x)


def test_a_set_ten_times_larger_than_the_budget_is_made_in_less_than_100_mb(
    tmp_path: Path, other: ProcessPoolExecutor
) -> None:
    random, rows, columns = np.random.default_rng(0), 96_000, 784
    pixels = {f"p{k}": random.integers(0, 256, rows, np.uint8) for k in range(columns)}
    dataset = stored(pl.DataFrame({**pixels, "y": random.integers(0, 10, rows)}), tmp_path)
    del pixels
    plan = preparation(dataset, "classification", tmp_path, 30_000_000)
    size, grown, count = other.submit(grows_by, plan).result()
    assert size > 300_000_000
    assert count == rows
    assert grown < 100_000_000


@pytest.mark.slow
def test_a_long_set_takes_memory_for_some_columns_of_it(tmp_path: Path, other: ProcessPoolExecutor) -> None:
    random, rows = np.random.default_rng(0), 2_000_000
    frame = pl.DataFrame({f"c{k}": random.normal(size=rows) for k in range(24)})
    dataset = stored(frame.with_columns(y=random.integers(0, 10, rows)), tmp_path)
    del frame
    plan = preparation(dataset, "classification", tmp_path, 10_000_000)
    size, grown, _ = other.submit(grows_by, plan).result()
    assert size > 190_000_000
    assert grown < 6 * 8 * rows + 100_000_000


@pytest.mark.parametrize("column", [None, "w"])
def test_class_weights_multiply_those_of_the_rows(tmp_path: Path, column: str | None) -> None:
    frame = pl.DataFrame({"x": range(40), "w": [1.0, 3.0] * 20, "y": ["rare"] * 10 + ["common"] * 30})
    dataset = stored(frame, tmp_path)
    weigh = {} if column is None else {"weight_column": column}
    made = {}
    for name, weights in (("none", None), ("balanced", "balanced"), ("given", {"rare": 5.0})):
        request: dict[str, Any] = {**weigh, "class_weights": weights, "features": ["x"]}
        prepared = preparation(dataset, "classification", tmp_path, **request).prepare()
        made[name] = [None if array is None else array.copy() for array in arrays(prepared.data)]
        prepared.data.close()
    plain, balanced, given_ = (made[name] for name in ("none", "balanced", "given"))
    training_codes = plain[1]
    assert training_codes is not None
    shares = len(training_codes) / (2 * np.bincount(training_codes))
    for targets, which in ((1, 2), (4, 5)):
        codes, before = plain[targets], plain[which]
        assert codes is not None
        if before is None:
            before = np.ones(len(codes), np.float32)
        for found, factors in ((balanced[which], shares), (given_[which], np.array([1.0, 5.0]))):
            assert found is not None
            np.testing.assert_allclose(found, before * factors[codes], rtol=1e-6)


def test_a_weight_for_a_class_that_is_none_is_told(tmp_path: Path) -> None:
    dataset = stored(pl.DataFrame({"x": range(8), "y": ["a", "b"] * 4}), tmp_path)
    with pytest.raises(BadData, match="class_weights names c, which is no class"):
        preparation(dataset, "classification", tmp_path, class_weights={"c": 2.0}).prepare()


def test_counts_keep_their_zero_and_none_may_be_below_it(tmp_path: Path) -> None:
    frame = pl.DataFrame({"x": range(20), "y": [0, 1, 2, 5] * 5, "below": [-1, 1, 2, 5] * 5})
    dataset = stored(frame, tmp_path)
    request: dict[str, Any] = {"loss": "poisson", "features": ["x"], "validation": "none"}
    prepared = preparation(dataset, "regression", tmp_path, **request).prepare()
    np.testing.assert_allclose(prepared.data.targets[:, 0], np.array([0, 1, 2, 5] * 5) / 2)
    prepared.data.close()
    with pytest.raises(BadData, match="below zero"):
        preparation(dataset, "regression", tmp_path, target="below", **request).prepare()
