"""A training request against its data set: what is filled in, what is refused, and where."""

from __future__ import annotations

import time
from typing import Any

import pytest

from common.errors import NotFound
from common.network.structure import parameter_count
from common.schemas.datasets import Column, Dataset, Frequent
from common.schemas.models import Model
from common.schemas.training import TrainingRequest
from common.settings import Settings
from service.submission import Assessment, assess
from tests.contract import FULL_FORM, a_dataset


def number(name: str, distinct: int = 90, *, integer: bool = False, missing: int = 0) -> Column:
    return Column(name=name, kind="numeric", missing=missing, distinct=distinct, integer=integer)


def words(name: str, distinct: int = 3, missing: int = 0) -> Column:
    return Column(name=name, kind="categorical", missing=missing, distinct=distinct)


FLOWERS = (
    number("length"),
    words("colour", 4, missing=2),
    Column(name="wild", kind="boolean", missing=0, distinct=2),
    words("species"),
)
ODD = (
    *FLOWERS,
    Column(name="note", kind="text", missing=0, distinct=100),
    Column(name="day", kind="datetime", missing=0, distinct=100),
    number("petals", 5, integer=True),
    number("seeds", 21, integer=True),
    number("constant", 1),
    number("half", 2),
    words("only", 1),
    words("many", 10_001),
    words("gaps", 3, missing=40),
)
WEIGHED = (
    *FLOWERS,
    number("weight", 9).model_copy(update={"min": 0.0, "max": 2.5, "mean": 1.0}),
    number("below", 9).model_copy(update={"min": -1e-9, "max": 2.5, "mean": 1.0}),
    number("nothing", 1).model_copy(update={"min": 0.0, "max": 0.0, "mean": 0.0}),
    number("alike", 1).model_copy(update={"min": 0.5, "max": 0.5, "mean": 0.5}),
    number("gaps", 9, missing=1).model_copy(update={"min": 0.0, "max": 2.5, "mean": 1.0}),
    Column(name="never", kind="boolean", missing=0, distinct=1, mean=0.0),
    Column(name="always", kind="boolean", missing=0, distinct=1, mean=1.0),
    Column(name="note", kind="text", missing=0, distinct=100),
    Column(name="day", kind="datetime", missing=0, distinct=100),
)
WEIGHED_DATA = a_dataset("weighed", WEIGHED)
FLOWER_DATA = a_dataset("Flowers of 2020", FLOWERS)
ODD_DATA = a_dataset("odd", ODD)


def no_model(_: str) -> Model:
    raise NotFound("none")


def judge(dataset: Dataset = FLOWER_DATA, settings: Settings | None = None, **request: Any) -> Assessment:
    body = {"dataset_id": dataset.id, "target": "species", **request}

    def find(identifier: str) -> Dataset:
        assert identifier == dataset.id
        return dataset

    return assess(body, find, no_model, settings or Settings(), lambda: 12345)


def resolved(dataset: Dataset = FLOWER_DATA, **request: Any) -> TrainingRequest:
    found = judge(dataset, **request)
    assert found.faults == []
    assert found.request is not None
    return found.request


def told(found: Assessment) -> list[tuple[str, str]]:
    assert found.request is None
    return [(fault.pointer, fault.code) for fault in found.faults]


# What is filled in


def test_a_minimal_request_comes_back_in_full() -> None:
    request = resolved()
    assert request.task == "classification"
    assert request.features == ("length", "colour", "wild")
    assert request.loss is not None
    assert request.loss.kind == "cross_entropy"
    assert request.model_name == "flowers-of-2020"
    assert (request.training.batch_size, request.training.seed) == (32, 12345)
    assert TrainingRequest.model_validate(request.model_dump(mode="json")) == request


def test_the_full_form_is_taken_and_only_what_it_leaves_open_is_filled_in() -> None:
    request = resolved(**{**FULL_FORM, "dataset_id": FLOWER_DATA.id})
    wanted: dict[str, Any] = {**FULL_FORM, "dataset_id": FLOWER_DATA.id, "task": "classification"}
    wanted["features"] = ["length", "colour", "wild"]
    wanted["training"] = {"epochs": 100, "batch_size": 32, "shuffle": True, "seed": 12345, "reproducible": False}
    assert request.model_dump(mode="json") == wanted


def test_what_is_given_is_kept() -> None:
    request = resolved(
        features=["wild", "length"],
        task="classification",
        model_name="mine",
        name="Other",
        training={"batch_size": 7, "seed": 0},
    )
    assert request.features == ("wild", "length")
    assert (request.training.batch_size, request.training.seed) == (7, 0)
    assert request.model_name == "mine"


