"""Metrics against scikit-learn, whole and in shards."""

from __future__ import annotations

import math
from dataclasses import astuple, fields
from fractions import Fraction
from random import Random

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from common.network.losses import CrossEntropy
from common.network.metrics import MetricSums, classification_sums, regression_sums

quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)


@quick
@given(st.integers(2, 50), st.lists(st.integers(0, 50), max_size=4), st.booleans(), st.integers(0, 2**32))
def test_shards_together_have_scikit_learns_classification_metrics(
    rows: int, cuts: list[int], weighted: bool, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    outputs = generator.normal(size=(rows, 3))
    targets = generator.integers(0, 3, rows)
    weights = generator.uniform(0.1, 4, rows)
    loss = CrossEntropy(3, np.float64)
    bounds = sorted(min(cut, rows) for cut in cuts)
    shards = []
    for a, b in zip([0, *bounds], [*bounds, rows], strict=True):
        loss_sum = loss.forward(outputs[a:b], targets[a:b], weights[a:b] if weighted else None)
        weight = float(weights[a:b].sum()) if weighted else float(b - a)
        shards.append(classification_sums(outputs[a:b], targets[a:b], 2 * loss_sum, loss_sum, weight))
    sums = MetricSums.total(shards)
    probabilities = np.empty_like(outputs)
    loss.predict(outputs, probabilities)
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(targets, outputs.argmax(axis=1)),
        "log_loss": sklearn.metrics.log_loss(
            targets, probabilities, labels=[0, 1, 2], sample_weight=weights if weighted else None
        ),
    }
    assert sums.rows == rows
    assert sums.metrics("classification") == pytest.approx(expected, rel=1e-10)
    assert sums.loss == pytest.approx(2 * expected["log_loss"], rel=1e-10)


@quick
@given(
    st.integers(2, 50),
    st.lists(st.integers(0, 50), max_size=4),
    st.sampled_from((0.0, 1.0, 1e6, -1e9)),
    st.integers(0, 2**32),
)
def test_shards_together_have_scikit_learns_regression_metrics_in_the_targets_units(
    rows: int, cuts: list[int], offset: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    scale = 12.5
    targets, outputs = generator.normal(size=(2, rows, 1))
    bounds = sorted(min(cut, rows) for cut in cuts)
    shards = [
        regression_sums(outputs[a:b], targets[a:b], 0.0, b - a)
        for a, b in zip([0, *bounds], [*bounds, rows], strict=True)
    ]
    sums = MetricSums.total(shards)
    true, predicted = targets * scale + offset, outputs * scale + offset
    expected = {
        "rmse": sklearn.metrics.root_mean_squared_error(true, predicted),
        "mae": sklearn.metrics.mean_absolute_error(true, predicted),
        "r2": sklearn.metrics.r2_score(true, predicted),
    }
    assert sums.metrics("regression", scale) == pytest.approx(expected, rel=1e-5 if offset else 1e-10)


@pytest.mark.parametrize(("error", "r2"), [(0.0, 1.0), (0.1, 0.0)])
def test_r2_of_equal_targets_is_finite(error: float, r2: float) -> None:
    targets = np.full((7, 1), 0.1)
    assert regression_sums(targets + error, targets, 0.0, 7.0).metrics("regression")["r2"] == r2


def test_metrics_of_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        MetricSums().metrics("classification")
    with pytest.raises(ValueError, match="at least one row"):
        _ = MetricSums().loss
    with pytest.raises(ValueError, match="some weight"):
        _ = MetricSums(rows=3, weight=0.0).loss


def test_regression_targets_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        regression_sums(np.zeros((3, 1)), np.zeros(3), 0.0, 3.0)


parts = st.builds(
    MetricSums,
    rows=st.integers(0, 2**60),
    correct=st.integers(0, 2**60),
    **{
        name: st.floats(allow_nan=False, allow_infinity=False)
        for name in (
            "weight",
            "loss_sum",
            "log_loss_sum",
            "squared_error",
            "absolute_error",
            "target_sum",
            "target_square_sum",
        )
    },
)


@quick
@given(st.lists(parts, max_size=6), st.randoms(use_true_random=False))
def test_a_total_is_the_exact_sum_rounded_once_in_any_order(shards: list[MetricSums], random: Random) -> None:
    total = MetricSums.total(shards)
    for field in fields(MetricSums):
        exact = sum((Fraction(getattr(shard, field.name)) for shard in shards), Fraction(0))
        try:
            expected: float = int(exact) if isinstance(field.default, int) else float(exact)
        except OverflowError:
            expected = math.inf if exact > 0 else -math.inf
        assert getattr(total, field.name) == expected
    random.shuffle(shards)
    assert MetricSums.total(shards) == total


def test_totals_of_numbers_without_end_do_not_fail() -> None:
    total = MetricSums.total([MetricSums(loss_sum=math.inf, target_sum=a) for a in (math.inf, -math.inf, 1.0)])
    assert total.loss_sum == math.inf
    assert math.isnan(total.target_sum)
    assert astuple(MetricSums.total([])) == astuple(MetricSums())
