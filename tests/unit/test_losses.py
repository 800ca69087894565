"""Losses against scikit-learn and plain Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.special
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.network.losses import (
    ClassLoss,
    CrossEntropy,
    Huber,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    NumberLoss,
    Poisson,
    Quadratic,
    Quantile,
    make_loss,
)
from common.network.parameters import Floats
from tests.unit.networks import LOSSES as SPECS

quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)


def forward_backward(
    loss: Loss, outputs: Floats, targets: NDArray[Any], weights: Floats | None = None
) -> tuple[float, Floats]:
    """The loss in training and its gradient."""
    gradient = outputs.copy(order="F")
    return loss.bind(gradient).forward_backward(targets, weights), gradient


def weights_of(rows: int, generator: np.random.Generator) -> NDArray[np.float64]:
    weights = generator.uniform(0, 3, rows) * generator.integers(0, 2, rows)
    weights[0] = 1.5  # scikit-learn divides by their sum
    return weights


@quick
@given(st.integers(1, 30), st.integers(2, 6), st.booleans(), st.integers(0, 2**32))
def test_cross_entropy_equals_scikit_learns_log_loss(rows: int, classes: int, weighted: bool, seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (rows, classes))
    targets = generator.integers(0, classes, rows)
    weights = weights_of(rows, generator) if weighted else None
    loss = CrossEntropy(classes, np.float64)
    probabilities = np.empty_like(logits)
    loss.predict(logits, probabilities)
    expected = sklearn.metrics.log_loss(
        targets, probabilities, labels=np.arange(classes), normalize=False, sample_weight=weights
    )
    assert loss.forward(logits, targets, weights) == pytest.approx(expected, rel=1e-10)
    trained, gradient = forward_backward(loss, logits, targets, weights)
    assert trained == pytest.approx(expected, rel=1e-10)
    factors = np.ones((rows, 1)) if weights is None else weights[:, np.newaxis]
    np.testing.assert_allclose(gradient, factors * (probabilities - np.eye(classes)[targets]), atol=1e-12)


@quick
@given(st.integers(1, 30), st.integers(1, 4), st.booleans(), st.integers(0, 2**32))
def test_mean_squared_error_equals_scikit_learns(rows: int, width: int, weighted: bool, seed: int) -> None:
    generator = np.random.default_rng(seed)
    outputs, targets = generator.normal(size=(2, rows, width))
    weights = weights_of(rows, generator) if weighted else None
    loss = MeanSquaredError(width, np.float64)
    total = rows if weights is None else weights.sum()
    expected = total * sklearn.metrics.mean_squared_error(targets, outputs, sample_weight=weights)
    assert loss.forward(outputs, targets, weights) == pytest.approx(expected, rel=1e-12)
    trained, gradient = forward_backward(loss, outputs, targets, weights)
    assert trained == pytest.approx(expected, rel=1e-12)
    factors = np.ones((rows, 1)) if weights is None else weights[:, np.newaxis]
    np.testing.assert_allclose(gradient, factors * 2 * (outputs - targets) / width, rtol=1e-12)


@quick
@given(st.integers(1, 30), st.booleans(), st.integers(0, 2**32))
def test_losses_of_numbers_equal_those_of_scikit_learn_and_scipy(rows: int, weighted: bool, seed: int) -> None:
    generator = np.random.default_rng(seed)
    outputs, targets = generator.normal(size=(2, rows, 1))
    counts = generator.poisson(2, (rows, 1)).astype(np.float64)
    weights = weights_of(rows, generator) if weighted else None
    total = rows if weights is None else weights.sum()
    factors = np.ones(rows) if weights is None else weights
    three, quantiles = outputs + np.array([-0.5, 0.1, 0.4]), (0.1, 0.5, 0.8)
    pinball = [
        sklearn.metrics.mean_pinball_loss(targets, three[:, [i]], sample_weight=weights, alpha=quantile)
        for i, quantile in enumerate(quantiles)
    ]
    deviance = sklearn.metrics.mean_poisson_deviance(counts, np.exp(outputs), sample_weight=weights)
    cases: list[tuple[Loss, Floats, Floats, float]] = [
        (
            MeanAbsoluteError(1, np.float64),
            outputs,
            targets,
            total * sklearn.metrics.mean_absolute_error(targets, outputs, sample_weight=weights),
        ),
        (
            Huber(1, np.float64, 0.7),
            outputs,
            targets,
            float(factors @ scipy.special.huber(0.7, outputs - targets)[:, 0]),
        ),
        (Quantile(3, np.float64, quantiles), three, targets, total * float(np.mean(pinball))),
        (Poisson(1, np.float64), outputs, counts, total * deviance / 2),
    ]
    for loss, given_outputs, given_targets, expected in cases:
        assert loss.forward(given_outputs, given_targets, weights) == pytest.approx(expected, rel=1e-9, abs=1e-12)
        trained, _ = forward_backward(loss, given_outputs, given_targets, weights)
        assert trained == pytest.approx(expected, rel=1e-9, abs=1e-12)


@quick
@given(st.integers(1, 30), st.integers(2, 6), st.sampled_from((0.0, 0.1, 0.9)), st.integers(0, 2**32))
def test_smoothing_spreads_a_share_of_the_right_class_over_all(
    rows: int, classes: int, smoothing: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    logits, targets = generator.normal(0, 3, (rows, classes)), generator.integers(0, classes, rows)
    wanted = (1 - smoothing) * np.eye(classes)[targets] + smoothing / classes
    expected = -(wanted * scipy.special.log_softmax(logits, axis=1)).sum()
    loss = CrossEntropy(classes, np.float64, smoothing)
    assert loss.forward(logits, targets) == pytest.approx(expected, rel=1e-10)
    trained, gradient = forward_backward(loss, logits, targets)
    assert trained == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(gradient, scipy.special.softmax(logits, axis=1) - wanted, atol=1e-12)
    plain = CrossEntropy(classes, np.float64).forward(logits, targets)
    assert loss.log_loss(logits, targets) == pytest.approx(plain, rel=1e-12)


@quick
@given(st.integers(1, 30), st.integers(2, 6), st.integers(0, 2**32))
def test_the_quadratic_cost_is_half_the_squared_distance_from_the_one_hot_class(
    rows: int, classes: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    outputs, targets = generator.normal(0, 3, (rows, classes)), generator.integers(0, classes, rows)
    a = scipy.special.expit(outputs)
    expected = 0.5 * ((a - np.eye(classes)[targets]) ** 2).sum()
    loss = Quadratic(classes, np.float64)
    assert loss.forward(outputs, targets) == pytest.approx(expected, rel=1e-12)
    assert forward_backward(loss, outputs, targets)[0] == pytest.approx(expected, rel=1e-12)
    predicted = np.empty_like(outputs)
    loss.predict(outputs, predicted)
    np.testing.assert_allclose(predicted, a / a.sum(axis=1, keepdims=True), rtol=1e-10)
    log_loss = sklearn.metrics.log_loss(targets, predicted, labels=np.arange(classes), normalize=False)
    assert loss.log_loss(outputs, targets) == pytest.approx(log_loss, rel=1e-9)


def test_probabilities_of_the_quadratic_cost_are_some_where_all_sigmoids_are_nothing() -> None:
    outputs = np.array([[-1e4, -2e4, -1e4], [-800, -801, -802]])
    predicted = np.empty_like(outputs)
    Quadratic(3, np.float64).predict(outputs, predicted)
    np.testing.assert_allclose(predicted.sum(axis=1), 1)
    np.testing.assert_allclose(predicted[0], [0.5, 0, 0.5])


def test_predicted_quantiles_never_cross_and_the_one_closest_to_the_median_is_the_value() -> None:
    loss = Quantile(3, np.float64, (0.05, 0.4, 0.9))
    outputs = np.array([[3.0, 1.0, 2.0]])
    predicted = np.empty_like(outputs)
    loss.predict(outputs, predicted)
    assert predicted.tolist() == [[1, 2, 3]]
    assert loss.middle == 1
    loss.predict(outputs, outputs)  # in place
    assert outputs.tolist() == [[1, 2, 3]]
    with pytest.raises(ValueError, match="2 quantiles need as many outputs, not 1"):
        Quantile(1, np.float64, (0.1, 0.2))


def test_a_count_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="below 0"):
        Poisson(1, np.float64).check(2, np.array([[1.0], [-1.0]]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_logits_give_the_exact_finite_loss(dtype: type[np.floating]) -> None:
    logits = np.array([[1e4, -1e4], [-1e4, 1e4], [1e4, 1e4], [-1e4, -1e4]], dtype)
    targets = np.array([0, 0, 1, 0])
    expected = 0 + 2e4 + 2 * math.log(2)
    loss = CrossEntropy(2, dtype)
    assert loss.forward(logits, targets) == pytest.approx(expected, rel=1e-6)
    trained, gradient = forward_backward(loss, logits, targets)
    assert trained == pytest.approx(expected, rel=1e-6)
    np.testing.assert_array_equal(gradient, [[0, 0], [-1, 1], [0.5, -0.5], [-0.5, 0.5]])
    loss.predict(logits, gradient)
    np.testing.assert_array_equal(gradient, [[1, 0], [0, 1], [0.5, 0.5], [0.5, 0.5]])


def test_a_loss_adds_up_in_float64() -> None:
    rows = 300_000
    outputs, targets = np.full((rows, 1), 0.1, np.float32), np.zeros((rows, 1), np.float32)
    weights = np.full(rows, 0.1, np.float32)
    row = float(np.float32(0.1) * np.float32(0.1))
    loss = MeanSquaredError(1, np.float32)
    assert loss.forward(outputs, targets) == pytest.approx(rows * row, rel=1e-12)
    assert loss.forward(outputs, targets, weights) == pytest.approx(rows * row * float(weights[0]), rel=1e-12)


def some_targets(loss: Loss, rows: int, generator: np.random.Generator) -> NDArray[Any]:
    if isinstance(loss, ClassLoss):
        return generator.integers(0, loss.width, rows)
    assert isinstance(loss, NumberLoss)
    return np.abs(generator.normal(size=(rows, loss.targets_width))).astype(loss.dtype)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.kind)
def test_a_bound_loss_reads_what_its_outputs_hold_at_each_call(spec: Any) -> None:
    generator = np.random.default_rng(0)
    outputs = np.empty((6, 3), order="F")
    loss = make_loss(spec, 3, np.float64)
    bound = loss.bind(outputs)
    for _ in range(2):
        outputs[:] = generator.normal(size=(6, 3))
        targets = some_targets(loss, 6, generator)
        expected, gradient = forward_backward(loss, outputs, targets)
        assert bound.forward_backward(targets) == expected
        assert np.array_equal(outputs, gradient)


def test_a_loss_is_not_bound_to_outputs_in_another_order() -> None:
    with pytest.raises(ValueError, match="copy"):
        CrossEntropy(3, np.float64).bind(np.zeros((6, 3)))


@pytest.mark.parametrize(
    "targets",
    [np.array([0, 3]), np.array([0, -1]), np.array([0, 1], np.int32), np.array([0]), np.array([[0], [1]])],
    ids=["too large", "negative", "int32", "too few", "two dimensions"],
)
def test_targets_that_are_no_classes_are_refused(targets: Any) -> None:
    loss = CrossEntropy(3, np.float64)
    with pytest.raises(ValueError, match="target"):
        loss.check(2, targets)
    with pytest.raises(ValueError, match="target"):
        loss.forward(np.zeros((2, 3)), targets)
    if targets.shape != (2,) or targets.dtype != np.int64:
        with pytest.raises(ValueError, match="target"):
            forward_backward(loss, np.zeros((2, 3)), targets)


def test_targets_of_another_shape_or_dtype_than_the_outputs_are_refused() -> None:
    loss = MeanSquaredError(1, np.float32)
    outputs = np.zeros((2, 1), np.float32)
    for targets, message in ((np.zeros(2, np.float32), "shape"), (np.zeros((2, 1)), "float32")):
        with pytest.raises(ValueError, match=message):
            forward_backward(loss, outputs, targets)  # the first would broadcast to (2, 2)
        with pytest.raises(ValueError, match=message):
            loss.forward(outputs, targets)
        with pytest.raises(ValueError, match=message):
            loss.check(2, targets)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.kind)
@pytest.mark.parametrize("weights", [np.ones(3, np.float32), np.ones((2, 1), np.float32), np.ones(2)])
def test_weights_of_another_shape_or_dtype_are_refused(spec: Any, weights: Any) -> None:
    loss = make_loss(spec, 3, np.float32)
    outputs = np.zeros((2, 3), np.float32)
    targets = some_targets(loss, 2, np.random.default_rng(0))
    with pytest.raises(ValueError, match="2 float32 weights"):
        forward_backward(loss, outputs, targets, weights)
    with pytest.raises(ValueError, match="2 float32 weights"):
        loss.forward(outputs, targets, weights)
    with pytest.raises(ValueError, match="2 float32 weights"):
        loss.check(2, targets, weights)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.kind)
def test_no_rows_have_no_loss(spec: Any) -> None:
    loss = make_loss(spec, 3, np.float32)
    outputs = np.empty((0, 3), np.float32)
    targets = some_targets(loss, 0, np.random.default_rng(0))
    loss.check(0, targets)
    assert forward_backward(loss, outputs, targets)[0] == 0
    assert loss.forward(outputs, targets) == 0
    assert loss.forward(outputs, targets, np.empty(0, np.float32)) == 0
    loss.predict(outputs, outputs)