@pytest.mark.parametrize(
    ("name", "dataset", "model"),
    [("Big Job", "data", "big-job"), (None, "My Data", "my-data"), ("🙂", "data", "data"), ("名", "名", "model")],
)
def test_a_model_is_named_after_the_job_or_the_data_set(name: str | None, dataset: str, model: str) -> None:
    assert resolved(a_dataset(dataset, FLOWERS), name=name).model_name == model


@pytest.mark.parametrize(
    ("target", "task"),
    [
        ("species", "classification"),
        ("wild", "classification"),
        ("petals", "classification"),
        ("seeds", "regression"),
        ("length", "regression"),
        ("half", "regression"),
    ],
)
def test_the_task_follows_from_the_target(target: str, task: str) -> None:
    found = judge(ODD_DATA, target=target)
    assert (found.faults, found.task) == ([], task)
    assert found.request is not None
    assert found.request.task == task
    assert found.request.loss is not None
    assert found.request.loss.kind == ("mse" if task == "regression" else "cross_entropy")


def test_a_task_that_is_given_goes_before_the_rule() -> None:
    assert resolved(ODD_DATA, target="petals", task="regression").task == "regression"
    found = judge(ODD_DATA, target="seeds", task="classification")
    assert (found.faults, found.classes) == ([], 21)


@pytest.mark.parametrize(
    ("rows", "batch"), [(2, 32), (1_999, 32), (2_000, 128), (19_999, 128), (20_000, 256), (10**9, 256)]
)
def test_the_batch_grows_with_the_rows(rows: int, batch: int) -> None:
    assert resolved(a_dataset(columns=FLOWERS, rows=rows)).training.batch_size == batch


def test_a_dry_run_counts_what_the_job_would_come_to() -> None:
    found = judge(network={"layers": [{"kind": "dense", "units": 8}]})
    assert (found.rows, found.features, found.classes) == (100, 1 + 5 + 1, 3)
    assert found.parameters == 7 * 8 + 8 + 8 * 3 + 3
    assert found.request is not None
    assert found.parameters == parameter_count(found.request.network, 7, 3)
    assert found.memory_bytes is not None
    assert found.memory_bytes > 4 * found.parameters


def test_a_network_for_numbers_has_one_output() -> None:
    found = judge(target="length", network={"layers": [{"kind": "dense", "units": 2}]})
    assert (found.classes, found.features) == (None, 5 + 1 + 3)
    assert found.parameters == 9 * 2 + 2 + 2 * 1 + 1


def test_columns_that_cannot_be_learned_from_are_left_out_and_told_of() -> None:
    found = judge(ODD_DATA)
    assert found.request is not None
    assert "note" not in (found.request.features or ())
    assert any("column note: text of too many" in warning for warning in found.warnings)
    taken = judge(ODD_DATA, columns={"note": {"kind": "categorical"}})
    assert taken.request is not None
    assert "note" in (taken.request.features or ())
    assert taken.request.columns["note"].encoding is None  # 100 different values at most: one input for each
    assert not any("too many" in warning for warning in taken.warnings)


def test_rows_without_a_target_are_left_out_and_told_of() -> None:
    found = judge(ODD_DATA, target="gaps")
    assert found.rows == 60
    assert any("40 rows have no target" in warning for warning in found.warnings)


def test_a_constant_target_of_numbers_is_told_of() -> None:
    found = judge(ODD_DATA, target="constant")
    assert found.faults == []
    assert any("same value in every row" in warning for warning in found.warnings)


def test_uneven_classes_and_ids_among_the_features_are_warned_of() -> None:
    def told(counts: tuple[int, int], **request: Any) -> tuple[str, ...]:
        top = tuple(Frequent(value=value, count=count) for value, count in zip("ab", counts, strict=True))
        target = words("species", 2).model_copy(update={"top": top})
        columns = (number("length", 1000), number("number", 960, integer=True), target)
        dataset = a_dataset("flowers", columns).model_copy(update={"rows": 1000})
        return tuple(judge(dataset, **request).warnings)

    uneven = "column species: the smallest class has 9 of 1,000 rows, the largest 991"
    told_of_id = told((500, 500))
    assert [warning.split(":")[0] for warning in told_of_id] == ["column number"]
    assert told((991, 9)) == (uneven, *told_of_id)
    assert told((990, 10), features=["length"]) == ()


