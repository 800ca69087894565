"""What each column adds to a prediction, against an autodiff library and where it is known exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
from autograd.tracer import getval
from hypothesis import given, settings
from numpy.typing import NDArray

from common.attribution import MOST_DEPTH, MOST_HALVED, NODES, SMALL, TOLERANCE, integrated_gradients
from common.network.embedding import Embedding
from common.network.losses import make_loss
from common.network.network import Predictor
from common.network.parameters import Floats
from common.schemas.losses import CrossEntropy, MeanSquaredError, Poisson, Quadratic, Quantile
from common.schemas.network import Dense, LayerNorm, NetworkShape, Residual
from tests.unit.networks import LOSSES, Case, Oracle, cases, largest_error, make_case

Numbers = NDArray[np.float64]
SMOOTH = NetworkShape(
    layers=(
        Dense(units=6, activation="tanh", dropout=0.5),
        Residual(layers=(LayerNorm(), Dense(units=6, activation="gelu"))),
        Dense(units=5, activation="softplus"),
    ),
    input_dropout=0.2,
)


def predictor_of(case: Case) -> Predictor:
    return Predictor(case.shape, case.inputs, case.outputs, case.loss, case.parameters, case.embeddings)


class Predicted(Oracle):
    """One prediction of each row, as a function of rows whose categories are vectors already, in autograd's terms."""

    chosen: NDArray[np.intp]

    def _embedded(self, x: Any, named: dict[str, Any]) -> Any:
        del named
        return x

    def _losses(self, outputs: Any) -> Any:
        if isinstance(self.case.loss, CrossEntropy):
            shares = anp.exp(outputs - anp.max(outputs, axis=1, keepdims=True))
            outputs = shares / anp.sum(shares, axis=1, keepdims=True)
        elif isinstance(self.case.loss, Quadratic):
            logarithms = -anp.logaddexp(0, -outputs)
            shares = anp.exp(logarithms - anp.max(logarithms, axis=1, keepdims=True))
            outputs = shares / anp.sum(shares, axis=1, keepdims=True)
        elif isinstance(self.case.loss, Poisson):
            outputs = anp.exp(outputs)
        elif isinstance(self.case.loss, Quantile):
            order = np.argsort(getval(outputs), axis=1)
            self.kinks.note(np.diff(np.sort(getval(outputs), axis=1)))
            return outputs[np.arange(len(outputs)), order[np.arange(len(outputs)), self.chosen]]
        return outputs[np.arange(len(outputs)), self.chosen]


def oracle_of(case: Case, chosen: NDArray[np.intp]) -> Predicted:
    case.weights = None
    oracle = Predicted(case, with_dropout=False)
    oracle.chosen = chosen
    return oracle


def choices(case: Case) -> NDArray[np.intp]:
    return np.random.default_rng(5).integers(0, case.outputs, len(case.x))


@settings(max_examples=80)
@given(cases(dropout=(0.0, 0.3)))
def test_slopes_of_predictions_equal_those_of_an_autodiff_library(case: Case) -> None:
    predictor, chosen = predictor_of(case), choices(case)
    x = predictor.embedded(case.x)
    oracle = oracle_of(case, chosen)
    oracle(case.parameters, x)
    if oracle.kinks.nearest > 1e-9:
        expected = autograd.grad(oracle, 1)(case.parameters, x)
        outputs, slopes = predictor.slopes(x, chosen)
        assert largest_error(slopes, expected) < 1e-9
        assert largest_error(outputs, predictor.predict(case.x)[np.arange(len(x)), chosen]) < 1e-12


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.kind)
def test_integrals_equal_those_of_many_small_steps_with_an_autodiff_library(loss: Any) -> None:
    case = make_case(SMOOTH, 5, 3, loss, rows=3, seed=2, embeddings=(Embedding(1, 4, 2), Embedding(3, 2, 1)))
    predictor, chosen = predictor_of(case), choices(case)
    found = attributed(predictor, case.x, np.zeros((1, 5)), chosen)
    x, baseline = predictor.embedded(case.x), predictor.embedded(np.zeros((1, 5)))[0]
    steps = 400
    for row in range(len(x)):
        points = baseline + (np.arange(steps)[:, np.newaxis] + 0.5) / steps * (x[row] - baseline)
        every = autograd.grad(oracle_of(case, np.repeat(chosen[row], steps)), 1)(case.parameters, points)
        expected = (x[row] - baseline) * every.mean(axis=0)
        assert largest_error(found[row], expected) < 1e-4  # that is what so many steps give


def attributed(predictor: Predictor, x: Floats, baseline: Floats, chosen: NDArray[np.intp], most: int = 100) -> Numbers:
    return integrated_gradients(
        lambda points, rows: predictor.slopes(points, chosen[rows]),
        predictor.embedded(x),
        predictor.embedded(baseline)[0],
        most,
    )


def differences(predictor: Predictor, x: Floats, baseline: Floats, chosen: NDArray[np.intp]) -> Numbers:
    return np.asarray(predictor.predict(x)[np.arange(len(x)), chosen] - predictor.predict(baseline)[0, chosen])


