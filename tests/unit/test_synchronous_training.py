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
from common.network.health import merge
from common.network.masks import DropoutMasks
from common.network.network import Network
from common.network.parameters import GRAIN
from common.network.structure import network_layout
from common.schemas.losses import CrossEntropy, MeanAbsoluteError, MeanSquaredError
from common.schemas.network import Dense, NetworkShape
from common.schemas.optimizers import (
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    ConstantSchedule,
    CosineSchedule,
    Momentum,
    Nesterov,
    OneCycleSchedule,
    Optimizer,
    Regularization,
    RmsProp,
    Sgd,
    StepSchedule,
    WarmUpSchedule,
)
from common.schemas.training import BoundedStaleness, LocalSteps, Synchronous
from tests.unit.training import CLASSES, INPUTS, Cast, Rows, make_rows, make_task, train
from worker.channel import Vector
from worker.epoch_order import epoch_order
from worker.max_norm import MaxNorm
from worker.optimizers import make_optimizer
from worker.parameter_server import initial_parameters
from worker.schedules import make_schedule
from worker.task import TrainingTask, penalties_of, share

OPTIMIZERS: list[Optimizer] = [
    Sgd(learning_rate=0.1),
    Sgd(learning_rate=0.05, momentum=0.9),
    Momentum(learning_rate=0.05),
    Nesterov(learning_rate=0.05),
    Adagrad(learning_rate=0.05),
    Adadelta(),
    RmsProp(learning_rate=0.01),
    Adam(learning_rate=0.01),
    AdamW(learning_rate=0.01),
]
KEPT_SMALL = Regularization(l1=0.001, l2=0.01, weight_decay=0.05, clip_value=0.02, max_norm=0.9)
WITHOUT_LIMIT = KEPT_SMALL.model_copy(update={"max_norm": None})
WIDE = NetworkShape(layers=(Dense(units=300, activation="tanh", dropout=0.25),))
"""2,703 parameters: three grains, so that there is something to split."""