def test_a_column_of_many_categories_is_embedded_and_the_request_shows_how() -> None:
    dataset = a_dataset(columns=(number("length"), words("zip", 101, missing=1), words("few", 100), words("species")))
    found = judge(dataset, network={"layers": [{"kind": "dense", "units": 2}]})
    assert found.request is not None
    assert set(found.request.columns) == {"zip"}
    width = found.request.columns["zip"].width
    assert width == 21
    assert found.features == 1 + 1 + 100
    assert found.parameters == 103 * width + (1 + 100 + width) * 2 + 2 + 2 * 3 + 3
    again = resolved(dataset, **found.request.model_dump(mode="json", exclude={"dataset_id", "target"}))
    assert again == found.request
    plain = resolved(dataset, columns={"zip": {"encoding": "one_hot"}, "few": {"encoding": "embedding", "width": 5}})
    assert plain.columns["zip"].encoding == "one_hot"
    assert plain.columns["few"].width == 5


def test_adamw_decays_unless_it_is_told_not_to() -> None:
    assert resolved(optimizer="adamw").regularization.weight_decay == 0.01
    assert resolved(optimizer="adamw", regularization={"weight_decay": 0.0}).regularization.weight_decay == 0
    assert resolved(optimizer="adamw", regularization={"weight_decay": 0.3}).regularization.weight_decay == 0.3
    assert resolved(optimizer="adam").regularization.weight_decay == 0


@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "quantile", "poisson"])
def test_every_loss_of_numbers_suits_a_target_of_numbers(loss: str) -> None:
    request = resolved(target="length", loss=loss)
    assert request.loss is not None
    assert request.loss.kind == loss
    outputs = 3 if loss == "quantile" else 1
    found = judge(target="length", loss=loss, network={"layers": [{"kind": "dense", "units": 2}]})
    assert found.parameters == 9 * 2 + 2 + (2 + 1) * outputs


def test_counts_are_not_below_zero_and_not_all_zero() -> None:
    for least, most, allowed in ((0.0, 5.0, True), (-1.0, 5.0, False), (0.0, 0.0, False)):
        counts = number("visits", 30, integer=True).model_copy(update={"min": least, "max": most})
        found = judge(a_dataset(columns=(*FLOWERS, counts)), target="visits", loss="poisson")
        assert [fault.code for fault in found.faults] == ([] if allowed else ["unsuitable_loss"])


# What is refused


