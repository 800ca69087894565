"""A parameter server and its workers in one process: the trajectory does not depend on how many of them there are."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import grad
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Diverged
from common.network.parameters import GRAIN, network_layout
from common.schemas import training
from tests.unit.training import CLASSES, INPUTS, make_rows, make_task, train
from worker.epoch_order import epoch_order
from worker.parameter_server import initial_parameters
from worker.task import TrainingTask, share

OPTIMIZERS: list[training.Optimizer] = [
    training.Sgd(learning_rate=0.1),
    training.Sgd(learning_rate=0.05, momentum=0.9),
    training.Adam(learning_rate=0.01),
]
WIDE = training.NetworkShape(layers=(training.Dense(units=300, activation="tanh", dropout=0.25),))
"""2,703 parameters: three grains, so that there is something to split."""


@pytest.mark.parametrize("weighted", [False, True], ids=["", "row weights"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["sgd", "momentum", "adam"])
@pytest.mark.parametrize("workers", [2, 3, 5])
def test_n_workers_follow_the_trajectory_of_one(optimizer: training.Optimizer, workers: int, weighted: bool) -> None:
    # 53 rows in batches of 16: unequal shards for 3 and 5 workers, and a last batch of 5 rows
    one = make_task(1, optimizer=optimizer)
    rows = make_rows(53, one, weighted=weighted)
    alone = train(one, rows, 4)
    together = train(make_task(workers, optimizer=optimizer), rows, 4)
    np.testing.assert_allclose(together.parameters, alone.parameters, rtol=0, atol=1e-10)
    np.testing.assert_allclose(together.losses, alone.losses, rtol=0, atol=1e-10)
    assert together.evaluation.correct == alone.evaluation.correct
    assert together.evaluation.loss_sum == pytest.approx(alone.evaluation.loss_sum, abs=1e-10)


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 40),
    batch=st.integers(1, 24),
    workers=st.integers(2, 6),
    task=st.sampled_from(["classification", "regression"]),
    weighted=st.booleans(),
)
def test_the_trajectory_is_the_same_for_any_rows_batch_and_workers(
    rows: int, batch: int, workers: int, task: str, weighted: bool
) -> None:
    loss = training.CrossEntropy() if task == "classification" else training.MeanSquaredError()
    one, many = (make_task(n, task=task, loss=loss, batch_size=batch) for n in (1, workers))
    data = make_rows(rows, one, weighted=weighted)
    alone, together = train(one, data, 2), train(many, data, 2)
    np.testing.assert_allclose(together.parameters, alone.parameters, rtol=0, atol=1e-10)


@pytest.mark.parametrize("clip_norm", [None, 0.05], ids=["", "clipped"])
@pytest.mark.parametrize(("servers", "lanes"), [(2, 1), (1, 3), (3, 1)])
def test_the_trajectory_is_the_same_however_the_parameters_are_split(
    servers: int, lanes: int, clip_norm: float | None
) -> None:
    one = make_task(1, shape=WIDE, clip_norm=clip_norm)
    rows = make_rows(53, one)
    split = make_task(2, shape=WIDE, clip_norm=clip_norm, servers=servers, lanes=lanes)
    np.testing.assert_allclose(train(split, rows, 3).parameters, train(one, rows, 3).parameters, rtol=0, atol=1e-10)


@pytest.mark.parametrize("apart", ["a worker", "a server", "all"])
def test_the_trajectory_is_the_same_over_sockets(apart: str) -> None:
    one = make_task(1, shape=WIDE, clip_norm=0.05)
    rows = make_rows(53, one, weighted=True)
    split = make_task(2, shape=WIDE, clip_norm=0.05, servers=2)
    nodes = {
        "a worker": ["a", "a", "a", "b"],
        "a server": ["a", "b", "a", "a"],
        "all": ["a", "b", "c", "d"],
    }[apart]
    np.testing.assert_allclose(
        train(split, rows, 3, nodes).parameters, train(one, rows, 3).parameters, rtol=0, atol=1e-10
    )


def test_a_norm_is_clipped_over_the_whole_vector_as_its_formula_says() -> None:
    # Without hidden layers and in one step the gradient is known: so is what is left of it.
    shape = training.NetworkShape(layers=(training.Dense(units=300, activation="tanh"),))
    changes: dict[str, Any] = {"shape": shape, "optimizer": training.Sgd(learning_rate=1.0), "batch_size": 64}
    free, clipped = (make_task(2, servers=2, clip_norm=norm, **changes) for norm in (None, 0.01))
    rows = make_rows(40, free)
    start = initial_parameters(free)
    gradient = start - train(free, rows, 1).parameters
    moved = start - train(clipped, rows, 1).parameters
    assert np.linalg.norm(gradient) > 0.01
    np.testing.assert_allclose(moved, gradient * 0.01 / np.linalg.norm(gradient), rtol=0, atol=1e-12)


def test_the_trajectory_is_that_of_an_independent_autodiff_library() -> None:
    shape = training.NetworkShape(layers=(training.Dense(units=6, activation="tanh"),))
    task = make_task(2, shape=shape, optimizer=training.Sgd(learning_rate=0.2), batch_size=8)
    data = make_rows(21, task, weighted=True)
    assert data.weights is not None

    layout = network_layout(shape, INPUTS, CLASSES)

    def mean_loss(vector: Any, x: Any, y: Any, weights: Any) -> Any:
        part: Callable[[str], Any] = lambda name: anp.reshape(vector[layout.slices[name]], layout.shapes[name])  # noqa: E731
        hidden = anp.tanh(anp.dot(x, part("layer0.weights")) + part("layer0.bias"))
        logits = anp.dot(hidden, part("layer1.weights")) + part("layer1.bias")
        log_sum = anp.log(anp.sum(anp.exp(logits), axis=1))
        return anp.sum(weights * (log_sum - logits[np.arange(len(y)), y])) / anp.sum(weights)

    theirs = initial_parameters(task)
    for epoch in range(1, 4):
        order = epoch_order(21, epoch, task.seed, shuffle=True)
        for start in range(0, 21, 8):
            rows = order[start : start + 8]
            batch = data.x[rows], data.targets[rows], data.weights[rows]
            theirs = theirs - 0.2 * grad(mean_loss)(theirs, *batch)
    np.testing.assert_allclose(train(task, data, 3).parameters, theirs, rtol=0, atol=1e-12)


@given(start=st.integers(0, 100), rows=st.integers(0, 100), workers=st.integers(1, 64))
def test_shares_cover_the_rows_once_and_differ_by_one_at_most(start: int, rows: int, workers: int) -> None:
    parts = [share(start, start + rows, rank, workers) for rank in range(workers)]
    assert parts[0][0] == start
    assert parts[-1][1] == start + rows
    assert all(before[1] == after[0] for before, after in pairwise(parts))
    sizes = [stop - begin for begin, stop in parts]
    assert max(sizes) - min(sizes) <= 1


@given(units=st.integers(1, 3000), servers=st.integers(1, 16), lanes=st.integers(1, 4))
def test_shards_cover_the_parameters_once_in_whole_grains(units: int, servers: int, lanes: int) -> None:
    shape = training.NetworkShape(layers=(training.Dense(units=units),))
    task = make_task(1, shape=shape, servers=servers, lanes=lanes)
    shards = task.shards
    assert len(shards) == servers * lanes
    assert shards[0].start == 0
    assert shards[-1].stop == task.parameters
    assert all(before.stop == after.start for before, after in pairwise(shards))
    assert all(shard.start % GRAIN == 0 or shard.start == task.parameters for shard in shards)


def test_a_loss_that_is_no_finite_number_ends_the_training_at_its_step() -> None:
    task = make_task(
        2,
        task="regression",
        loss=training.MeanSquaredError(),
        optimizer=training.Sgd(learning_rate=1e12),
        shape=training.NetworkShape(layers=()),
        dtype="float32",
    )
    with pytest.raises(Diverged, match=r"step \d+"):
        train(task, make_rows(64, task, scale=1e3), 50)


def test_float32_follows_float64() -> None:
    task = make_task(2)
    rows = make_rows(53, task)
    exact = train(task, rows, 3)
    single: TrainingTask = make_task(2, dtype="float32")
    rounded = train(single, make_rows(53, single), 3)
    np.testing.assert_allclose(rounded.parameters, exact.parameters, rtol=0, atol=1e-4)
