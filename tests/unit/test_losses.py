"""Losses against scikit-learn and plain Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from common.network.losses import CrossEntropy, MeanSquaredError, make_loss
from common.schemas import training

quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)


@quick
@given(st.integers(1, 30), st.integers(2, 6), st.integers(0, 2**32))
def test_cross_entropy_equals_scikit_learns_log_loss(rows: int, classes: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (rows, classes))
    targets = generator.integers(0, classes, rows)
    loss = CrossEntropy(classes, rows, np.float64)
    probabilities = np.empty_like(logits)
    loss.predict(logits, probabilities)
    expected = sklearn.metrics.log_loss(targets, probabilities, labels=np.arange(classes), normalize=False)
    assert loss.forward(logits, targets) == pytest.approx(expected, rel=1e-10)
    gradient = np.empty_like(logits)
    assert loss.forward_backward(logits, targets, gradient) == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(gradient, probabilities - np.eye(classes)[targets], atol=1e-12)


@quick
@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 2**32))
def test_mean_squared_error_equals_scikit_learns(rows: int, width: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    outputs, targets = generator.normal(size=(2, rows, width))
    loss = MeanSquaredError(width, rows, np.float64)
    expected = rows * sklearn.metrics.mean_squared_error(targets, outputs)
    gradient = np.empty_like(outputs)
    assert loss.forward(outputs, targets) == pytest.approx(expected, rel=1e-12)
    assert loss.forward_backward(outputs, targets, gradient) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(gradient, 2 * (outputs - targets) / width, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_logits_give_the_exact_finite_loss(dtype: type[np.floating]) -> None:
    logits = np.array([[1e4, -1e4], [-1e4, 1e4], [1e4, 1e4], [-1e4, -1e4]], dtype)
    targets = np.array([0, 0, 1, 0])
    expected = 0 + 2e4 + 2 * math.log(2)
    loss = CrossEntropy(2, 4, dtype)
    gradient = np.empty_like(logits)
    assert loss.forward(logits, targets) == pytest.approx(expected, rel=1e-6)
    assert loss.forward_backward(logits, targets, gradient) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_array_equal(gradient, [[0, 0], [-1, 1], [0.5, -0.5], [-0.5, 0.5]])
    loss.predict(logits, gradient)
    np.testing.assert_array_equal(gradient, [[1, 0], [0, 1], [0.5, 0.5], [0.5, 0.5]])


@pytest.mark.parametrize("spec", [training.CrossEntropy(), training.MeanSquaredError()], ids=lambda s: s.kind)
def test_the_gradient_may_take_the_place_of_the_outputs(spec: Any) -> None:
    generator = np.random.default_rng(0)
    outputs = generator.normal(size=(6, 3))
    targets = generator.integers(0, 3, 6) if spec.kind == "cross_entropy" else generator.normal(size=(6, 3))
    loss = make_loss(spec, 3, 10, np.float64)
    gradient, same = np.empty_like(outputs), outputs.copy()
    assert loss.forward_backward(outputs, targets, gradient) == loss.forward_backward(same, targets, same)
    assert np.array_equal(gradient, same)


@pytest.mark.parametrize(
    "targets",
    [np.array([0, 3]), np.array([0, -1]), np.array([0, 1], np.int32), np.array([0]), np.array([[0], [1]])],
    ids=["too large", "negative", "int32", "too few", "two dimensions"],
)
def test_targets_that_are_no_classes_are_refused(targets: Any) -> None:
    loss = CrossEntropy(3, 2, np.float64)
    outputs = np.zeros((2, 3))
    with pytest.raises(ValueError, match="target"):
        loss.forward_backward(outputs, targets, outputs)
    with pytest.raises(ValueError, match="target"):
        loss.forward(outputs, targets)


def test_targets_of_another_shape_or_dtype_than_the_outputs_are_refused() -> None:
    loss = MeanSquaredError(1, 2, np.float32)
    outputs = np.zeros((2, 1), np.float32)
    with pytest.raises(ValueError, match="shape"):
        loss.forward_backward(outputs, np.zeros(2, np.float32), outputs)  # would broadcast to (2, 2)
    with pytest.raises(ValueError, match="float32"):
        loss.forward(outputs, np.zeros((2, 1)))


@pytest.mark.parametrize("spec", [training.CrossEntropy(), training.MeanSquaredError()], ids=lambda s: s.kind)
def test_no_rows_have_no_loss(spec: Any) -> None:
    loss = make_loss(spec, 3, 4, np.float32)
    outputs = np.empty((0, 3), np.float32)
    targets = np.empty(0, np.int64) if spec.kind == "cross_entropy" else outputs
    assert loss.forward_backward(outputs, targets, outputs) == 0
    assert loss.forward(outputs, targets) == 0
    loss.predict(outputs, outputs)