@pytest.mark.parametrize(
    ("request_", "faults"),
    [
        ({"target": "Species"}, [("/target", "unknown_column")]),
        ({"target": "M4RKER"}, [("/target", "unknown_column")]),
        ({"target": "day"}, [("/target", "unsuitable_target")]),
        ({"target": "note"}, [("/target", "unsuitable_target")]),
        ({"target": "only"}, [("/target", "one_class")]),
        ({"target": "many"}, [("/target", "too_many_classes")]),
        ({"target": "length", "task": "classification"}, [("/task", "unsuitable_target")]),
        ({"task": "regression"}, [("/task", "unsuitable_target")]),
        ({"target": "wild", "task": "regression"}, [("/task", "unsuitable_target")]),
        ({"loss": "mse"}, [("/loss", "unsuitable_loss")]),
        ({"target": "length", "loss": "cross_entropy"}, [("/loss", "unsuitable_loss")]),
        ({"target": "length", "loss": "quadratic"}, [("/loss", "unsuitable_loss")]),
        ({"loss": "poisson"}, [("/loss", "unsuitable_loss")]),
        ({"target": "length", "class_weights": "balanced"}, [("/class_weights", "unsuitable_weight")]),
        ({"class_weights": {"a": 0}}, [("/class_weights", "unsuitable_weight")]),
        ({"columns": {"nope": {"encoding": "one_hot"}}}, [("/columns/nope", "unknown_column")]),
        ({"columns": {"length": {"encoding": "embedding"}}}, [("/columns/length", "unsuitable_column")]),
        (
            {"columns": {"colour": {"encoding": "one_hot", "width": 3}}},
            [("/columns/colour/width", "unsuitable_column")],
        ),
        ({"columns": {"length": {"kind": "datetime"}}}, [("/columns/length/kind", "unsuitable_column")]),
        ({"columns": {"colour": {"scale": "log"}}}, [("/columns/colour/scale", "unsuitable_column")]),
        ({"columns": {"colour": {"missing": "mean"}}}, [("/columns/colour/missing", "unsuitable_column")]),
        ({"columns": {"colour": {"missing": "error"}}}, [("/columns/colour/missing", "missing_values")]),
        ({"columns": {"length": {"missing": "category"}}}, [("/columns/length/missing", "unsuitable_column")]),
        (
            {"columns": {"length": {"missing": {"kind": "constant", "value": "long"}}}},
            [("/columns/length/missing", "unsuitable_column")],
        ),
        (
            {"columns": {"wild": {"missing": {"kind": "constant", "value": 1}}}},
            [("/columns/wild/missing", "unsuitable_column")],
        ),
        (
            {"columns": {"colour": {"missing": {"kind": "constant", "value": "red", "indicator": True}}}},
            [("/columns/colour/missing", "unsuitable_column")],
        ),
        (
            {"columns": {"colour": {"encoding": "one_hot", "order": ["a", "b"]}}},
            [("/columns/colour/order", "unsuitable_column")],
        ),
        (
            {"columns": {"colour": {"encoding": "ordinal", "order": ["a", "a"]}}},
            [("/columns/colour/order", "duplicate_category")],
        ),
        ({"validation": {"kind": "group", "column": "nope"}}, [("/validation/column", "unknown_column")]),
        ({"validation": {"kind": "group", "column": "species"}}, [("/validation/column", "unsuitable_column")]),
        ({"validation": {"kind": "time", "column": "colour"}}, [("/validation/column", "unsuitable_column")]),
        ({"validation": {"kind": "time", "column": "constant"}}, [("/validation/column", "unsuitable_column")]),
        (
            {"validation": {"kind": "column", "column": "day", "value": "x"}},
            [("/validation/column", "unsuitable_column"), ("/validation/value", "unsuitable_column")],
        ),
        (
            {"validation": {"kind": "column", "column": "length", "value": "x"}},
            [("/validation/value", "unsuitable_column")],
        ),
        (
            {"features": ["length", "colour"], "validation": {"kind": "group", "column": "colour"}},
            [("/features/1", "validation_is_feature")],
        ),
        (
            {"regularization": {"clip_norm": 1, "clip_value": 1}},
            [("/regularization/clip_value", "conflicting_options")],
        ),
        (
            {"regularization": {"max_norm": 1}, "cluster": {"servers": 2}},
            [("/regularization/max_norm", "conflicting_options")],
        ),
        ({"features": ["length", "species"]}, [("/features/1", "target_is_feature")]),
        ({"features": ["length", "length"]}, [("/features/1", "duplicate_feature")]),
        ({"features": ["M4RKER", "length"]}, [("/features/0", "unknown_column")]),
        ({"features": ["note", "day"]}, [("/features/0", "unsuitable_column")]),
        ({"validation": {"kind": "random", "fraction": 0.9999}}, [("/validation/fraction", "out_of_range")]),
        ({"network": {"layers": []}}, [("/network/layers", "out_of_range")]),
    ],
)
def test_what_does_not_fit_the_data_is_refused_at_its_place(
    request_: dict[str, Any], faults: list[tuple[str, str]]
) -> None:
    found = judge(ODD_DATA, **request_)
    assert told(found) == faults
    assert "M4RKER" not in str(found.faults)


@pytest.mark.parametrize("name", ["weight", "alike", "wild", "always"])
def test_a_column_of_weights_is_taken_and_is_no_feature(name: str) -> None:
    request = resolved(WEIGHED_DATA, weight_column=name)
    assert request.weight_column == name
    assert request.features is not None
    assert set(request.features) == {column.name for column in WEIGHED} - {name, "species", "note"}
    plain = judge(WEIGHED_DATA, features=["length"])
    weighed = judge(WEIGHED_DATA, features=["length"], weight_column=name)
    assert (plain.faults, weighed.faults) == ([], [])
    assert (weighed.rows, weighed.features) == (plain.rows, plain.features)