@settings(max_examples=30)
@given(cases())
def test_contributions_sum_to_the_difference_between_both_outputs(case: Case) -> None:
    predictor, chosen = predictor_of(case), choices(case)
    baseline = np.zeros((1, case.inputs))
    wanted = differences(predictor, case.x, baseline, chosen)
    found = attributed(predictor, case.x, baseline, chosen, most=1000)
    assert (np.abs(found.sum(axis=1) - wanted) <= TOLERANCE * np.maximum(np.abs(wanted), SMALL)).all()


def test_a_linear_network_adds_its_weights_times_the_distance_from_the_baseline() -> None:
    case = make_case(NetworkShape(layers=()), 4, 2, MeanSquaredError(), rows=5, seed=3)
    predictor, chosen = predictor_of(case), choices(case)
    baseline = np.array([[0.5, -1.0, 2.0, 0.0]])
    found = attributed(predictor, case.x, baseline, chosen)
    weights = case.parameters[:8].reshape(4, 2)
    assert found == pytest.approx((case.x - baseline) * weights[:, chosen].T, abs=1e-12)


class Counted:
    """A function of known gradient, that counts where it was asked for."""

    def __init__(self, function: Callable[[Floats], tuple[Floats, Floats]]) -> None:
        self.function = function
        self.points: list[int] = []
        self.calls: list[int] = []

    def __call__(self, points: Floats, rows: NDArray[np.intp]) -> tuple[Floats, Floats]:
        assert len(points) == len(rows)
        self.points += rows.tolist()
        self.calls.append(len(points))
        return self.function(points)


def bent(points: Floats) -> tuple[Floats, Floats]:
    """1000 max(x - 0.3, 0) + 2 y."""
    x, y = points.T
    return 1000 * np.maximum(x - 0.3, 0) + 2 * y, np.stack([1000.0 * (x > 0.3), np.full(len(x), 2.0)], axis=1)


def test_a_path_is_looked_at_more_closely_where_its_slope_jumps_and_nowhere_else() -> None:
    counted = Counted(bent)
    found = integrated_gradients(counted, np.array([[0.2, 1.0], [1.0, 3.0]]), np.zeros(2), 10)
    assert found == pytest.approx(np.array([[0.0, 2.0], [700.0, 6.0]]), rel=1e-3)
    assert max(counted.calls) == 10
    straight, jumping = counted.points.count(0), counted.points.count(1)
    assert straight == 2 + NODES
    assert 2 + 7 * NODES < jumping <= 2 + NODES * (1 + 2 * MOST_DEPTH)


def test_a_path_without_end_of_jumps_is_given_up_after_so_many_looks() -> None:
    generator = np.random.default_rng(1)

    def noise(points: Floats) -> tuple[Floats, Floats]:
        return generator.normal(size=len(points)), generator.normal(size=points.shape)

    counted = Counted(noise)
    integrated_gradients(counted, np.ones((1, 1)), np.zeros(1), 1000)
    assert len(counted.points) <= 2 + NODES * (1 + 2 + 4 + 8 + 2 * MOST_HALVED * MOST_DEPTH)


def test_how_many_points_are_looked_at_at_a_time_changes_nothing() -> None:
    case = make_case(SMOOTH, 3, 3, CrossEntropy(), rows=4, seed=8, scale=5.0)
    predictor, chosen = predictor_of(case), choices(case)
    few, many = (attributed(predictor, case.x, np.zeros((1, 3)), chosen, most) for most in (1, 10_000))
    assert few == pytest.approx(many, abs=1e-12)


def test_what_is_as_in_the_baseline_and_what_a_network_does_not_look_at_add_nothing() -> None:
    case = make_case(NetworkShape(layers=(Dense(units=4, activation="relu"),)), 3, 2, CrossEntropy(), rows=6, seed=1)
    case.parameters[:4] = 0  # all weights of the first input
    case.x[:, 1] = 0.25
    predictor, chosen = predictor_of(case), choices(case)
    found = attributed(predictor, case.x, np.array([[0.0, 0.25, 0.0]]), chosen)
    assert not found[:, :2].any()
    assert found[:, 2].all()


def test_a_prediction_that_is_not_finite_has_no_finite_contributions_and_no_warning() -> None:
    def overflowing(points: Floats) -> tuple[Floats, Floats]:
        with np.errstate(over="ignore"):
            return np.exp(points[:, 0] * 1e4), 1e4 * np.exp(points * 1e4)

    found = integrated_gradients(Counted(overflowing), np.ones((1, 1)), np.zeros(1), 64)
    assert not np.isfinite(found).any()


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.kind)
def test_the_slope_of_a_prediction_does_not_overflow_where_outputs_are_large(loss: Any) -> None:
    width = len(loss.quantiles) if isinstance(loss, Quantile) else 3
    if isinstance(loss, Poisson):
        return  # a rate that is infinite has no slope
    outputs = np.array([[800.0, -800.0, 3.0], [-900.0, -901.0, -902.0]], np.float32, order="F")[:, :width]
    with np.errstate(over="ignore"):
        make_loss(loss, width, np.float32).slope(outputs, np.array([0, 2]))
    assert np.isfinite(outputs).all()
