"""What a training request may say; and that nothing it says is bent or ignored."""

from __future__ import annotations

import copy
import json
import math
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from common.errors import Fault
from common.schemas.network import NetworkShape
from common.schemas.training import MODEL_NAME, TrainingRequest, slug
from service.problems import faults_of_body
from tests.contract import FULL_FORM

MINIMAL = {"dataset_id": "ds_0000000000000000000000000", "target": "species"}


def faults(body: dict[str, Any]) -> list[Fault]:
    try:
        TrainingRequest.model_validate(body)
    except ValidationError as error:
        return faults_of_body(error.errors(include_url=False, include_input=False), body)
    return []


def shown(body: dict[str, Any]) -> dict[str, Any]:
    form: dict[str, Any] = TrainingRequest.model_validate(body).model_dump(mode="json")
    return form


def changed(pointer: str, value: object) -> dict[str, Any]:
    """The full form with another value at a pointer."""
    body = copy.deepcopy(FULL_FORM)
    *path, last = pointer.split("/")[1:]
    node: Any = body
    for step in path:
        node = node[int(step)] if isinstance(node, list) else node[step]
    node[int(last) if isinstance(node, list) else last] = value
    return body


def leaves(node: object, pointer: str = "") -> Iterator[str]:
    """The pointers of everything in a form that is neither an object nor an array."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from leaves(value, f"{pointer}/{name}")
    elif isinstance(node, list):
        for place, value in enumerate(node):
            yield from leaves(value, f"{pointer}/{place}")
    else:
        yield pointer


def at(node: Any, pointer: str) -> object:
    for step in pointer.split("/")[1:]:
        node = node[int(step)] if isinstance(node, list) else node[step]
    return node


def test_the_full_form_with_its_defaults_is_taken_and_shown_as_it_was_sent() -> None:
    assert shown(FULL_FORM) == FULL_FORM


def test_what_is_left_out_has_the_default_of_the_full_form() -> None:
    decided_later = {"name": None, "model_name": None, "loss": None}
    assert shown(MINIMAL) == {**FULL_FORM, **decided_later}


def test_only_the_data_set_and_the_target_are_required() -> None:
    assert [(fault.pointer, fault.code) for fault in faults({})] == [("/dataset_id", "missing"), ("/target", "missing")]


def test_a_request_survives_being_stored() -> None:
    request = TrainingRequest.model_validate(FULL_FORM)
    assert TrainingRequest.model_validate_json(request.model_dump_json()) == request
    assert TrainingRequest.model_validate(json.loads(request.model_dump_json())) == request


CODES = {"wrong_type", "out_of_range", "wrong_form", "unknown_choice", "not_supported_yet", "unknown_field", "missing"}
JUNK: list[object] = [0, 1, -1, 1.5, 1e308, 1e-320, math.inf, 2**63, 10**400, "", "x", "0.1", "1", True, False, None]
JUNK += [[], {}, {"kind": "x"}, {"kind": ["x"]}, ["x"], [1], "\x00"]


FREE_TEXT = {"/dataset_id", "/target", "/name", "/model_name"}
PLACES = [*leaves(FULL_FORM), "/loss", "/optimizer", "/network", "/network/layers/0"]


@pytest.mark.parametrize("pointer", [place for place in PLACES if place not in FREE_TEXT])
def test_any_value_at_any_place_is_shown_as_it_was_sent_or_refused_at_that_place(pointer: str) -> None:
    for junk in JUNK:
        body = changed(pointer, junk)
        found = faults(body)
        if found:
            assert {fault.code for fault in found} <= CODES | {"invalid_name"}
            assert all(fault.pointer.startswith(pointer) or pointer.startswith(fault.pointer) for fault in found)
        elif pointer not in ("/network", "/loss"):  # whose parts then have defaults
            kept = at(shown(body), pointer)
            assert kept == junk
            assert isinstance(kept, bool) == isinstance(junk, bool)
            assert isinstance(kept, str) == isinstance(junk, str)


@pytest.mark.parametrize("rate", [0, -1, "0.1", True, None, 1e308, 1e-320, math.inf, math.nan, [], 1e13])
def test_a_learning_rate_that_is_none_is_refused_at_its_place(rate: object) -> None:
    for kind in ("adam", "sgd"):
        found = faults({**MINIMAL, "optimizer": {"kind": kind, "learning_rate": rate}})
        assert [fault.pointer for fault in found] == ["/optimizer/learning_rate"]
        assert found[0].code in ("out_of_range", "wrong_type")


def test_a_learning_rate_that_is_legal_but_huge_is_taken() -> None:
    assert faults({**MINIMAL, "optimizer": {"kind": "sgd", "learning_rate": 1e6}}) == []
    assert faults({**MINIMAL, "optimizer": {"kind": "sgd", "learning_rate": 1}}) == []


@pytest.mark.parametrize(
    ("pointer", "values"),
    [
        ("/training/epochs", [0, -1, 1.5, 1.0, 2**63, "3", True, None, 100_001]),
        ("/training/batch_size", [0, -1, 1.5, "3", True, 1_000_001]),
        ("/training/seed", [-1, 2**63, 1.0, "1", True]),
        ("/training/shuffle", [0, 1, "true", None]),
        ("/cluster/workers", [0, -1, 10**4, 65, 1.0, True, None]),
        ("/cluster/servers", [0, -1, 1.0, "1", True, None, []]),
        ("/network/layers/0/units", [0, -1, 10**9, 65_537, 1.5, "8", True, None]),
        ("/network/layers/0/dropout", [1, 1.0, -0.1, 2, "0", True, None]),
        ("/network/layers", [[{"kind": "dense", "units": 1}] * 65, [{"kind": "dense", "units": 1}] * 10_000, {}, None]),
        ("/network/input_dropout", [1, -0.1, None, "0", False]),
        ("/network/initializer", ["he", {"kind": "he"}, 0, False, {"kind": "normal", "deviation": 0}]),
        ("/loss", [{"kind": "huber", "delta": 0}, {"kind": "quantile", "quantiles": []}]),
        ("/loss", [{"kind": "quantile", "quantiles": [0.5, 0.1]}, {"kind": "quantile", "quantiles": [0.5, 1]}]),
        ("/loss/label_smoothing", [1, -0.1, None, "0"]),
        ("/schedule", ["linear", {"kind": "step", "factor": 0}, {"kind": "warm_up", "then": "warm_up"}]),
        ("/schedule", [{"kind": "warm_up", "epochs": 0}, {"kind": "cosine", "restart_factor": 0}]),
        ("/class_weights", ["even", 1, {"a": -1}, {"a": "1"}, ["a"]]),
        ("/columns", [{"age": {"encoding": "hash"}}, {"age": {"encoding": "embedding", "width": 0}}, [], None]),
        ("/regularization/l1", [-1e-9, None, "0", True]),
        ("/regularization/l2", [-1e-9, math.inf, True]),
        ("/regularization/weight_decay", [-0.1, None]),
        ("/regularization/max_norm", [0, -1, "1"]),
        ("/regularization/clip_value", [0, -1, "1"]),
        ("/optimizer/beta1", [1, -0.1, "0", None]),
        ("/optimizer/beta2", [1, 1.0, 2]),
        ("/optimizer/epsilon", [0, 2, -1e-9]),
        ("/validation/fraction", [0, 1, -0.1, 1.5, None]),
        ("/stopping/target_loss", [-1, "0", True, math.inf]),
        ("/stopping/target_error", [-1e-9]),
        ("/stopping/patience", [0, -1, 1.5]),
        ("/stopping/min_delta", [-1, None]),
        ("/stopping/max_seconds", [0, -1, math.inf]),
        ("/priority", [-1001, 1001, 0.0, "0", None, True]),
        ("/features", [[], "a", {}, [1], [None]]),
        ("/target", ["", "x" * 1001, None, 1, ["a"]]),
        ("/weight_column", ["", "x" * 1001, 1, False, ["a"]]),
        ("/dataset_id", ["x" * 101, None, 1]),
        ("/name", ["x" * 201, 1, []]),
        ("/labels", [{"": "x"}, {"a b": "x"}, {"a": 1}, {"a:b": "x"}, {f"k{i}": "" for i in range(33)}, [], None]),
    ],
)
def test_a_value_out_of_range_is_refused_at_its_place(pointer: str, values: list[object]) -> None:
    for value in values:
        found = faults(changed(pointer, value))
        assert found, value
        assert all(fault.pointer.startswith(pointer) for fault in found), value


def test_momentum_of_one_is_refused() -> None:
    found = faults({**MINIMAL, "optimizer": {"kind": "sgd", "momentum": 1}})
    assert [(fault.pointer, fault.code) for fault in found] == [("/optimizer/momentum", "out_of_range")]


BARE: list[tuple[str, str, str]] = [
    ("/loss", "cross_entropy", "label_smoothing"),
    ("/optimizer", "sgd", "momentum"),
    ("/optimizer", "adam", "beta1"),
    ("/optimizer", "momentum", "momentum"),
    ("/optimizer", "nesterov", "momentum"),
    ("/optimizer", "adagrad", "epsilon"),
    ("/optimizer", "adadelta", "rho"),
    ("/optimizer", "rmsprop", "rho"),
    ("/optimizer", "adamw", "beta2"),
    ("/loss", "quadratic", "kind"),
    ("/loss", "mae", "kind"),
    ("/loss", "huber", "delta"),
    ("/loss", "quantile", "quantiles"),
    ("/loss", "poisson", "kind"),
    ("/schedule", "constant", "kind"),
    ("/schedule", "step", "factor"),
    ("/schedule", "exponential", "factor"),
    ("/schedule", "cosine", "restart_epochs"),
    ("/schedule", "one_cycle", "rise"),
    ("/schedule", "reduce_on_plateau", "patience"),
    ("/schedule", "warm_up", "then"),
    ("/network/initializer", "normal", "deviation"),
    ("/network/initializer", "orthogonal", "kind"),
    ("/validation", "random", "fraction"),
    ("/validation", "none", "kind"),
    ("/cluster/synchrony", "synchronous", "kind"),
]


@pytest.mark.parametrize(("pointer", "kind", "option"), BARE)
def test_a_bare_kind_stands_for_its_full_form_which_is_shown(pointer: str, kind: str, option: str) -> None:
    bare = shown(changed(pointer, kind))
    assert bare == shown(changed(pointer, {"kind": kind}))
    full = at(bare, pointer)
    assert isinstance(full, dict)
    assert full["kind"] == kind
    assert option in full


PLANNED: list[tuple[str, list[object]]] = [
    ("/network/layers/0", ["batch_norm", {"kind": "conv2d"}]),
]


@pytest.mark.parametrize(("pointer", "values"), PLANNED)
def test_what_is_not_built_yet_is_refused_as_such_and_never_ignored(pointer: str, values: list[object]) -> None:
    for value in values:
        found = faults(changed(pointer, value))
        assert [(fault.pointer, fault.code) for fault in found] == [(pointer, "not_supported_yet")], value
        assert "today: " in found[0].message


UNKNOWN: list[tuple[str, str]] = [
    ("/loss", "cross_entropy, quadratic, mse, mae, huber, quantile, poisson"),
    ("/optimizer", "sgd, momentum, nesterov, adagrad, adadelta, rmsprop, adam, adamw"),
    ("/schedule", "constant, step, exponential, cosine, one_cycle, reduce_on_plateau, warm_up"),
    ("/network/layers/0", "dense, layer_norm, residual"),
    ("/network/layers/0/activation", "relu, leaky_relu, elu, gelu, silu, softplus, sigmoid, tanh, maxout, identity"),
    ("/validation", "random, none"),
    ("/cluster/synchrony", "synchronous, bounded_staleness, local_steps"),
    ("/task", "'classification' or 'regression'"),
]


@pytest.mark.parametrize(("pointer", "allowed"), UNKNOWN)
def test_an_unknown_choice_is_refused_with_those_that_are_allowed(pointer: str, allowed: str) -> None:
    for value in ("M4RKER", "__class__", "ADAM", ""):
        found = faults(changed(pointer, value))
        assert [(fault.pointer, fault.code) for fault in found] == [(pointer, "unknown_choice")], value
        assert allowed in found[0].message
        assert "M4RKER" not in found[0].message


@pytest.mark.parametrize("kind", [None, 1, ["adam"], {"kind": "adam"}, "M4RKER"])
def test_a_kind_that_is_none_is_an_unknown_choice(kind: object) -> None:
    for pointer in ("/loss", "/optimizer", "/schedule", "/validation", "/cluster/synchrony", "/network/layers/0"):
        found = faults(changed(pointer, {"kind": kind}))
        assert [(fault.pointer, fault.code) for fault in found] == [(pointer, "unknown_choice")]
        assert "M4RKER" not in found[0].message


@pytest.mark.parametrize(
    "pointer", ["", "/network", "/network/layers/0", "/loss", "/optimizer", "/stopping", "/cluster", "/regularization"]
)
@pytest.mark.parametrize("name", ["learning_rat", "__class__", "body", "query", "path", "header", "a/b", "~", "adam"])
def test_a_misspelt_field_is_refused_at_its_place(pointer: str, name: str) -> None:
    body = copy.deepcopy(FULL_FORM)
    node = at(body, pointer)
    assert isinstance(node, dict)
    node[name] = 1
    escaped = name.replace("~", "~0").replace("/", "~1")
    assert [(fault.pointer, fault.code) for fault in faults(body)] == [(f"{pointer}/{escaped}", "unknown_field")]


# Names


@pytest.mark.parametrize("name", ["digits", "naïve 名 🙂", "👩\u200d🔬", "x" * 200, "../x", "%2f*$HOME`id`", "<b>", ""])
def test_a_name_of_printable_text_is_kept_as_it_is(name: str) -> None:
    assert shown({**MINIMAL, "name": name})["name"] == name


@pytest.mark.parametrize("character", ["\0", "\n", "\r", "\t", "\x1b", "\x7f", "\x85", "\u202e", "\u2066", "\u200b"])
def test_a_name_with_control_characters_or_direction_overrides_is_refused(character: str) -> None:
    found = faults({**MINIMAL, "name": f"M4RKER{character}"})
    assert [(fault.pointer, fault.code) for fault in found] == [("/name", "invalid_name")]
    assert "M4RKER" not in found[0].message


@pytest.mark.parametrize("name", ["A", "-a", ".a", "_a", "a b", "a/b", "a@1", "a\n", "é", "", "a" * 64, "../a", "a:b"])
def test_a_model_name_that_is_no_slug_is_refused(name: str) -> None:
    found = faults({**MINIMAL, "model_name": name})
    assert [(fault.pointer, fault.code) for fault in found] == [("/model_name", "wrong_form")]


@settings(deadline=None)
@given(st.text(max_size=300))
def test_a_slug_of_any_text_is_a_model_name_or_nothing(text: str) -> None:
    made = slug(text)
    assert made is None or re.fullmatch(MODEL_NAME, made)


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("Digits, v2", "digits-v2"),
        ("naïve", "naive"),
        ("  --a--  ", "a"),
        ("🙂", None),
        ("名", None),
        ("", None),
        ("a" * 99, "a" * 63),
        ("../../etc", "etc"),
        ("x_y.z", "x_y.z"),
    ],
)
def test_a_slug_is_lower_case_ascii(text: str, made: str | None) -> None:
    assert slug(text) == made


# Networks


def test_layers_that_do_not_fit_each_other_are_refused_with_the_widths() -> None:
    dense, block = {"kind": "dense", "units": 8}, {"kind": "residual", "layers": [{"kind": "dense", "units": 4}]}
    for layers, told in (
        ([block], "needs a dense layer somewhere below it"),
        ([dense, block], "it gets 8 numbers per row, so its last dense layer must have as many units, not 4"),
    ):
        body = {**MINIMAL, "network": {"layers": layers}}
        assert [(fault.pointer, fault.code) for fault in faults(body)] == [("/network", "residual_width")]
        assert told in faults(body)[0].message
    fits = {"kind": "residual", "layers": ["layer_norm", {"kind": "dense", "units": 3}, {"kind": "dense", "units": 8}]}
    fits["layers"][0] = {"kind": "layer_norm"}  # type: ignore[index]
    assert faults({**MINIMAL, "network": {"layers": [dense, {"kind": "layer_norm"}, fits, fits]}}) == []


def test_pieces_belong_to_maxout() -> None:
    for layer, pointer in (
        ({"kind": "dense", "units": 4, "pieces": 2}, "/network/layers/0/pieces"),
        ({"kind": "dense", "units": 4, "activation": "maxout", "pieces": 1}, "/network/layers/0/pieces"),
    ):
        found = faults({**MINIMAL, "network": {"layers": [layer]}})
        assert [fault.pointer for fault in found] == [pointer]


def test_pieces_are_shown_where_they_mean_something() -> None:
    layers = [
        {"kind": "dense", "units": 8, "activation": "maxout", "dropout": 0.0, "pieces": 3},
        {"kind": "dense", "units": 8, "activation": "maxout", "dropout": 0.0},
        {"kind": "dense", "units": 8, "activation": "gelu", "dropout": 0.5},
    ]
    assert shown({**MINIMAL, "network": {"layers": layers}})["network"]["layers"] == layers


# All at once


def test_every_fault_is_told_at_once_each_at_its_place() -> None:
    body = {
        "target": 1,
        "name": "a\nb",
        "task": "clustering",
        "loss": "hinge",
        "optimizer": {"kind": "adam", "learning_rate": 0, "beta1": 1, "momentum": 0.9},
        "network": {"layers": [{"kind": "dense", "units": 0}, {"kind": "dense"}, "conv2d", "M4RKER"]},
        "training": {"epochs": 1.5},
        "labels": {"ok": 1, "not ok": "x", "odd": "a\u202eb"},
        "unknown": 1,
    }
    assert {(fault.pointer, fault.code) for fault in faults(body)} == {
        ("/dataset_id", "missing"),
        ("/target", "wrong_type"),
        ("/name", "invalid_name"),
        ("/task", "unknown_choice"),
        ("/loss", "unknown_choice"),
        ("/optimizer/learning_rate", "out_of_range"),
        ("/optimizer/beta1", "out_of_range"),
        ("/optimizer/momentum", "unknown_field"),
        ("/network/layers/0/units", "out_of_range"),
        ("/network/layers/1/units", "missing"),
        ("/network/layers/2", "not_supported_yet"),
        ("/network/layers/3", "unknown_choice"),
        ("/training/epochs", "wrong_type"),
        ("/labels/ok", "wrong_type"),
        ("/labels/not ok", "wrong_form"),
        ("/labels/odd", "invalid_name"),
        ("/unknown", "unknown_field"),
    }


@pytest.mark.parametrize("value", ["\0", "a\nb", "\u202e", "\u2028", "\x7f"])
def test_a_label_that_cannot_be_shown_is_refused_as_such_a_name_is(value: str) -> None:
    for field, pointer in (({"name": value}, "/name"), ({"labels": {"team": value}}, "/labels/team")):
        assert [(fault.pointer, fault.code) for fault in faults({**MINIMAL, **field})] == [(pointer, "invalid_name")]
    assert shown({**MINIMAL, "labels": {"team": "é ✓", "empty": ""}})["labels"] == {"team": "é ✓", "empty": ""}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["kind", "layers", "units", "epochs"]) | st.text(max_size=4), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(sorted(FULL_FORM)) | st.text(max_size=4), ANYTHING, max_size=5))
def test_no_body_does_anything_but_pass_or_be_refused_at_places_that_it_has(body: dict[str, Any]) -> None:
    for fault in faults({**MINIMAL, **body}):
        *parents, _ = fault.pointer.split("/")
        node: Any = {**MINIMAL, **body}
        for step in parents[1:]:
            node = node[int(step)] if isinstance(node, list) else node[step.replace("~1", "/").replace("~0", "~")]
        assert fault.message


@pytest.mark.parametrize(
    ("pointer", "values"),
    [
        ("/cluster/synchrony/max_staleness", [-1, 1001, 1.5, True, "4", None]),
        ("/cluster/synchrony/steps", [0, -1, 1_000_001, 1.5, True, "many", None]),
        ("/cluster/synchrony/outer_momentum", [1, -0.1, "0", None]),
        ("/cluster/servers", [0, 17, 1.5, True, "2", None]),
        ("/regularization/clip_norm", [0, -1, "1", True, 1e300]),
        ("/training/reproducible", [1, "true", None]),
    ],
)
def test_what_lies_outside_of_an_options_range_is_told_by_its_pointer(pointer: str, values: list[object]) -> None:
    kind = "bounded_staleness" if pointer.endswith("max_staleness") else "local_steps"
    for value in values:
        body = changed("/cluster/synchrony", {"kind": kind})
        *path, name = pointer.split("/")[1:]
        part: Any = body
        for step in path:
            part = part[step]
        part[name] = value
        assert [fault.pointer for fault in faults(body)] == [pointer], value


def test_the_bare_name_of_a_synchrony_stands_for_its_defaults() -> None:
    request = TrainingRequest.model_validate(changed("/cluster/synchrony", "bounded_staleness"))
    assert request.cluster.synchrony.model_dump() == {"kind": "bounded_staleness", "max_staleness": 4}
    request = TrainingRequest.model_validate(changed("/cluster/synchrony", "local_steps"))
    assert request.cluster.synchrony.model_dump() == {"kind": "local_steps", "steps": "auto", "outer_momentum": 0.0}


def test_thousands_of_lists_that_are_too_short_are_told_of_in_no_time() -> None:
    body = {"layers": [{"kind": "residual", "layers": []}] * 5000}
    with pytest.raises(ValidationError) as error:
        NetworkShape.model_validate(body)
    details = error.value.errors()
    began = time.monotonic()
    found = faults_of_body(details, body)
    assert time.monotonic() - began < 1
    assert found[0].pointer == "/layers/0/layers"