@pytest.mark.parametrize(
    ("request_", "faults"),
    [
        ({"weight_column": "M4RKER"}, [("/weight_column", "unknown_column")]),
        ({"weight_column": "species"}, [("/weight_column", "weight_is_target")]),
        ({"weight_column": "colour"}, [("/weight_column", "unsuitable_weight")]),
        ({"weight_column": "note"}, [("/weight_column", "unsuitable_weight")]),
        ({"weight_column": "day"}, [("/weight_column", "unsuitable_weight")]),
        ({"weight_column": "gaps"}, [("/weight_column", "unsuitable_weight")]),
        ({"weight_column": "below"}, [("/weight_column", "unsuitable_weight")]),
        ({"weight_column": "nothing"}, [("/weight_column", "unsuitable_weight")]),
        ({"weight_column": "never"}, [("/weight_column", "unsuitable_weight")]),
        ({"weight_column": "weight", "features": ["length", "weight"]}, [("/features/1", "weight_is_feature")]),
        (
            {"weight_column": "below", "features": ["below"]},
            [("/features/0", "weight_is_feature"), ("/weight_column", "unsuitable_weight")],
        ),
    ],
)
def test_weights_that_cannot_weigh_are_refused_at_their_place(
    request_: dict[str, Any], faults: list[tuple[str, str]]
) -> None:
    found = judge(WEIGHED_DATA, **request_)
    assert told(found) == faults
    assert "M4RKER" not in str(found.faults)


def test_a_data_set_with_no_column_but_target_and_weights_is_refused() -> None:
    dataset = a_dataset(columns=(words("species"), WEIGHED[4]))
    assert told(judge(dataset, weight_column="weight")) == [("/features", "no_features")]


def test_a_data_set_with_no_column_beside_the_target_is_refused() -> None:
    for columns in ((words("species"),), (words("species"), replace_kind(number("note"), "text"))):
        assert told(judge(a_dataset(columns=columns))) == [("/features", "no_features")]


def replace_kind(column: Column, kind: str) -> Column:
    return Column.model_validate({**column.model_dump(), "kind": kind})


@pytest.mark.parametrize(
    ("rows", "validation", "allowed"), [(1, "random", False), (1, "none", True), (2, "random", True)]
)
def test_too_few_rows_are_refused(rows: int, validation: str, allowed: bool) -> None:
    found = judge(a_dataset(columns=FLOWERS, rows=rows), validation=validation)
    assert [(fault.pointer, fault.code) for fault in found.faults] == (
        [] if allowed else [("/dataset_id", "too_few_rows")]
    )


def test_a_network_is_counted_and_refused_before_anything_of_it_is_made() -> None:
    layers = [{"kind": "dense", "units": 65_536}] * 64
    found = judge(network={"layers": layers})
    assert told(found) == [("/network/layers", "too_many_parameters")]
    assert found.parameters is not None
    assert found.parameters > 60 * 65_536**2
    allowed = Settings(max_parameters=7 * 8 + 8 + 8 * 3 + 3)
    assert judge(settings=allowed, network={"layers": [{"kind": "dense", "units": 8}]}).faults == []
    assert told(judge(settings=allowed, network={"layers": [{"kind": "dense", "units": 9}]}))


def test_all_faults_are_told_at_once_those_of_the_form_and_those_of_the_data() -> None:
    unknown: dict[str, Any] = {"a/b": 1, "body": 2, "path": 3, "~": 4}
    found = judge(
        ODD_DATA,
        loss="mse",
        features=["nothing", "species"],
        optimizer={"kind": "adam", "learning_rate": 0},
        training={"epochs": 0},
        **unknown,
    )
    assert sorted(told(found)) == [
        ("/a~1b", "unknown_field"),
        ("/body", "unknown_field"),
        ("/features/0", "unknown_column"),
        ("/features/1", "target_is_feature"),
        ("/loss", "unsuitable_loss"),
        ("/optimizer/learning_rate", "out_of_range"),
        ("/path", "unknown_field"),
        ("/training/epochs", "out_of_range"),
        ("/~0", "unknown_field"),
    ]


def test_a_data_set_that_is_not_there_is_not_found_or_one_fault_among_others() -> None:
    def find(_: str) -> Dataset:
        raise NotFound("none")

    body = {"dataset_id": "ds_x", "target": "species"}
    with pytest.raises(NotFound):
        assess(body, find, no_model, Settings(), lambda: 0)
    assert told(assess({**body, "priority": 10**6}, find, no_model, Settings(), lambda: 0)) == [
        ("/priority", "out_of_range"),
        ("/dataset_id", "dataset_not_found"),
    ]


def test_without_a_usable_id_no_data_set_is_looked_for() -> None:
    def find(_: str) -> Dataset:
        raise AssertionError

    for body in ({}, {"dataset_id": 1, "target": "x"}, {"dataset_id": "x" * 999, "target": "x"}):
        assert told(assess(body, find, no_model, Settings(), lambda: 0))


def test_a_request_of_very_many_faults_is_judged_in_little_time() -> None:
    start = time.process_time()
    found = judge(features=["M4RKER"] + ["length"] * 200_000)
    assert len(found.faults) == 200_000
    assert time.process_time() - start < 3


