"""A parameter server and its workers in one process: the trajectory does not depend on how many workers there are."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import grad
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.errors import Diverged
from common.network.initializers import initialize
from common.network.metrics import MetricSums
from common.network.parameters import network_layout, parameter_count
from common.schemas import training
from worker.channel.shared_memory import SharedMemoryServer, SharedMemoryWorker
from worker.gradient_worker import GradientWorker
from worker.optimizers import make_optimizer
from worker.parameter_server import ParameterServer
from worker.task import TrainingData, TrainingTask, epoch_order, share

INPUTS, CLASSES = 5, 3


def make_task(workers: int, **changes: Any) -> TrainingTask:
    shape = changes.pop(
        "shape",
        training.NetworkShape(
            layers=(training.Dense(units=7, activation="tanh", dropout=0.25), training.Dense(units=4))
        ),
    )
    values: dict[str, Any] = {
        "task": "classification",
        "loss": training.CrossEntropy(),
        "optimizer": training.Adam(learning_rate=0.01),
        "batch_size": 16,
        "shuffle": True,
        "seed": 5,
        "dtype": "float64",
        **changes,
    }
    outputs = CLASSES if values["task"] == "classification" else 1
    return TrainingTask(
        shape=shape,
        inputs=INPUTS,
        outputs=outputs,
        parameters=parameter_count(shape, INPUTS, outputs),
        workers=workers,
        **values,
    )


def make_data(rows: int, task: TrainingTask, scale: float = 1.0) -> TrainingData:
    random = np.random.default_rng(rows)
    x = (scale * random.standard_normal((rows + 9, INPUTS))).astype(task.dtype)
    targets: NDArray[Any] = (
        random.integers(0, CLASSES, rows + 9)
        if task.task == "classification"
        else random.standard_normal((rows + 9, 1)).astype(task.dtype)
    )
    return TrainingData(x[:rows], targets[:rows], x[rows:], targets[rows:])


def initial_parameters(task: TrainingTask) -> NDArray[Any]:
    initial = np.empty(task.parameters, task.dtype)
    initialize(task.shape, task.inputs, task.outputs, np.random.default_rng(0), initial)
    return initial


def train(task: TrainingTask, data: TrainingData, epochs: int) -> tuple[NDArray[Any], list[float], MetricSums]:
    """A whole training with threads in the place of processes: the parameters, the losses, the last evaluation."""
    dtype = np.dtype(task.dtype)
    server_end = SharedMemoryServer(task.parameters, dtype)
    server = ParameterServer(
        server_end, make_optimizer(task.optimizer, task.parameters, dtype), initial_parameters(task)
    )
    ends = [SharedMemoryWorker(server_end.address, task.parameters, dtype) for _ in range(task.workers)]
    server_end.attach([end.address for end in ends])
    workers = [GradientWorker(rank, task, data, end) for rank, end in enumerate(ends)]
    steps = task.steps(len(data.x))
    losses = []
    evaluation = MetricSums()
    with ThreadPoolExecutor(task.workers + 1) as threads:
        for epoch in range(1, epochs + 1):
            serving = threads.submit(server.serve, steps)
            running = [threads.submit(worker.run_epoch, epoch, (epoch - 1) * steps) for worker in workers]
            serving.result()
            sums = [future.result() for future in running]
            losses.append(sum(part.loss for part in sums) / len(data.x))
            assert sum(part.rows for part in sums) == len(data.x)
            evaluation = MetricSums()
            for part in sums:
                assert part.evaluation is not None
                evaluation = evaluation.merge(part.evaluation)
    parameters = server_end.parameters.copy()
    for end in ends:
        end.close()
    server_end.close()
    return parameters, losses, evaluation


OPTIMIZERS: list[training.Optimizer] = [
    training.Sgd(learning_rate=0.1),
    training.Sgd(learning_rate=0.05, momentum=0.9),
    training.Adam(learning_rate=0.01),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["sgd", "momentum", "adam"])
@pytest.mark.parametrize("workers", [2, 3, 5])
def test_n_workers_follow_the_trajectory_of_one(optimizer: training.Optimizer, workers: int) -> None:
    # 53 rows in batches of 16: unequal shards for 3 and 5 workers, and a last batch of 5 rows
    data = make_data(53, make_task(1))
    alone, losses_alone, evaluation_alone = train(make_task(1, optimizer=optimizer), data, 4)
    together, losses, evaluation = train(make_task(workers, optimizer=optimizer), data, 4)
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-10)
    np.testing.assert_allclose(losses, losses_alone, rtol=0, atol=1e-10)
    assert evaluation.correct == evaluation_alone.correct
    assert evaluation.loss_sum == pytest.approx(evaluation_alone.loss_sum, abs=1e-10)


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 40),
    batch=st.integers(1, 24),
    workers=st.integers(2, 6),
    task=st.sampled_from(["classification", "regression"]),
)
def test_the_trajectory_is_the_same_for_any_rows_batch_and_workers(
    rows: int, batch: int, workers: int, task: str
) -> None:
    loss = training.CrossEntropy() if task == "classification" else training.MeanSquaredError()
    one, many = (make_task(n, task=task, loss=loss, batch_size=batch) for n in (1, workers))
    data = make_data(rows, one)
    alone, _, _ = train(one, data, 2)
    together, _, _ = train(many, data, 2)
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-10)


def test_the_trajectory_is_that_of_an_independent_autodiff_library() -> None:
    shape = training.NetworkShape(layers=(training.Dense(units=6, activation="tanh"),))
    task = make_task(2, shape=shape, optimizer=training.Sgd(learning_rate=0.2), batch_size=8)
    data = make_data(21, task)
    ours, _, _ = train(task, data, 3)

    layout = network_layout(shape, INPUTS, CLASSES)

    def mean_loss(vector: Any, x: Any, y: Any) -> Any:
        part: Callable[[str], Any] = lambda name: anp.reshape(vector[layout.slices[name]], layout.shapes[name])  # noqa: E731
        hidden = anp.tanh(anp.dot(x, part("layer0.weights")) + part("layer0.bias"))
        logits = anp.dot(hidden, part("layer1.weights")) + part("layer1.bias")
        log_sum = anp.log(anp.sum(anp.exp(logits), axis=1))
        return anp.mean(log_sum - logits[np.arange(len(y)), y])

    theirs = initial_parameters(task)
    for epoch in range(1, 4):
        order = epoch_order(task, 21, epoch)
        for start in range(0, 21, 8):
            rows = order[start : start + 8]
            theirs = theirs - 0.2 * grad(mean_loss)(theirs, data.x[rows], data.targets[rows])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_the_order_differs_from_epoch_to_epoch_and_can_be_left_as_it_is() -> None:
    task = make_task(1)
    first, second = epoch_order(task, 50, 1), epoch_order(task, 50, 2)
    assert sorted(first) == sorted(second) == list(range(50))
    assert (first != second).any()
    assert (first == epoch_order(make_task(4), 50, 1)).all()
    assert list(epoch_order(make_task(1, shuffle=False), 5, 3)) == [0, 1, 2, 3, 4]


@given(start=st.integers(0, 100), rows=st.integers(0, 100), workers=st.integers(1, 64))
def test_shares_cover_the_rows_once_and_differ_by_one_at_most(start: int, rows: int, workers: int) -> None:
    parts = [share(start, start + rows, rank, workers) for rank in range(workers)]
    assert parts[0][0] == start
    assert parts[-1][1] == start + rows
    assert all(before[1] == after[0] for before, after in pairwise(parts))
    sizes = [stop - begin for begin, stop in parts]
    assert max(sizes) - min(sizes) <= 1


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
        train(task, make_data(64, task, scale=1e3), 50)


def test_float32_follows_float64() -> None:
    data = make_data(53, make_task(1))
    exact, _, _ = train(make_task(2), data, 3)
    single = TrainingData(
        data.x.astype(np.float32), data.targets, data.validation_x.astype(np.float32), data.validation_targets
    )
    rounded, _, _ = train(make_task(2, dtype="float32"), single, 3)
    np.testing.assert_allclose(rounded, exact, rtol=0, atol=1e-4)
