"""What sets two models apart."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.schemas.models import Model, ModelInput, ModelOutput
from service.model_differences import compare_models, differences
from tests.contract import a_model


def between(first: object, second: object) -> list[tuple[str, str, object, object]]:
    return [(each.pointer, each.kind, each.first, each.second) for each in differences(first, second)]


def test_every_difference_of_two_documents_is_named_by_its_place() -> None:
    first = {"a": 1, "b": {"c": [1, 2], "d/e": None}, "layers": [{"units": 3}, {"units": 4, "dropout": 0.1}]}
    second = {"a": 1.5, "b": {"c": [1, 3], "f": "x"}, "layers": [{"units": 3}, {"units": 5}, {"units": 6}]}
    assert between(first, second) == [
        ("/a", "changed", 1, 1.5),
        ("/b/c", "changed", [1, 2], [1, 3]),
        ("/b/d~1e", "removed", None, None),
        ("/b/f", "added", None, "x"),
        ("/layers/1/units", "changed", 4, 5),
        ("/layers/1/dropout", "removed", 0.1, None),
        ("/layers/2", "added", None, {"units": 6}),
    ]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [(1, 1.0, True), (1, True, False), (0, False, False), (None, False, False), ([], [], True), ([], [1], False)],
)
def test_numbers_are_the_same_by_value_and_truths_are_no_numbers(first: object, second: object, same: bool) -> None:
    assert (between(first, second) == []) is same
    assert (between({"a": [first]}, {"a": [second]}) == []) is same


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(_JSON, _JSON)
def test_documents_without_a_difference_are_the_same_and_the_other_way_round(first: object, second: object) -> None:
    assert between(first, first) == []
    alike = json.dumps(_numbers_apart(first), sort_keys=True) == json.dumps(_numbers_apart(second), sort_keys=True)
    assert (between(first, second) == []) is alike


def _numbers_apart(node: object) -> object:
    """A document with every whole number as JSON would write it whatever its type."""
    if isinstance(node, dict):
        return {name: _numbers_apart(below) for name, below in node.items()}
    if isinstance(node, list):
        return [_numbers_apart(below) for below in node]
    if isinstance(node, float) and node == int(node):
        return int(node)
    return node


def a_pair() -> tuple[Model, Model]:
    first, second = (a_model(seed=seed).record for seed in (1, 2))
    return first, second


def test_metrics_stand_side_by_side_with_their_difference() -> None:
    first, second = a_pair()
    first = first.model_copy(update={"metrics": {"accuracy": 0.5, "brier": 0.25, "far": -1.5e308}})
    second = second.model_copy(update={"metrics": {"accuracy": 0.75, "log_loss": 0.5, "far": 1.5e308}})
    found = compare_models(first, second).metrics
    assert [(each.metric, each.first, each.second, each.difference) for each in found] == [
        ("accuracy", 0.5, 0.75, 0.25),
        ("brier", 0.25, None, None),
        ("far", -1.5e308, 1.5e308, None),
        ("log_loss", None, 0.5, None),
    ]


def test_requests_seeds_data_and_versions_are_compared() -> None:
    first, second = a_pair()
    lineage = second.lineage.model_copy(
        update={
            "dataset_sha256": "f" * 64,
            "versions": {"chainrule": "1", "numpy": "2"},
            "request": {**second.lineage.request, "optimizer": {"kind": "sgd"}},
        }
    )
    found = compare_models(first, second.model_copy(update={"lineage": lineage}))
    assert [(each.pointer, each.kind) for each in found.request] == [("/optimizer", "added")]
    assert [(each.pointer, each.first, each.second) for each in found.lineage] == [
        ("/dataset_sha256", "0" * 64, "f" * 64),
        ("/seed", 1, 2),
        ("/versions/chainrule", "0", "1"),
        ("/versions/numpy", None, "2"),
    ]
    assert (found.first.seed, found.second.dataset_sha256) == (1, "f" * 64)


def test_inputs_that_came_went_or_changed_are_named() -> None:
    first, second = a_pair()
    numbers = [ModelInput(name=name, kind="numeric") for name in ("width", "length")]
    colour = ModelInput(name="colour", kind="categorical", categories=("red", "green"))
    output = ModelOutput(name="species", kind="label", classes=("setosa", "versicolor"))
    found = compare_models(first, second.model_copy(update={"inputs": (colour, *numbers), "output": output}))
    assert found.inputs.model_dump() == {
        "added": ("width",),
        "removed": (),
        "changed": (
            {
                "name": "colour",
                "kind": ("categorical", "categorical"),
                "categories_added": ("green",),
                "categories_removed": ("blue",),
            },
        ),
        "reordered": True,
    }
    assert [each.pointer for each in found.output] == ["/classes"]


def test_a_model_does_not_differ_from_itself() -> None:
    model = a_model().record
    found = compare_models(model, model)
    assert (found.request, found.lineage, found.output, found.inputs.changed) == ((), (), (), ())
    assert {each.difference for each in found.metrics} == {0.0}
    assert not found.inputs.reordered