@pytest.mark.parametrize("weighted", [False, True], ids=["", "row weights"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda spec: f"{spec.kind} {getattr(spec, 'momentum', '')}")
@pytest.mark.parametrize("workers", [2, 3, 5])
def test_n_workers_follow_the_trajectory_of_one(optimizer: Optimizer, workers: int, weighted: bool) -> None:
    # 53 rows in batches of 16: unequal shards for 3 and 5 workers, and a last batch of 5 rows
    one = make_task(1, optimizer=optimizer)
    rows = make_rows(53, one, weighted=weighted)
    alone = train(one, rows, 4)
    together = train(make_task(workers, optimizer=optimizer), rows, 4)
    np.testing.assert_allclose(together.parameters, alone.parameters, rtol=0, atol=1e-10)
    np.testing.assert_allclose(together.losses, alone.losses, rtol=0, atol=1e-10)
    assert together.evaluation.correct == alone.evaluation.correct
    assert together.evaluation.loss_sum == pytest.approx(alone.evaluation.loss_sum, abs=1e-10)


def by_hand(task: TrainingTask, rows: Rows, epochs: int) -> Vector:
    """The parameters after a training of one process, batch by batch."""
    parameters, gradient = initial_parameters(task), np.empty(task.parameters)
    network = Network(
        task.shape,
        task.inputs,
        task.outputs,
        task.loss,
        max_rows=task.batch_size,
        parameters=parameters,
        gradient=gradient,
    )
    optimizer = make_optimizer(task.optimizer, parameters, gradient, penalties_of(task))
    schedule, limit, step = make_schedule(task.schedule, task.extent), MaxNorm.of(task, parameters), 0
    for epoch in range(1, epochs + 1):
        order, masks = epoch_order(len(rows.x), epoch, task.seed, shuffle=True), DropoutMasks(task.seed, epoch)
        for start in range(0, len(order), task.batch_size):
            batch = order[start : start + task.batch_size]
            network.gradients(rows.x[batch], rows.targets[batch], masks, start)
            optimizer.step(1 / len(batch), schedule.factor(step))
            limit.apply()
            step += 1
    return parameters


@pytest.mark.parametrize(
    "schedule",
    [
        ConstantSchedule(),
        CosineSchedule(restart_epochs=2),
        WarmUpSchedule(epochs=1.5, then=StepSchedule(epochs=1, factor=0.5)),
        OneCycleSchedule(),
    ],
    ids=lambda spec: spec.kind,
)
@pytest.mark.parametrize("kept", [Regularization(), KEPT_SMALL], ids=["", "regularized"])
@pytest.mark.parametrize("workers", [1, 3])
def test_schedules_and_penalties_act_in_every_step_as_they_do_in_one_process(
    workers: int, kept: Regularization, schedule: Any
) -> None:
    changes: dict[str, Any] = {"regularization": kept, "schedule": schedule, "steps_per_epoch": 4, "epochs": 4}
    task = make_task(workers, optimizer=Nesterov(learning_rate=0.1), **changes)
    rows = make_rows(53, task)
    trained = train(task, rows, 4).parameters
    np.testing.assert_allclose(trained, by_hand(task, rows, 4), rtol=0, atol=1e-10)
    if kept.max_norm is not None:
        views = task.layout.views(trained)
        norms = [np.linalg.norm(view, axis=0).max() for name, view in views.items() if name.endswith("weights")]
        assert max(norms) <= kept.max_norm * (1 + 1e-12)
        free = make_task(1, optimizer=Nesterov(learning_rate=0.1), **{**changes, "regularization": WITHOUT_LIMIT})
        assert not np.allclose(trained, by_hand(free, rows, 4))  # the limit mattered


@pytest.mark.parametrize(("servers", "lanes"), [(2, 1), (1, 3)])
def test_penalties_are_the_same_however_the_parameters_are_split(servers: int, lanes: int) -> None:
    kept = Regularization(l1=0.001, l2=0.01, weight_decay=0.05, clip_value=0.02)
    one = make_task(1, shape=WIDE, regularization=kept)
    rows = make_rows(53, one)
    split = make_task(2, shape=WIDE, regularization=kept, servers=servers, lanes=lanes)
    np.testing.assert_allclose(train(split, rows, 3).parameters, train(one, rows, 3).parameters, rtol=0, atol=1e-10)


def test_a_worker_of_its_own_steps_keeps_to_schedule_and_penalties_too() -> None:
    changes: dict[str, Any] = {
        "regularization": KEPT_SMALL,
        "schedule": CosineSchedule(),
        "steps_per_epoch": 4,
        "epochs": 4,
        "optimizer": Momentum(learning_rate=0.1),
    }
    task = make_task(1, synchrony=LocalSteps(steps=3), **changes)
    rows = make_rows(53, task)
    np.testing.assert_allclose(train(task, rows, 4).parameters, by_hand(task, rows, 4), rtol=0, atol=1e-10)


@pytest.mark.parametrize("synchrony", [Synchronous(), BoundedStaleness(), LocalSteps(steps=2)], ids=lambda s: s.kind)
def test_a_gradient_that_overflows_where_the_loss_does_not_ends_the_training_at_that_step(synchrony: Any) -> None:
    # Weights of 1e30 times inputs of 1e30 overflow only on the way back.
    task = make_task(
        2,
        task="regression",
        loss=MeanAbsoluteError(),
        shape=NetworkShape(layers=(Dense(units=3, activation="tanh"), Dense(units=3, activation="identity"))),
        optimizer=Sgd(learning_rate=1e-12),
        dtype="float32",
        batch_size=64,
        synchrony=synchrony,
    )
    rows = make_rows(64, task)
    rows.x[:, 0] = 0.0
    rows.x[:32, 0] = 3e38
    group = Cast(task, rows)
    try:
        for server in group.servers:
            views = task.layout.views(server._parameters)
            for view in views.values():
                view[...] = 0
            views["layer1.weights"][...] = 1e30
            views["layer2.weights"][...] = 1e8
            server._end.publish(server.number, server._note)
        with pytest.raises(Diverged, match="step 1"):
            group.train(1)
    finally:
        group.close()


def test_the_health_of_each_layer_is_that_of_the_last_batch_and_of_the_epochs_way() -> None:
    task = make_task(2, optimizer=Sgd(learning_rate=0.1), batch_size=53)
    rows = make_rows(53, task)
    trained = train(task, rows, 1)
    health = merge(layer for part in trained.epochs[-1] for layer in part.health)
    assert [layer.name for layer in health] == ["layer0", "layer1", "layer2"]
    start = initial_parameters(task)
    for layer in health:
        span = slice(
            min(s.start for name, s in task.layout.slices.items() if name.startswith(layer.name)),
            max(s.stop for name, s in task.layout.slices.items() if name.startswith(layer.name)),
        )
        moved = np.linalg.norm(trained.parameters[span] - start[span])
        assert layer.update_norm == pytest.approx(moved, rel=1e-9)
        assert layer.gradient_norm is not None
        assert layer.gradient_norm > 0
    assert health[0].saturated is not None
    assert health[1].dead is not None


def test_a_reproducible_sum_of_parts_has_the_gradient_norm_of_the_whole_batch() -> None:
    found = []
    for reproducible in (False, True):
        task = make_task(1, batch_size=53, reproducible=reproducible)
        trained = train(task, make_rows(53, task), 1)
        found.append([layer.gradient_norm for layer in merge(trained.epochs[-1][0].health)])
    assert found[1] == pytest.approx(found[0], rel=1e-9)


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
    loss = CrossEntropy() if task == "classification" else MeanSquaredError()
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
    shape = NetworkShape(layers=(Dense(units=300, activation="tanh"),))
    changes: dict[str, Any] = {"shape": shape, "optimizer": Sgd(learning_rate=1.0), "batch_size": 64}
    free, clipped = (make_task(2, servers=2, clip_norm=norm, **changes) for norm in (None, 0.01))
    rows = make_rows(40, free)
    start = initial_parameters(free)
    gradient = start - train(free, rows, 1).parameters
    moved = start - train(clipped, rows, 1).parameters
    assert np.linalg.norm(gradient) > 0.01
    np.testing.assert_allclose(moved, gradient * 0.01 / np.linalg.norm(gradient), rtol=0, atol=1e-12)


def test_the_trajectory_is_that_of_an_independent_autodiff_library() -> None:
    shape = NetworkShape(layers=(Dense(units=6, activation="tanh"),))
    task = make_task(2, shape=shape, optimizer=Sgd(learning_rate=0.2), batch_size=8)
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
    shape = NetworkShape(layers=(Dense(units=units),))
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
        loss=MeanSquaredError(),
        optimizer=Sgd(learning_rate=1e12),
        shape=NetworkShape(layers=()),
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
