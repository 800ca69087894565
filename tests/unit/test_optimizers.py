"""Optimizers against the papers' formulas in plain Python floats, number by number."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import worker.optimizers
from common.schemas.training import Adam, Optimizer, Sgd
from worker.optimizers import make_optimizer

quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)
share = st.sampled_from((0.0, 0.5, 0.9, 0.999))
specs = st.one_of(
    st.builds(Sgd, learning_rate=st.floats(1e-4, 1), momentum=share),
    st.builds(
        Adam,
        learning_rate=st.floats(1e-4, 1),
        beta1=share,
        beta2=share,
        epsilon=st.sampled_from((1e-8, 1e-3, 1.0)),
    ),
)


def by_hand(spec: Optimizer, parameter: float, gradients: list[float]) -> float:
    """One parameter after the steps, as the papers (and PyTorch's documentation) write them."""
    p, m, v = parameter, 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        if isinstance(spec, Sgd):
            m = spec.momentum * m + g
            p -= spec.learning_rate * m
        else:
            m = spec.beta1 * m + (1 - spec.beta1) * g
            v = spec.beta2 * v + (1 - spec.beta2) * g * g
            step_size = spec.learning_rate / (1 - spec.beta1**t)
            p -= step_size * m / (math.sqrt(v) / math.sqrt(1 - spec.beta2**t) + spec.epsilon)
    return p


def some_steps(seed: int, size: int, steps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    gradients = generator.normal(size=(steps, size)) * 10.0 ** generator.integers(-6, 3, (1, size))
    return generator.normal(size=size), gradients


@quick
@given(specs, st.integers(0, 2**32), st.integers(1, 12))
def test_every_parameter_follows_the_papers_formula(spec: Optimizer, seed: int, steps: int) -> None:
    parameters, gradients = some_steps(seed, 9, steps)
    start = parameters.copy()
    optimizer = make_optimizer(spec, 9, np.float64)
    for gradient in gradients:
        optimizer.step(parameters, gradient)
    expected = [by_hand(spec, start[i], list(gradients[:, i])) for i in range(9)]
    np.testing.assert_allclose(parameters, expected, rtol=1e-11, atol=1e-11)


@quick
@given(specs, st.integers(0, 2**32))
def test_float32_stays_close_to_float64(spec: Optimizer, seed: int) -> None:
    exact, gradients = some_steps(seed, 50, 10)
    rounded = exact.astype(np.float32)
    start = exact.copy()
    optimizers = make_optimizer(spec, 50, np.float64), make_optimizer(spec, 50, np.float32)
    for gradient in gradients:
        optimizers[0].step(exact, gradient)
        optimizers[1].step(rounded, gradient.astype(np.float32))
    moved = np.abs(exact - start).max()
    np.testing.assert_allclose(rounded, exact, rtol=1e-4, atol=1e-5 * (1 + moved))


@pytest.mark.parametrize("spec", [Sgd(momentum=0.9), Sgd(), Adam()], ids=["momentum", "sgd", "adam"])
def test_ranges_in_any_order_and_block_size_give_the_same_bits_as_one_step(
    spec: Optimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, gradients = some_steps(4, 1000, 5)
    whole, ranges = start.copy(), start.copy()
    optimizer = make_optimizer(spec, 1000, np.float64)
    for gradient in gradients:
        optimizer.step(whole, gradient)
    monkeypatch.setattr(worker.optimizers, "BLOCK", 64)
    optimizer = make_optimizer(spec, 1000, np.float64)
    for gradient in gradients:
        given_gradient = gradient.copy()
        optimizer.begin_step()
        for first, last in ((700, 1000), (0, 1), (1, 700), (700, 700)):
            optimizer.update(ranges, gradient, first, last)
        assert np.array_equal(gradient, given_gradient)
    assert np.array_equal(whole, ranges)


def test_adam_moves_every_parameter_by_the_learning_rate_in_its_first_step() -> None:
    parameters = np.zeros(4)
    make_optimizer(Adam(learning_rate=0.1), 4, np.float64).step(parameters, np.array([1e-3, -5.0, 1e3, 0.0]))
    np.testing.assert_allclose(parameters, [-0.1, 0.1, -0.1, 0.0], rtol=1e-4)


@pytest.mark.parametrize("spec", [Sgd(momentum=0.9), Sgd(), Adam()], ids=["momentum", "sgd", "adam"])
def test_a_step_allocates_no_arrays(spec: Optimizer) -> None:
    size = 100_000
    parameters, gradient = np.zeros(size, np.float32), np.ones(size, np.float32)
    optimizer = make_optimizer(spec, size, np.float32)
    optimizer.step(parameters, gradient)
    tracemalloc.start()
    try:
        optimizer.step(parameters, gradient)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(5):
            optimizer.step(parameters, gradient)
        assert tracemalloc.get_traced_memory()[1] - before < 6000
    finally:
        tracemalloc.stop()


def test_an_infinite_gradient_passes_without_a_warning() -> None:
    parameters = np.zeros(2, np.float32)
    optimizer: Any = make_optimizer(Adam(), 2, np.float32)
    optimizer.step(parameters, np.array([np.inf, 1e30], np.float32))
    assert np.isnan(parameters[0])


def test_what_does_not_fit_is_refused() -> None:
    optimizer = make_optimizer(Adam(), 5, np.float32)
    vector = np.zeros(5, np.float32)
    with pytest.raises(ValueError, match="begin_step"):
        optimizer.update(vector, vector, 0, 5)
    with pytest.raises(ValueError, match="float32 vector"):
        optimizer.step(vector, np.zeros(5))
    with pytest.raises(ValueError, match="shape"):
        optimizer.step(vector[:4], vector[:4])
    with pytest.raises(ValueError, match="range"):
        optimizer.update(vector, vector, 0, 6)
