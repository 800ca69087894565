"""A model's ONNX file answers, from raw columns, what the model answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from common.errors import Invalid
from common.features.categories import Embedded, Numbered, OneHot
from common.features.columns import Column
from common.features.encoder import FeatureEncoder
from common.features.feature import Feature
from common.features.target import ClassTarget, NumberTarget
from common.network import activations, losses
from common.network.layer import Layer
from common.schemas.columns import ColumnOptions, ConstantMissing
from common.schemas.losses import Loss, Quantile
from common.schemas.network import Dense, NetworkShape
from service.exporting import layers, target
from service.exporting.onnx_file import write_onnx
from tests.unit.exported import (
    CLASSES,
    Raw,
    compare,
    encoder_of,
    feature,
    network_of,
    record_of,
    records_of,
    run,
    session_of,
    tensors_of,
)
from tests.unit.networks import LOSSES, one_of_each, shapes

MIXED: Raw = {
    "age": [31.0, 44.5, None, 28.0, 61.0, 19.5],
    "member": [True, False, None, True, True, False],
    "city": ["Oslo", "Rome", None, "Oslo", "Bern", "Rome"],
    "income": [1e3, None, 2.5e5, 4e4, 3e4, 1e6],
}
NEW: Raw = {
    "age": [33.0, None, 90.0, -4.0],
    "member": [None, True, False, True],
    "city": ["Rome", "Paris", None, ""],
    "income": [None, 5e3, 7e6, 0.0],
}


def mixed(**options: Any) -> FeatureEncoder:
    return encoder_of(
        MIXED,
        feature("age", MIXED["age"]),
        feature("member", MIXED["member"]),
        feature("city", MIXED["city"], **options),
        feature("income", MIXED["income"], scale="log", missing={"kind": "median", "indicator": True}),
    )


def both(rows: Raw, new: Raw) -> Raw:
    return {name: [*rows[name], *new[name]] for name in rows}


# Networks


@pytest.mark.parametrize(
    ("name", "shape"), list(one_of_each()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_layer_with_every_activation(name: str, shape: NetworkShape) -> None:
    del name
    compare(network_of(mixed(), shape), both(MIXED, NEW))
    compare(network_of(mixed(encoding="embedding", width=3), shape, Quantile()), both(MIXED, NEW))


def test_nothing_of_a_network_has_been_forgotten() -> None:
    assert set(layers.ACTIVATIONS) == set(activations.ACTIVATIONS)
    for kind in Layer.__subclasses__():
        assert layers.applied.dispatch(kind) is not layers.applied.dispatch(object)
    for name in losses.PLAIN:
        assert target._predicted.dispatch(losses.PLAIN[name]) is not target._predicted.dispatch(object)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("encoding", ["one_hot", "embedding"])
def test_every_loss(loss: Loss, encoding: str) -> None:
    compare(network_of(mixed(encoding=encoding), loss=loss, seed=5), both(MIXED, NEW))


@pytest.mark.parametrize("loss", ["cross_entropy", "quadratic"])
def test_probabilities_stay_right_where_outputs_are_far_from_zero(loss: str) -> None:
    spec = next(one for one in LOSSES if one.kind == loss)
    compare(network_of(mixed(), loss=spec, stretched={"layer1.weights": 300}), both(MIXED, NEW))


@pytest.mark.parametrize("activation", sorted(layers.ACTIVATIONS))
def test_units_that_are_far_from_zero(activation: str) -> None:
    shape = NetworkShape.model_validate({"layers": [{"kind": "dense", "units": 5, "activation": activation}]})
    compare(network_of(mixed(), shape, LOSSES[3], stretched={"layer0.weights": 1e4}), both(MIXED, NEW))


@pytest.mark.parametrize("classes", [(False, True), (-3, 0, 2**60), ("", "a b", "ü🙂")], ids=["bool", "int", "str"])
def test_a_label_has_the_users_own_type(classes: tuple[Any, ...]) -> None:
    network = network_of(mixed(), target=ClassTarget(classes=classes))
    compare(network, both(MIXED, NEW))
    outputs = session_of(network).get_outputs()
    kind = {bool: "tensor(bool)", int: "tensor(int64)", str: "tensor(string)"}[type(classes[0])]
    assert [(o.name, o.type, o.shape) for o in outputs] == [
        ("label", kind, ["N"]),
        ("probabilities", "tensor(float)", ["N", len(classes)]),
    ]


def test_of_equally_probable_classes_the_first_is_the_label() -> None:
    network = network_of(mixed(), stretched={"layer1.weights": 0, "layer1.bias": 0})
    answers = run(session_of(network), tensors_of(network.encoder, MIXED))
    np.testing.assert_allclose(answers["probabilities"], 1 / 3)
    assert set(answers["label"]) == {CLASSES[0]}


def test_numbers_come_in_the_users_units_with_their_quantiles() -> None:
    network = network_of(mixed(), loss=Quantile(quantiles=(0.05, 0.4, 0.7)), target=NumberTarget(mean=-3e7, scale=2e6))
    compare(network, both(MIXED, NEW))
    assert [(o.name, o.type, o.shape) for o in session_of(network).get_outputs()] == [
        ("value", "tensor(double)", ["N", 1]),
        ("quantiles", "tensor(double)", ["N", 3]),
    ]
    answers = run(session_of(network), tensors_of(network.encoder, MIXED))
    assert (np.diff(answers["quantiles"], axis=1) >= 0).all()
    np.testing.assert_array_equal(answers["value"][:, 0], answers["quantiles"][:, 1])


# Columns

MISSING: dict[str, Any] = {
    "mean": {"kind": "mean"},
    "mean-indicator": {"kind": "mean", "indicator": True},
    "median": {"kind": "median"},
    "median-indicator": {"kind": "median", "indicator": True},
    "constant": {"kind": "constant", "value": 40.0},
    "constant-indicator": {"kind": "constant", "value": 40.0, "indicator": True},
}
NUMBERS: dict[str, list[float | None]] = {
    "ages": [31.0, 44.5, None, 28.0, 61.0, 19.5, 44.5],
    "tiny": [1e-12, 3e-12, -2e-12, None, 5e-13],
    "far": [1e9, 1e9 + 1, None, 1e9 + 2.5],
    "skewed": [0.0, 1.0, 3.0, 1e3, 1e7, None, -1e5],
    "equal": [7.0, 7.0, None],
    "none": [None, None],
    "many": [float(n * n % 997) for n in range(600)],
    "huge": [1.7e308, -1.7e308, 0.0, None],
    "subnormal": [5e-324, 0.0, 1e-310, None],
}


@pytest.mark.parametrize("scale", ["standard", "min_max", "robust", "quantile_normal", "log", "none"])
@pytest.mark.parametrize("missing", MISSING)
def test_every_scale_with_every_policy_for_missing_numbers(scale: str, missing: str) -> None:
    values = {
        name: cells for name, cells in NUMBERS.items() if not (scale == "none" and name == "huge")
    }  # whose float32 is infinite
    columns = [feature(name, cells, scale=scale, missing=MISSING[missing]) for name, cells in values.items()]
    new = [1e-3, None, 30.25, -2e-12] if scale == "quantile_normal" else [None]
    for column in columns:  # of lengths of their own
        cells = {column.name: values[column.name]}
        compare(network_of(encoder_of(cells, column), loss=LOSSES[3]), both(cells, {column.name: new}))


def test_a_column_of_a_logarithm_is_exact_where_its_numbers_are_tiny() -> None:
    cells: Raw = {"x": [n * 1e-13 for n in range(-5, 6)]}
    encoder = encoder_of(cells, feature("x", cells["x"], scale="log"))
    compare(network_of(encoder, NetworkShape(layers=()), LOSSES[3], stretched={"layer0.weights": 9}), cells)


def test_quantiles_that_are_further_apart_than_floats_reach() -> None:
    cells: Raw = {"x": [-1.7e308, 1.7e308, 1.7e308]}
    compare(network_of(encoder_of(cells, feature("x", cells["x"], scale="quantile_normal"))), cells)


@pytest.mark.parametrize("missing", [*MISSING, "constant-true"])
def test_booleans(missing: str) -> None:
    policy = {**MISSING, "constant-true": {"kind": "constant", "value": True}}[missing]
    rows: Raw = {"b": [True, False, None, True]}
    compare(network_of(encoder_of(rows, feature("b", rows["b"], missing=policy))), rows)


def test_pixels_that_are_scaled_together() -> None:
    generator = np.random.default_rng(3)
    rows: Raw = {f"p{i}": [0.0, 255.0, *generator.integers(0, 255, 8).astype(float).tolist()] for i in range(20)}
    encoder = encoder_of(rows, *(feature(name, cells) for name, cells in rows.items()))
    assert len(encoder.joint_columns) == 20
    compare(network_of(encoder), rows)


def test_texts_that_are_read_as_numbers_are_given_as_numbers() -> None:
    rows: Raw = {"x": ["1.5", " 2 ", "n/a", None, "-7e2"]}
    encoder = encoder_of(rows, feature("x", rows["x"], "numeric", missing={"kind": "median", "indicator": True}))
    compare(network_of(encoder), rows)


CATEGORIES: dict[str, tuple[list[Any], list[Any], Any]] = {
    "text": (["b", "a", None, "b", "ü", "rare", "b", "a"], ["", "never", "A", " a", "\0", None], "a"),
    "empty": ([" ", "", "b", None, "b"], ["c", None], ""),
    "number": ([1.0, 2.5, None, 1.0, 1e22, -3.0, 1.0], [2.5000001, 7.0, 0.0, None], 2.5),
    "boolean": ([True, False, None, True], [False, None], True),
}
ENCODINGS: dict[str, dict[str, Any]] = {
    "one_hot": {"encoding": "one_hot"},
    "one_hot-rare": {"encoding": "one_hot", "min_count": 2},
    "ordinal": {"encoding": "ordinal"},
    "frequency": {"encoding": "frequency"},
    "frequency-rare": {"encoding": "frequency", "min_count": 2},
    "embedding": {"encoding": "embedding", "width": 3},
    "embedding-rare": {"encoding": "embedding", "width": 2, "min_count": 2},
}


@pytest.mark.parametrize("of", CATEGORIES)
@pytest.mark.parametrize("policy", ["category", "constant"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_of_categories_of_every_kind(of: str, policy: str, encoding: str) -> None:
    cells, new, constant = CATEGORIES[of]
    missing = {"kind": "constant", "value": constant} if policy == "constant" else {"kind": "category"}
    for known in (cells, [cell for cell in cells if cell is not None]):
        column = feature("c", known, "categorical", missing=missing, **ENCODINGS[encoding])
        encoder = encoder_of({"c": known}, column)
        compare(network_of(encoder, seed=2), both({"c": known}, {"c": [*new, None]}))


@pytest.mark.parametrize(("empty", "missing"), [(None, ""), ("", "\0")])
def test_a_missing_text_is_the_empty_one_or_nul_where_that_is_a_category(empty: str | None, missing: str) -> None:
    rows: Raw = {"c": ["a", "b", None, "a", empty]}
    network = network_of(encoder_of(rows, feature("c", rows["c"])))
    texts = np.array([["a"], [missing], [""], ["never"]], object)
    answers = run(session_of(network), {"c": texts})["probabilities"].tolist()
    expected = network.predict([["a"], [None], [empty], ["never"]])
    assert answers == [pytest.approx(list((one.probabilities or {}).values()), abs=1e-5) for one in expected]
    assert len({tuple(answer) for answer in answers}) == (3 if empty is None else 4)


def test_categories_of_names_that_no_training_gives() -> None:
    """As a model that was imported may have."""
    columns: list[Column] = [
        OneHot(name="n", categories=("1.0", "1", "no number", "nan"), missing=True, of="number"),
        Embedded(name="b", categories=("True", "true"), missing=False, of="boolean", vector=2),
        Numbered(name="t", categories=("\0", ""), missing=False, numbers=(0.5, -0.5), unknown=0.0),
    ]
    rows: Raw = {"n": [1.0, 2.0, None], "b": [True, False, None], "t": ["\0", "", "x"]}
    network = network_of(FeatureEncoder(columns))
    answers = run(session_of(network), tensors_of(network.encoder, rows))["probabilities"].tolist()
    expected = network.predict([list(cells) for cells in zip(*rows.values(), strict=True)])
    assert answers == [pytest.approx(list((one.probabilities or {}).values()), abs=1e-5) for one in expected]


@pytest.mark.parametrize("order", [("cold", "mild", "hot"), ("hot", "cold")])
def test_categories_in_an_order_that_was_asked_for(order: tuple[str, ...]) -> None:
    rows: Raw = {"c": ["mild", "hot", None, "cold", "cold"]}
    compare(network_of(encoder_of(rows, feature("c", rows["c"], encoding="ordinal", order=order))), rows)


def test_a_thousand_categories_and_the_rest() -> None:
    rows: Raw = {"c": [f"c{i:04}" for i in range(1200)] + ["c1199", None], "n": [float(i) for i in range(1202)]}
    for options in ({"encoding": "one_hot"}, {"encoding": "embedding", "width": 4}):
        encoder = encoder_of(
            rows, feature("c", rows["c"], **options), feature("n", rows["n"], "categorical", **options)
        )
        compare(network_of(encoder), rows)


def test_columns_without_a_value_and_without_a_place() -> None:
    rows: Raw = {"none": [None, None], "nothing": [None, None], "x": [1.0, 2.0]}
    options = ColumnOptions(missing=ConstantMissing(value="a"))
    nothing = Feature("nothing", "categorical", "categorical", options)
    encoder = encoder_of(rows, Feature("none", "categorical", "categorical"), nothing, feature("x", rows["x"]))
    assert encoder.width == 2
    compare(network_of(encoder), rows)


@pytest.mark.parametrize(
    "names", [("label", "probabilities"), ("label", "label_"), ("Gemm_12", "constant_3"), ("N", "é /*")]
)
def test_columns_of_any_name(names: tuple[str, str]) -> None:
    rows: Raw = {names[0]: [1.0, 2.0, None], names[1]: ["a", "b", None]}
    network = network_of(encoder_of(rows, *(feature(name, cells) for name, cells in rows.items())))
    session = session_of(network)
    assert [one.name for one in session.get_inputs()] == list(names)
    taken = set(names)
    for output, name in zip(session.get_outputs(), ("label", "probabilities"), strict=True):
        while name in taken:
            name += "_"
        assert output.name == name


def test_the_file_says_what_goes_in_and_what_it_is() -> None:
    network = network_of(mixed())
    session = session_of(network)
    assert [(one.name, one.type, one.shape) for one in session.get_inputs()] == [
        ("age", "tensor(double)", ["N", 1]),
        ("member", "tensor(double)", ["N", 1]),
        ("city", "tensor(string)", ["N", 1]),
        ("income", "tensor(double)", ["N", 1]),
    ]
    about = session.get_modelmeta()
    assert (about.producer_name, about.graph_name, about.version) == ("chainrule", "iris", 3)
    assert json.loads(about.custom_metadata_map["classes"]) == list(CLASSES)


def test_a_model_is_always_written_alike_for_old_runtimes() -> None:
    network = network_of(mixed())
    record = record_of(network)
    saved = write_onnx(network, record)
    assert write_onnx(network, record) == saved
    model = onnx.load_from_string(saved)
    assert {one.domain: one.version for one in model.opset_import} == {"": 13, "ai.onnx.ml": 2}
    assert model.ir_version == 7


def test_no_rows_are_no_trouble() -> None:
    network = network_of(
        mixed(encoding="embedding", width=2), NetworkShape(layers=(Dense(units=3, activation="maxout"),))
    )
    empty = {name: cells[:0] for name, cells in tensors_of(network.encoder, MIXED).items()}
    answers = run(session_of(network), empty)
    assert {name: values.shape for name, values in answers.items()} == {"label": (0,), "probabilities": (0, 3)}


def test_the_example_of_the_documentation_works(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    program = page.partition("```python\n")[2].partition("```")[0]
    rows: Raw = {"size": [1.5, 9.0, None, 4.0], "color": ["red", "green", "red", None]}
    network = network_of(encoder_of(rows, *(feature(name, rows[name]) for name in rows)))
    (tmp_path / "model.onnx").write_bytes(write_onnx(network, record_of(network)))
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = network.predict([[7.5, "red"], [None, None]])
    assert all(str(one.label) in done.stdout for one in expected)


# What ONNX can't say


def test_columns_of_times_are_refused_all_at_once() -> None:
    rows: Raw = {"x": [1.0, 2.0], "at/on": [0.0, 86_400.0], "day": [1e9, 2e9]}
    times = [Feature(name, "datetime", "datetime") for name in ("at/on", "day")]
    network = network_of(encoder_of(rows, feature("x", rows["x"]), *times))
    with pytest.raises(Invalid) as caught:
        write_onnx(network, record_of(network))
    assert caught.value.stable_code == "not_exportable"
    assert [(f.pointer, f.code) for f in caught.value.faults] == [
        ("/inputs/at~1on", "unsuitable_column"),
        ("/inputs/day", "unsuitable_column"),
    ]


@pytest.mark.parametrize("scale", ["standard", "quantile_normal"])
def test_a_number_that_must_not_be_missing_gives_no_answer(scale: str) -> None:
    rows: Raw = {"x": [1.0, 2.0, 4.0], "y": [3.0, 1.0, 2.0]}
    refusing = feature("x", rows["x"], scale=scale, missing={"kind": "error"})
    network = network_of(encoder_of(rows, refusing, feature("y", rows["y"])))
    compare(network, rows)
    tensors = tensors_of(network.encoder, {"x": [None, 1.0], "y": [1.0, None]})
    probabilities = run(session_of(network), tensors)["probabilities"]
    assert np.isnan(probabilities[0]).all()
    assert np.isfinite(probabilities[1]).all()


def test_a_category_that_must_not_be_missing_counts_as_unknown() -> None:
    rows: Raw = {"c": ["a", "b", "a"]}
    network = network_of(encoder_of(rows, feature("c", rows["c"], missing={"kind": "error"})))
    compare(network, rows)
    answers = run(session_of(network), tensors_of(network.encoder, {"c": [None, "never"]}))
    np.testing.assert_array_equal(*answers["probabilities"])


# Anything together


@st.composite
def anything(draw: st.DrawFn) -> tuple[Raw, Raw, list[Feature]]:
    """Rows to learn columns from, others to predict, and what is wanted of the columns."""
    rows: dict[str, list[Any]] = {}
    new: dict[str, list[Any]] = {}
    wanted = []
    count = draw(st.integers(2, 8))
    for index in range(draw(st.integers(1, 5))):
        name = f"c{index}"
        of = draw(st.sampled_from(["numeric", "numeric", "boolean", "text", "number"]))
        near = st.floats(-1000, 1000, width=32) | st.integers(-50, 50).map(float)
        values: st.SearchStrategy[Any] = {
            "numeric": near,
            "number": st.sampled_from([1.0, 2.0, 0.5, -7.0]),
            "boolean": st.booleans(),
            "text": st.sampled_from(["", "a", "b", "é", "🙂", "A"]),
        }[of]
        cells = st.none() | values
        rows[name] = [draw(values), draw(values), *draw(st.lists(cells, min_size=count - 2, max_size=count - 2))]
        new[name] = draw(st.lists(cells, min_size=4, max_size=4))
        if of == "numeric":
            options = {
                "scale": draw(st.sampled_from(["standard", "min_max", "robust", "quantile_normal", "log", "none"])),
                "missing": draw(st.sampled_from(list(MISSING.values()))),
            }
        elif of == "boolean" and draw(st.booleans()):
            options = {"missing": draw(st.sampled_from(list(MISSING.values())))}
        else:
            of = "categorical"
            options = draw(st.sampled_from(list(ENCODINGS.values())))
            if draw(st.booleans()):
                options = {**options, "missing": {"kind": "constant", "value": rows[name][0]}}
        wanted.append(feature(name, rows[name], "categorical" if of == "categorical" else None, **options))
    return rows, new, wanted


def agree(case: tuple[Raw, Raw, list[Feature]], shape: NetworkShape, loss: Loss, seed: int) -> None:
    learned, new, wanted = case
    encoder, rows = encoder_of(learned, *wanted), both(learned, new)
    try:
        largest = np.abs(encoder.encode_records(records_of(encoder, rows))).max()
    except Invalid as error:
        assert {fault.code for fault in error.faults} == {"number_too_large"}  # noqa: PT017
        largest = np.inf
    assume(largest < 100)  # else float32 itself is off by more, in any order of the sums
    compare(network_of(encoder, shape, loss, seed=seed), rows)


@settings(max_examples=60, deadline=None)
@given(anything(), shapes(dropout=(0.0, 0.3)), st.sampled_from(LOSSES), st.integers(0, 2**32 - 1))
def test_any_columns_through_any_network_with_any_loss(
    case: tuple[Raw, Raw, list[Feature]], shape: NetworkShape, loss: Loss, seed: int
) -> None:
    agree(case, shape, loss, seed)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(anything(), shapes(dropout=(0.0, 0.3)), st.sampled_from(LOSSES), st.integers(0, 2**32 - 1))
def test_many_more_columns_through_many_more_networks(
    case: tuple[Raw, Raw, list[Feature]], shape: NetworkShape, loss: Loss, seed: int
) -> None:
    agree(case, shape, loss, seed)