def test_a_seed_is_drawn_only_when_none_is_given() -> None:
    def draw() -> int:
        raise AssertionError

    body = {"dataset_id": FLOWER_DATA.id, "target": "species", "training": {"seed": 5}}
    found = assess(body, lambda _: FLOWER_DATA, no_model, Settings(), draw)
    assert found.request is not None
    assert found.request.training.seed == 5


@pytest.mark.parametrize(
    ("cluster", "faults"),
    [
        ({"workers": 8}, []),
        ({"workers": 9}, [("/cluster/workers", "out_of_range")]),
        ({"synchrony": "local_steps"}, [("/cluster/synchrony", "unsuitable_synchrony")]),
        (
            {"synchrony": "bounded_staleness", "workers": 64},
            [("/cluster/synchrony", "unsuitable_synchrony"), ("/cluster/workers", "out_of_range")],
        ),
    ],
)
def test_a_reproducible_training_is_synchronous_and_has_no_more_workers_than_its_sum_has_leaves(
    cluster: dict[str, Any], faults: list[tuple[str, str]]
) -> None:
    found = judge(cluster=cluster, training={"reproducible": True})
    assert [(fault.pointer, fault.code) for fault in found.faults] == faults


def test_there_are_no_more_servers_than_pieces_that_the_parameters_can_be_split_into() -> None:
    one_piece = {"layers": [{"kind": "dense", "units": 10}]}
    assert told(judge(network=one_piece, cluster={"servers": 2})) == [("/cluster/servers", "out_of_range")]
    assert judge(network=one_piece, cluster={"servers": 1}).faults == []
    assert judge(cluster={"servers": 9}).faults == []  # 128 and 64 units: 9,091 parameters


def test_the_memory_estimate_knows_what_each_synchrony_keeps() -> None:
    kinds = ["synchronous", "bounded_staleness", "local_steps"]
    needed = [judge(cluster={"workers": 4, "synchrony": kind}).memory_bytes or 0 for kind in kinds]
    assert needed == sorted(needed)
    assert len(set(needed)) == 3


def test_the_default_number_of_workers_is_within_the_operators_limit() -> None:
    def workers(most: int | None, **request: Any) -> int:
        found = judge(settings=Settings(max_workers=most), **request)
        assert found.faults == []
        assert found.request is not None
        return found.request.cluster.workers

    assert [workers(most) for most in (1, 2, 64, None)] == [1, 2, 2, 2]
    assert workers(1, cluster={"servers": 1}) == 1
    refused = judge(settings=Settings(max_workers=1), cluster={"workers": 2})  # what was asked for is not changed
    assert told(refused) == [("/cluster/workers", "out_of_range")]
    other = judge(settings=Settings(max_workers=1), cluster={"servers": 0})
    assert told(other) == [("/cluster/servers", "out_of_range")]


def test_a_data_set_whose_rows_judge_must_have_the_columns_of_the_first() -> None:
    request = {"dataset_id": FLOWER_DATA.id, "target": "species"}
    other = a_dataset(columns=(number("length"), number("colour"), words("species"), number("more")), rows=50)
    same = a_dataset(columns=FLOWERS, rows=50)
    there = {data.id: data for data in (FLOWER_DATA, other, same)}

    def find(dataset_id: str) -> Dataset:
        if dataset_id not in there:
            raise NotFound("none")
        return there[dataset_id]

    def faults_with(dataset_id: str) -> list[tuple[str, str]]:
        validation = {"kind": "dataset", "dataset_id": dataset_id}
        found = assess({**request, "validation": validation}, find, no_model, Settings(), lambda: 0)
        return [(fault.pointer, fault.code) for fault in found.faults]

    pointer = "/validation/dataset_id"
    assert faults_with(same.id) == []
    assert faults_with("ds_nowhere") == [(pointer, "dataset_not_found")]
    assert faults_with(other.id) == [(pointer, "unsuitable_dataset")] * 2
    request["features"] = ["length"]  # type: ignore[assignment]
    assert faults_with(other.id) == []


def test_what_is_wrong_with_one_column_hides_nothing_of_the_others() -> None:
    columns = {"length": {"scale": "odd"}, "colour": {"scale": "log"}, "nowhere": {}}
    assert told(judge(FLOWER_DATA, columns=columns)) == [
        ("/columns/length/scale", "unknown_choice"),
        ("/columns/nowhere", "unknown_column"),
        ("/columns/colour/scale", "unsuitable_column"),
    ]
