"""Optimizers against the papers' formulas in plain Python floats, number by number."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import worker.optimizers
from common.network.quiet import quiet
from common.schemas.optimizers import (
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    Momentum,
    Nesterov,
    Optimizer,
    RmsProp,
    Sgd,
)
from worker.optimizers import Penalties, make_optimizer

quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)
share = st.sampled_from((0.0, 0.5, 0.9, 0.999))
rate = st.floats(1e-4, 1)
epsilon = st.sampled_from((1e-8, 1e-3, 1.0))
specs = st.one_of(
    st.builds(Sgd, learning_rate=rate, momentum=share),
    st.builds(Momentum, learning_rate=rate, momentum=share),
    st.builds(Nesterov, learning_rate=rate, momentum=share),
    st.builds(Adagrad, learning_rate=rate, epsilon=epsilon),
    st.builds(Adadelta, learning_rate=rate, rho=share, epsilon=epsilon),
    st.builds(RmsProp, learning_rate=rate, rho=share, epsilon=epsilon),
    st.builds(Adam, learning_rate=rate, beta1=share, beta2=share, epsilon=epsilon),
    st.builds(AdamW, learning_rate=rate, beta1=share, beta2=share, epsilon=epsilon),
)
penalties = st.builds(
    Penalties,
    l1=st.sampled_from((0.0, 0.01)),
    l2=st.sampled_from((0.0, 0.3)),
    weight_decay=st.sampled_from((0.0, 0.1)),
    clip_value=st.sampled_from((None, 0.5)),
    spans=st.sampled_from(((), (slice(0, 9),), (slice(1, 3), slice(5, 9)))),
)


def by_hand(
    spec: Optimizer,
    parameter: float,
    gradients: list[float],
    keep: Penalties = Penalties(),  # noqa: B008
    *,
    is_weight: bool = False,
) -> float:
    """One parameter after the steps, as the papers (and PyTorch's documentation) write them."""
    p, m, v = parameter, 0.0, 0.0
    for t, given_gradient in enumerate(gradients, start=1):
        g = given_gradient
        if keep.clip_value is not None:
            g = max(-keep.clip_value, min(keep.clip_value, g))
        if is_weight:
            g += keep.l2 * p + keep.l1 * float(np.sign(p))
            p -= spec.learning_rate * keep.weight_decay * p
        match spec:
            case Sgd() | Momentum():
                m = spec.momentum * m + g
                p -= spec.learning_rate * m
            case Nesterov():
                m = spec.momentum * m + g
                p -= spec.learning_rate * (g + spec.momentum * m)
            case Adagrad():
                v += g * g
                p -= spec.learning_rate * g / (math.sqrt(v) + spec.epsilon)
            case Adadelta():
                v = spec.rho * v + (1 - spec.rho) * g * g
                move = math.sqrt(m + spec.epsilon) / math.sqrt(v + spec.epsilon) * g
                m = spec.rho * m + (1 - spec.rho) * move * move
                p -= spec.learning_rate * move
            case RmsProp():
                v = spec.rho * v + (1 - spec.rho) * g * g
                p -= spec.learning_rate * g / (math.sqrt(v) + spec.epsilon)
            case Adam() | AdamW():
                m = spec.beta1 * m + (1 - spec.beta1) * g
                v = spec.beta2 * v + (1 - spec.beta2) * g * g
                step_size = spec.learning_rate / (1 - spec.beta1**t)
                p -= step_size * m / (math.sqrt(v) / math.sqrt(1 - spec.beta2**t) + spec.epsilon)
    return p


def all_by_hand(spec: Optimizer, start: NDArray[Any], gradients: NDArray[Any], keep: Penalties) -> list[float]:
    weights = {place for span in keep.spans for place in range(len(start))[span]}
    return [by_hand(spec, start[i], list(gradients[:, i]), keep, is_weight=i in weights) for i in range(len(start))]


TORCH: dict[str, Any] = json.loads((Path(__file__).parent / "trajectories" / "torch.json").read_text())
EVERYTHING = (slice(0, 7),)
SAME: dict[str, tuple[Optimizer, Penalties]] = {
    "sgd": (Sgd(learning_rate=0.1), Penalties()),
    "sgd l2": (Sgd(learning_rate=0.1), Penalties(l2=0.2, spans=EVERYTHING)),
    "momentum": (Momentum(learning_rate=0.05), Penalties()),
    "nesterov": (Nesterov(learning_rate=0.05), Penalties()),
    "adagrad": (Adagrad(learning_rate=0.3), Penalties()),
    "adadelta": (Adadelta(), Penalties()),
    "rmsprop": (RmsProp(learning_rate=0.01), Penalties()),
    "adam": (Adam(learning_rate=0.02), Penalties()),
    "adam l2": (
        Adam(learning_rate=0.02, beta1=0.8, beta2=0.99, epsilon=1e-6),
        Penalties(l2=0.1, spans=EVERYTHING),
    ),
    "adamw": (AdamW(learning_rate=0.02), Penalties(weight_decay=0.3, spans=EVERYTHING)),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", sorted(SAME))
def test_every_step_is_pytorchs(name: str, dtype: type[np.floating]) -> None:
    spec, keep = SAME[name]
    parameters, gradient = np.linspace(-1, 1, 7).astype(dtype), np.empty(7, dtype)
    optimizer = make_optimizer(spec, parameters, gradient, keep)
    for recorded, expected in zip(TORCH["gradients"], TORCH["optimizers"][name], strict=True):
        gradient[:] = np.array(recorded) * 32
        optimizer.step(1 / 32)
        tolerance = 1e-6 if dtype is np.float64 else 1e-4
        np.testing.assert_allclose(parameters, expected, rtol=tolerance, atol=tolerance)
    assert sorted(TORCH["optimizers"]) == sorted(SAME)


def some_steps(seed: int, size: int, steps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    gradients = generator.normal(size=(steps, size)) * 10.0 ** generator.integers(-6, 3, (1, size))
    return generator.normal(size=size), gradients


@quick
@given(specs, penalties, st.integers(0, 2**32), st.integers(1, 12))
def test_every_parameter_follows_the_papers_formula(spec: Optimizer, keep: Penalties, seed: int, steps: int) -> None:
    parameters, gradients = some_steps(seed, 9, steps)
    start, gradient = parameters.copy(), np.empty(9)
    optimizer = make_optimizer(spec, parameters, gradient, keep)
    for gradient[:] in gradients:
        optimizer.step()
    assert optimizer.steps == steps
    np.testing.assert_allclose(parameters, all_by_hand(spec, start, gradients, keep), rtol=1e-10, atol=1e-10)


@quick
@given(specs, penalties, st.integers(0, 2**32), st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=12))
def test_a_scaled_sum_moves_the_parameters_like_the_mean(
    spec: Optimizer, keep: Penalties, seed: int, scales: list[float]
) -> None:
    parameters, gradients = some_steps(seed, 9, len(scales))
    start, gradient = parameters.copy(), np.empty(9)
    optimizer = make_optimizer(spec, parameters, gradient, keep)
    for scale, mean in zip(scales, gradients, strict=True):
        gradient[:] = mean / scale
        optimizer.step(scale)
    np.testing.assert_allclose(parameters, all_by_hand(spec, start, gradients, keep), rtol=1e-9, atol=1e-9)


@quick
@given(specs, st.integers(0, 2**32), st.booleans())
def test_float32_stays_close_to_float64(spec: Optimizer, seed: int, scaled: bool) -> None:
    exact, gradients = some_steps(seed, 50, 10)
    rounded, start = exact.astype(np.float32), exact.copy()
    gradient, rounded_gradient = np.empty(50), np.empty(50, np.float32)
    optimizers = make_optimizer(spec, exact, gradient), make_optimizer(spec, rounded, rounded_gradient)
    for number, gradient[:] in enumerate(gradients):
        rows = 5.0 if scaled and number % 3 == 2 else 128.0
        rounded_gradient[:] = gradient * rows
        optimizers[0].step()
        optimizers[1].step(1 / rows)
    moved = np.abs(exact - start).max()
    np.testing.assert_allclose(rounded, exact, rtol=1e-4, atol=1e-5 * (1 + moved))


KEPT = Penalties(l1=0.01, l2=0.1, weight_decay=0.01, clip_value=0.5, spans=(slice(3, 70), slice(80, 100)))
ALL = pytest.mark.parametrize(
    "spec",
    [Sgd(), Momentum(), Nesterov(), Adagrad(), Adadelta(), RmsProp(), Adam(), AdamW()],
    ids=lambda spec: spec.kind,
)


@ALL
def test_blocks_of_any_size_in_any_order_give_the_same_bits_as_one_step(
    spec: Optimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, gradients = some_steps(4, 1000, 5)
    parts, gradient = whole.copy(), np.empty(1000)
    at_once = make_optimizer(spec, whole, gradient, KEPT)
    assert at_once.blocks == (slice(0, 1000),)
    monkeypatch.setattr(worker.optimizers, "BLOCK", 64)
    by_block = make_optimizer(spec, parts, gradient, KEPT)
    for gradient[:] in gradients:
        at_once.step(0.25)
        by_block.begin_step(0.25)
        for index in np.random.default_rng(0).permutation(len(by_block.blocks)):
            by_block.update_block(index)
    assert np.array_equal(gradient, gradients[-1])
    assert np.array_equal(whole, parts)


@quick
@given(st.integers(0, 300), st.integers(1, 100))
def test_blocks_cover_the_vector_once(size: int, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker.optimizers, "BLOCK", block)
        optimizer = make_optimizer(Adam(), np.zeros(size), np.zeros(size))
    covered = [number for part in optimizer.blocks for number in range(size)[part]]
    assert covered == list(range(size))
    assert all(part.stop - part.start <= block for part in optimizer.blocks)
    optimizer.step()


@ALL
def test_an_optimizer_of_a_part_leaves_the_rest_of_the_vector_alone(spec: Optimizer) -> None:
    whole, gradients = some_steps(4, 100, 3)
    shared, gradient = whole.copy(), np.empty(100)
    part = slice(30, 70)
    optimizers = (
        make_optimizer(spec, whole, gradient, KEPT),
        make_optimizer(spec, shared[part], gradient[part], KEPT.part(30, 70)),
    )
    before = shared.copy()
    for gradient[:] in gradients:
        for optimizer in optimizers:
            optimizer.step()
    assert np.array_equal(shared[part], whole[part])
    shared[part] = before[part]
    assert np.array_equal(shared, before)


def test_adam_moves_every_parameter_by_the_learning_rate_in_its_first_step() -> None:
    parameters = np.zeros(4)
    make_optimizer(Adam(learning_rate=0.1), parameters, np.array([1e-3, -5.0, 1e3, 0.0])).step()
    np.testing.assert_allclose(parameters, [-0.1, 0.1, -0.1, 0.0], rtol=1e-4)


@ALL
def test_a_step_allocates_no_arrays(spec: Optimizer) -> None:
    parameters, gradient = np.zeros(100_000, np.float32), np.ones(100_000, np.float32)
    optimizer = make_optimizer(spec, parameters, gradient, KEPT)
    optimizer.step(0.5)
    tracemalloc.start()
    try:
        optimizer.step(0.5)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for rows in range(1, 6):
            optimizer.step(1 / rows)
        assert tracemalloc.get_traced_memory()[1] - before < 6000
    finally:
        tracemalloc.stop()


def test_an_infinite_gradient_passes_without_a_warning() -> None:
    parameters = np.zeros(2, np.float32)
    optimizer = make_optimizer(Adam(), parameters, np.array([np.inf, 1e30], np.float32))
    with quiet():
        optimizer.step()
    assert np.isnan(parameters[0])


def test_what_does_not_fit_is_refused() -> None:
    vector = np.zeros(5, np.float32)
    for parameters, gradient in (
        (vector, np.zeros(5)),
        (vector, vector[:4]),
        (vector.reshape(1, 5), vector.reshape(1, 5)),
    ):
        with pytest.raises(ValueError, match="two vectors of one shape and dtype"):
            make_optimizer(Adam(), parameters, gradient)
    optimizer = make_optimizer(Adam(), vector, vector)
    for scale in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="positive, finite scale"):
            optimizer.begin_step(scale)
    assert optimizer.steps == 0
