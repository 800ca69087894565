"""A training that begins with a model begins with what that model answers, wherever both know what they see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.features.categories import Embedded, OneHot
from common.features.encoder import FeatureEncoder
from common.features.numbers import QuantileNormal, Scaled
from common.features.target import ClassTarget, NumberTarget, Target
from common.features.times import Times
from common.identifiers import new_id
from common.learned import LearnedDocument, LearnedNetwork, output_of, width_of
from common.network.saved import weights_to_bytes
from common.network.structure import parameter_count
from common.schemas.losses import CrossEntropy, Loss, MeanSquaredError, Poisson, Quantile
from common.schemas.models import Lineage, Model
from common.schemas.network import Dense, NetworkShape
from common.store.models import StoredModel
from tests.contract import LONG_AGO
from worker.parameter_server import initial_parameters
from worker.task import TrainingTask
from worker.warm_start import warm_start

SHAPE = NetworkShape(layers=(Dense(units=6), Dense(units=5, activation="tanh")))
OLD = FeatureEncoder(
    [
        Scaled(name="length", kind="numeric", mean=5.0, scale=2.0),
        OneHot(name="colour", kind="categorical", categories=("blue", "red"), missing=True),
        Scaled(name="gone", kind="boolean", mean=0.5, scale=0.5),
        Scaled(name="other", kind="numeric", mean=0.0, scale=1.0),
    ]
)
NEW = FeatureEncoder(
    [
        OneHot(name="colour", kind="categorical", categories=("blue", "green", "red"), missing=True),
        Scaled(name="fresh", kind="numeric", mean=1.0, scale=3.0),
        Scaled(name="length", kind="numeric", mean=7.5, scale=0.25),
        OneHot(name="other", kind="categorical", categories=("a",), missing=False),
    ]
)


def loss_of(target: Target) -> Loss:
    return MeanSquaredError() if isinstance(target, NumberTarget) else CrossEntropy()


def base_of(target: Target) -> StoredModel:
    document = LearnedDocument(
        network=SHAPE,
        loss=loss_of(target),
        encoder=OLD.to_document(),
        target=target.to_document(),
    )
    count = parameter_count(SHAPE, OLD.width, width_of(target, loss_of(target)))
    weights = np.random.default_rng(3).normal(size=count).astype(np.float32)
    record = Model(
        id=new_id("mdl"),
        name="base",
        version=1,
        job_id=new_id("job"),
        dataset_id=new_id("ds"),
        task="regression" if isinstance(target, NumberTarget) else "classification",
        inputs=OLD.inputs,
        output=output_of("species", target),
        metrics={},
        parameters=count,
        created_at=LONG_AGO,
        lineage=Lineage(dataset_sha256="0" * 64, seed=1, attempt=1, request={}, versions={}),
    )
    return StoredModel(record, document.model_dump(mode="json"), weights_to_bytes(weights))


def begun(base: StoredModel, target: Target) -> tuple[TrainingTask, Any, LearnedNetwork]:
    is_number = isinstance(target, NumberTarget)
    task = TrainingTask(
        task="regression" if is_number else "classification",
        shape=SHAPE,
        loss=loss_of(target),
        optimizer={},  # type: ignore[arg-type]
        inputs=NEW.width,
        outputs=width_of(target, loss_of(target)),
        parameters=parameter_count(SHAPE, NEW.width, width_of(target, loss_of(target))),
        batch_size=1,
        shuffle=True,
        seed=9,
        workers=1,
        fence=b"",
    )
    start = warm_start(base, task, NEW, target)
    document = LearnedDocument(network=SHAPE, loss=task.loss, encoder=NEW.to_document(), target=target.to_document())
    return task, start, LearnedNetwork.load(document.model_dump(mode="json"), weights_to_bytes(start))


BOTH_KNOW: list[dict[str, object]] = [
    {"length": length, "colour": colour} for length in (-3.0, 5.0, 7.5, 40.0) for colour in ("blue", "red", None)
]


def as_old(instance: dict[str, object]) -> dict[str, object]:
    """With the columns of old at their mean, where they add nothing."""
    return {**instance, "gone": None, "other": 0.0}


def as_new(instance: dict[str, object]) -> dict[str, object]:
    return {**instance, "fresh": 123.0, "other": "a"}


def test_a_regression_answers_as_before_in_its_own_units() -> None:
    base = base_of(NumberTarget(mean=10.0, scale=3.0))
    _, _, network = begun(base, NumberTarget(mean=-100.0, scale=0.125))
    before = LearnedNetwork.load(base.document, base.weights).predict([*map(as_old, BOTH_KNOW)])
    after = network.predict([*map(as_new, BOTH_KNOW)])
    assert [p.value for p in after] == pytest.approx([p.value for p in before], rel=1e-4, abs=1e-3)


def test_a_classification_answers_as_before_with_the_same_classes_in_another_order() -> None:
    base = base_of(ClassTarget(classes=("a", "b", "c")))
    _, _, network = begun(base, ClassTarget(classes=("c", "b", "a")))
    before = LearnedNetwork.load(base.document, base.weights).predict([*map(as_old, BOTH_KNOW)])
    after = network.predict([*map(as_new, BOTH_KNOW)])
    assert [p.label for p in after] == [p.label for p in before]
    for mine, theirs in zip(after, before, strict=True):
        assert mine.probabilities == pytest.approx(theirs.probabilities, abs=1e-4)


def test_a_new_class_begins_as_a_fresh_one_and_leaves_the_others_in_their_order() -> None:
    base = base_of(ClassTarget(classes=(1, 2)))
    target = ClassTarget(classes=(1, 2, 3))
    task, start, network = begun(base, target)
    after = network.predict([*map(as_new, BOTH_KNOW)])
    before = LearnedNetwork.load(base.document, base.weights).predict([*map(as_old, BOTH_KNOW)])
    for mine, theirs in zip(after, before, strict=True):
        assert mine.probabilities is not None
        assert theirs.probabilities is not None
        known = mine.probabilities["1"] + mine.probabilities["2"]
        assert mine.probabilities["1"] / known == pytest.approx(theirs.probabilities["1"], abs=1e-4)
    outputs = -3 * (5 + 1)  # the output layer, three units of five weights and a bias
    fresh = initial_parameters(task)[outputs:]
    np.testing.assert_array_equal(start[outputs:-3].reshape(5, 3)[:, 2], fresh[:-3].reshape(5, 3)[:, 2])


def embedded(categories: tuple[str, ...], *, missing: bool) -> FeatureEncoder:
    return FeatureEncoder(
        [
            Embedded(name="zip", kind="categorical", categories=categories, missing=missing, vector=3),
            Scaled(name="length", kind="numeric", mean=5.0, scale=2.0),
        ]
    )


def before_and_after(
    old_encoder: FeatureEncoder, encoder: FeatureEncoder, loss: Loss
) -> tuple[LearnedNetwork, LearnedNetwork]:
    """A model of numbers, and what a training on other data begins with."""
    counts = loss.kind == "poisson"
    old_target, target = (NumberTarget(mean=0.0 if counts else mean, scale=scale) for mean, scale in ((9, 3), (-1, 7)))
    outputs = width_of(target, loss)
    count = parameter_count(SHAPE, old_encoder.width, outputs, old_encoder.embeddings)
    document = LearnedDocument(
        network=SHAPE, loss=loss, encoder=old_encoder.to_document(), target=old_target.to_document()
    )
    weights = weights_to_bytes(0.3 * np.random.default_rng(3).normal(size=count).astype(np.float32))
    base = StoredModel(base_of(old_target).record, document.model_dump(mode="json"), weights)
    task = TrainingTask(
        task="regression",
        shape=SHAPE,
        loss=loss,
        optimizer={},  # type: ignore[arg-type]
        inputs=encoder.width,
        outputs=outputs,
        parameters=parameter_count(SHAPE, encoder.width, outputs, encoder.embeddings),
        batch_size=1,
        shuffle=True,
        seed=9,
        workers=1,
        fence=b"",
        embeddings=encoder.embeddings,
    )
    start = warm_start(base, task, encoder, target)
    new = LearnedDocument(network=SHAPE, loss=loss, encoder=encoder.to_document(), target=target.to_document())
    after = LearnedNetwork.load(new.model_dump(mode="json"), weights_to_bytes(start))
    return LearnedNetwork.load(base.document, base.weights), after


@pytest.mark.parametrize("loss", [MeanSquaredError(), Poisson(), Quantile(quantiles=(0.2, 0.8))], ids=lambda s: s.kind)
def test_vectors_of_categories_are_carried_and_a_new_one_begins_as_the_unknown(loss: Loss) -> None:
    old_encoder, encoder = embedded(("a", "b", "c"), missing=True), embedded(("b", "c", "d"), missing=False)
    before, after = before_and_after(old_encoder, encoder, loss)
    known = [{"zip": name, "length": 4.0} for name in ("b", "c", "never seen")]
    for mine, theirs in zip(after.predict(known), before.predict(known), strict=True):
        assert mine.value == pytest.approx(theirs.value, rel=1e-4, abs=1e-4)
        assert (mine.quantiles or {}) == pytest.approx(theirs.quantiles or {}, rel=1e-4, abs=1e-4)
    (fresh,), (unknown,) = after.predict([{"zip": "d", "length": 4.0}]), before.predict([known[-1]])
    assert fresh.value == pytest.approx(unknown.value, rel=1e-4, abs=1e-4)


def odd_columns(mean: float, scale: float, *, categories: tuple[str, ...]) -> FeatureEncoder:
    return FeatureEncoder(
        [
            Times(name="at", mean=1e9 * mean, scale=1e8 * scale, fill=0.0),
            Scaled(name="count", kind="numeric", mean=mean, scale=scale, logarithm=True, indicator=True, fill=3.0),
            OneHot(name="zip", kind="categorical", categories=categories, missing=True, other=True),
        ]
    )


def test_times_logarithms_indicators_and_rare_categories_are_carried() -> None:
    old, new = odd_columns(1.0, 2.0, categories=("a", "b")), odd_columns(1.5, 0.5, categories=("b", "c"))
    before, after = before_and_after(old, new, MeanSquaredError())
    records = [
        {"at": at, "count": count, "zip": name}
        for at in ("2024-05-17T08:30:00Z", "1999-12-31")
        for count in (0, 7, None)
        for name in ("b", "c", "never seen", None)  # c was among the rare
    ]
    for mine, theirs in zip(after.predict(records), before.predict(records), strict=True):
        assert mine.value == pytest.approx(theirs.value, rel=1e-4, abs=1e-4)


def test_outputs_of_another_loss_begin_anew() -> None:
    base = base_of(NumberTarget(mean=0.0, scale=1.0))
    task, start, _ = begun(base, NumberTarget(mean=0.0, scale=1.0))
    other = replace(task, loss=Poisson())
    outputs = slice(-(5 + 1), None)
    fresh = initial_parameters(other)
    changed = warm_start(base, other, NEW, NumberTarget(mean=0.0, scale=1.0))
    np.testing.assert_array_equal(changed[outputs], fresh[outputs])
    assert not np.array_equal(start[outputs], fresh[outputs])
    np.testing.assert_array_equal(changed[: outputs.start], start[: outputs.start])


def test_a_category_that_the_model_never_saw_begins_as_an_unknown_one() -> None:
    base = base_of(NumberTarget(mean=0.0, scale=1.0))
    _, _, network = begun(base, NumberTarget(mean=0.0, scale=1.0))
    (green,) = network.predict([as_new({"length": 5.0, "colour": "green"})])
    (unknown,) = LearnedNetwork.load(base.document, base.weights).predict(
        [as_old({"length": 5.0, "colour": "never seen"})]
    )
    assert green.value == pytest.approx(unknown.value, abs=1e-4)


def test_what_is_far_from_what_it_was_begins_anew() -> None:
    old = FeatureEncoder([Scaled(name="x", kind="numeric", mean=0.0, scale=1.0)])
    new = FeatureEncoder([Scaled(name="x", kind="numeric", mean=0.0, scale=1e50)])
    _, after = before_and_after(old, new, MeanSquaredError())
    (answer,) = after.predict([{"x": 1e50}])
    assert answer.value is not None
    assert abs(answer.value) < 1e3


def test_the_range_that_a_model_has_seen_decides_nothing_of_what_it_begins_with() -> None:
    def ranks(seen: tuple[float, float] | None) -> FeatureEncoder:
        column = QuantileNormal(name="x", values=(0.0, 1.0), normals=(-1.0, 1.0), fill=0.5, indicator=True, seen=seen)
        return FeatureEncoder([column])

    _, before = before_and_after(ranks(None), ranks(None), MeanSquaredError())
    _, after = before_and_after(ranks(None), ranks((0.0, 1.0)), MeanSquaredError())
    records = [{"x": 0.2}, {"x": None}]
    assert after.predict(records) == before.predict(records)
