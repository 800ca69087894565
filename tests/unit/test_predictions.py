"""What a learned network answers: labels, probabilities, explanations, and warnings of strange values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Invalid, TooLarge
from common.features.categories import Embedded, Numbered, OneHot
from common.features.columns import Column
from common.features.encoder import FeatureEncoder
from common.features.numbers import QuantileNormal, Scaled
from common.features.target import ClassTarget, NumberTarget, Target
from common.features.times import Times
from common.learned import LearnedDocument, LearnedNetwork, width_of
from common.network.saved import weights_to_bytes
from common.network.structure import parameter_count
from common.schemas.losses import CrossEntropy, Loss, MeanSquaredError, Poisson, Quadratic, Quantile
from common.schemas.network import Dense, NetworkShape
from common.schemas.predictions import LEAST_EXPLAINED, Explanation, PredictionOptions

COLUMNS: list[Column] = [
    Scaled(name="age", kind="numeric", mean=40.0, scale=12.0, seen=(18.0, 90.0)),
    Scaled(name="income", kind="numeric", mean=9.0, scale=2.0, logarithm=True, fill=7e3, indicator=True),
    QuantileNormal(name="rank", values=(0.0, 1.0, 5.0), normals=(-1.5, 0.0, 1.5), fill=1.0),
    Times(name="since", mean=1.6e9, scale=1e8, fill=1.6e9),
    Embedded(name="zip", categories=("10", "20", "30"), missing=True, vector=3),
    OneHot(name="city", categories=("Oslo", "Rome"), missing=False, other=True, refuses_missing=True),
    Numbered(name="size", categories=("s", "m", "l"), missing=False, numbers=(-1.0, 0.0, 1.0), unknown=0.0),
    Scaled(name="member", kind="boolean", mean=0.4, scale=0.5),
]
LIKELY: dict[str, Any] = {
    "age": 31,
    "income": 52_000.0,
    "rank": 4.2,
    "since": "2022-07-01T08:30:00Z",
    "zip": "20",
    "city": "Rome",
    "size": "l",
    "member": True,
}
OTHER: dict[str, Any] = {**LIKELY, "age": 77, "income": None, "zip": None, "city": "Oslo", "member": False}
NOTHING: dict[str, Any] = {**dict.fromkeys(LIKELY), "city": "Berlin"}
THREE = ClassTarget(classes=("a", "b", "c"))
TWO = ClassTarget(classes=(False, True))
NUMBER = NumberTarget(mean=200.0, scale=25.0)
SHAPE = NetworkShape(layers=(Dense(units=8, activation="relu"), Dense(units=5, activation="tanh", dropout=0.5)))
KINDS: list[tuple[Target, Loss]] = [
    (THREE, CrossEntropy()),
    (THREE, Quadratic()),
    (TWO, CrossEntropy()),
    (NUMBER, MeanSquaredError()),
    (NUMBER, Quantile(quantiles=(0.1, 0.4, 0.9))),
    (NumberTarget(mean=0.0, scale=3.0), Poisson()),
]
each_kind = pytest.mark.parametrize(("target", "loss"), KINDS, ids=lambda part: getattr(part, "kind", ""))


def network_of(
    target: Target,
    loss: Loss,
    seed: int = 0,
    shape: NetworkShape = SHAPE,
    columns: Sequence[Column] = COLUMNS,
    weights: Sequence[float] | None = None,
) -> LearnedNetwork:
    """One with random weights, or with these."""
    encoder = FeatureEncoder(columns)
    size = parameter_count(shape, encoder.width, width_of(target, loss), encoder.embeddings)
    drawn = np.random.default_rng(seed).normal(0, 0.7, size) if weights is None else np.array(weights)
    document = LearnedDocument(network=shape, loss=loss, encoder=encoder.to_document(), target=target.to_document())
    return LearnedNetwork.load(document.model_dump(mode="json"), weights_to_bytes(drawn.astype(np.float32)))


def refused(network: LearnedNetwork, *in_query: str, **options: Any) -> list[tuple[str, str]]:
    with pytest.raises(Invalid) as caught:
        network.answer([LIKELY], PredictionOptions(**options), in_query)
    return [(fault.pointer, fault.code) for fault in caught.value.faults]


def explained(network: LearnedNetwork, *instances: Any, **options: Any) -> list[tuple[float, Explanation]]:
    """What is explained of each prediction, and its explanation."""
    pairs = []
    for prediction in network.answer(instances, PredictionOptions(explain=True, **options)).predictions:
        assert prediction.explanation is not None
        value = prediction.value
        if value is None:
            assert prediction.probabilities is not None
            label = prediction.label
            value = prediction.probabilities[str(label).lower() if isinstance(label, bool) else str(label)]
        pairs.append((value, prediction.explanation))
    return pairs


# Labels and probabilities


@settings(max_examples=50)
@given(st.integers(1, 5), st.integers(0, 2**16))
def test_the_k_most_probable_classes_are_answered_the_most_probable_first(k: int, seed: int) -> None:
    network = network_of(THREE, CrossEntropy(), seed)
    for whole, cut in zip(
        network.predict([LIKELY, OTHER]),
        network.answer([LIKELY, OTHER], PredictionOptions(top_k=k)).predictions,
        strict=True,
    ):
        assert whole.probabilities is not None
        assert cut.probabilities is not None
        ranked = sorted(whole.probabilities.items(), key=lambda pair: -pair[1])
        assert [*cut.probabilities.items()] == ranked[:k]
        assert cut.label == whole.label == next(iter(cut.probabilities))


def test_of_equally_probable_classes_the_first_comes_first() -> None:
    column: Column = Scaled(name="x", kind="numeric", mean=0.0, scale=1.0)
    network = network_of(THREE, CrossEntropy(), 0, NetworkShape(layers=()), [column], weights=[0.0] * 6)
    (prediction,) = network.answer([[1.0]], PredictionOptions(top_k=2)).predictions
    assert prediction.label == "a"
    assert [*(prediction.probabilities or {})] == ["a", "b"]


@settings(max_examples=50)
@given(st.floats(0, 1), st.integers(0, 2**16))
def test_the_second_of_two_classes_is_the_label_from_the_threshold_on(threshold: float, seed: int) -> None:
    network = network_of(TWO, CrossEntropy(), seed)
    for prediction in network.answer([LIKELY, OTHER], PredictionOptions(threshold=threshold)).predictions:
        assert prediction.probabilities is not None
        assert prediction.label is (prediction.probabilities["true"] >= threshold)


def test_a_probability_equal_to_the_threshold_is_at_it() -> None:
    network = network_of(TWO, CrossEntropy())
    (before,) = network.predict([LIKELY])
    assert before.probabilities is not None
    exactly = before.probabilities["true"]
    for threshold, label in ((exactly, True), (math.nextafter(exactly, 2), False), (0.0, True)):
        (prediction,) = network.answer([LIKELY], PredictionOptions(threshold=threshold)).predictions
        assert prediction.label is label
        assert prediction.probabilities == before.probabilities


def test_options_that_do_not_suit_the_target_are_refused_at_once_where_they_were_given() -> None:
    number, three = network_of(NUMBER, MeanSquaredError()), network_of(THREE, CrossEntropy())
    both = [("/top_k", "unsuitable_option"), ("/threshold", "unsuitable_option")]
    assert refused(number, top_k=2, threshold=0.5) == both
    assert refused(number, "threshold", top_k=2, threshold=0.5) == [both[0], ("threshold", "unsuitable_option")]
    assert refused(three, threshold=0.5) == both[1:]


# Explanations


@each_kind
def test_baseline_contributions_and_remainder_sum_to_what_is_answered(target: Target, loss: Loss) -> None:
    network = network_of(target, loss, seed=4)
    unit = target.scale if isinstance(target, NumberTarget) else 1.0
    for said, explanation in explained(network, LIKELY, OTHER, [*LIKELY.values()]):
        assert [*explanation.contributions] == [*LIKELY]
        added = math.fsum(explanation.contributions.values())
        assert explanation.baseline + added + explanation.remainder == pytest.approx(said, rel=1e-12)
        assert abs(explanation.remainder) <= 1e-3 * max(abs(said - explanation.baseline), 0.01 * unit)
        assert sum(abs(c) > 1e-9 * unit for c in explanation.contributions.values()) > 4


@each_kind
def test_the_baseline_is_what_the_model_says_when_every_value_is_missing(target: Target, loss: Loss) -> None:
    network = network_of(target, loss, seed=5)
    (nothing,) = network.predict([NOTHING])  # a city that nobody knows stands for the one that must not be missing
    chosen = [prediction.label for prediction in network.predict([LIKELY, OTHER])]
    for label, (_, explanation) in zip(chosen, explained(network, LIKELY, OTHER), strict=True):
        if nothing.probabilities is None:
            assert explanation.baseline == nothing.value
        else:
            name = str(label).lower() if isinstance(label, bool) else str(label)
            assert explanation.baseline == pytest.approx(nothing.probabilities[name], abs=1e-7)


@each_kind
def test_columns_that_say_what_a_missing_value_says_add_nothing(target: Target, loss: Loss) -> None:
    network = network_of(target, loss, seed=6)
    ((said, explanation),) = explained(network, NOTHING)
    assert set(explanation.contributions.values()) == {0.0}
    assert said == explanation.baseline
    for name in ("age", "zip", "city", "since"):
        ((_, explanation),) = explained(network, {**NOTHING, name: LIKELY[name]})
        assert {column for column, added in explanation.contributions.items() if added} == {name}


def test_a_linear_model_is_explained_by_its_weights_in_the_units_of_the_target() -> None:
    columns = [Scaled(name=name, kind="numeric", mean=m, scale=s) for name, m, s in (("x", 2.0, 4.0), ("y", -1.0, 0.5))]
    network = network_of(NUMBER, MeanSquaredError(), shape=NetworkShape(layers=()), columns=[*columns])
    weights = network.predictor.parameters["layer0.weights"][:, 0].astype(np.float64)
    for (_, explanation), (x, y) in zip(explained(network, [10.0, -1.0], [0.0, 4.0]), ((10, -1), (0, 4)), strict=True):
        expected = NUMBER.scale * weights * [(x - 2) / 4, (y + 1) / 0.5]
        assert [*explanation.contributions.values()] == pytest.approx(expected.tolist(), rel=1e-6)
        assert explanation.remainder == pytest.approx(0, abs=1e-4)


def test_the_label_that_the_threshold_chose_is_what_is_explained() -> None:
    network = network_of(TWO, CrossEntropy(), seed=7)
    ((above, of_second),) = explained(network, LIKELY, threshold=0.0)
    ((below, of_first),) = explained(network, LIKELY, threshold=1.0)
    assert above + below == pytest.approx(1)
    for column, added in of_second.contributions.items():
        assert of_first.contributions[column] == pytest.approx(-added, abs=1e-6)


def test_no_more_are_explained_at_once_than_the_size_of_the_network_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(TWO, CrossEntropy())
    assert network.most_explained == 1000
    with pytest.raises(TooLarge, match="At most 1000 instances are explained"):
        network.answer([LIKELY] * 1001, PredictionOptions(explain=True))
    monkeypatch.setattr("common.learned._MOST_WORK", 20 * network.predictor.size)
    assert network.most_explained == 20
    monkeypatch.setattr("common.learned._MOST_WORK", network.predictor.size)
    assert network.most_explained == LEAST_EXPLAINED
    assert len(network.answer([LIKELY] * 9).predictions) == 9  # without explanations


def test_what_cannot_be_explained_with_finite_numbers_is_refused() -> None:
    column: Column = Scaled(name="x", kind="numeric", mean=0.0, scale=1.0)
    target = NumberTarget(mean=0.0, scale=1.5e308)
    network = network_of(target, MeanSquaredError(), 0, NetworkShape(layers=()), [column], weights=[1.0, -0.65])
    instances = [[0.1], [1.3]]  # the second one is further from the baseline than the largest float
    assert len(network.predict(instances)) == 2
    with pytest.raises(Invalid) as caught:
        network.answer(instances, PredictionOptions(explain=True))
    assert [(fault.pointer, fault.code) for fault in caught.value.faults] == [("/instances/1", "non_finite_output")]


# Warnings


def test_strange_values_are_predicted_and_told_of() -> None:
    network = network_of(THREE, CrossEntropy())
    answer = network.answer([LIKELY, {**LIKELY, "age": 900, "zip": "nowhere"}, {**LIKELY, "city": "Berlin"}])
    assert len(answer.predictions) == 3
    assert [(warning.pointer, warning.code) for warning in answer.warnings] == [
        ("/instances/1/age", "far_outside_training_range"),
        ("/instances/1/zip", "unknown_category"),
        ("/instances/2/city", "unknown_category"),
    ]
    assert not any(word in warning.message for warning in answer.warnings for word in ("900", "nowhere", "Berlin"))


def test_a_hundred_warnings_are_told_and_how_many_more_there_are() -> None:
    network = network_of(THREE, CrossEntropy())
    strange = {**LIKELY, "age": -900, "city": "Berlin"}
    assert len(network.answer([strange] * 50).warnings) == 100
    *first, last = network.answer([strange] * 1000).warnings
    assert [warning.pointer for warning in first[-2:]] == ["/instances/49/age", "/instances/49/city"]
    assert (len(first), last.pointer, last.code) == (100, "/instances", "more_warnings")
    assert last.message.startswith("1,900 more values")


def test_names_are_escaped_in_pointers() -> None:
    column: Column = Scaled(name="a/b~c", kind="numeric", mean=0.0, scale=1.0, seen=(0.0, 1.0))
    network = network_of(NUMBER, MeanSquaredError(), columns=[column])
    assert [warning.pointer for warning in network.answer([[9.0]]).warnings] == ["/instances/0/a~1b~0c"]
