"""Reproducible sums, bounded staleness and local steps, each held to what it promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from common.schemas import training
from common.schemas.network import Dense, NetworkShape
from common.schemas.optimizers import Sgd
from tests.unit.training import SMALL, Cast, make_rows, make_task, train
from worker.parameter_server import Pace, initial_parameters

WIDE = NetworkShape(layers=(Dense(units=300, activation="relu", dropout=0.2), Dense(units=20, activation="tanh")))


@pytest.mark.parametrize("clip_norm", [None, 0.3], ids=["", "clipped"])
@pytest.mark.parametrize(("workers", "servers", "lanes"), [(2, 1, 1), (3, 2, 1), (4, 1, 2), (8, 2, 1), (8, 1, 1)])
def test_a_reproducible_training_has_the_same_bits_for_any_number_of_workers_and_servers(
    workers: int, servers: int, lanes: int, clip_norm: float | None
) -> None:
    changes: dict[str, Any] = {
        "shape": WIDE,
        "reproducible": True,
        "dtype": "float32",
        "batch_size": 37,
        "clip_norm": clip_norm,
    }
    one = make_task(1, **changes)
    rows = make_rows(150, one, weighted=True)
    alone = train(one, rows, 3)
    together = train(make_task(workers, servers=servers, lanes=lanes, **changes), rows, 3)
    np.testing.assert_array_equal(together.parameters, alone.parameters)
    assert together.evaluation == alone.evaluation


def test_a_reproducible_training_follows_the_synchronous_trajectory() -> None:
    rows = make_rows(150, make_task(1))
    plain = train(make_task(1, batch_size=37), rows, 3)
    reproducible = train(make_task(3, batch_size=37, reproducible=True), rows, 3)
    np.testing.assert_allclose(reproducible.parameters, plain.parameters, rtol=0, atol=1e-10)


def local(steps: int | str = "auto", momentum: float = 0.0) -> training.LocalSteps:
    return training.LocalSteps.model_validate({"steps": steps, "outer_momentum": momentum})


@pytest.mark.parametrize("weighted", [False, True], ids=["", "row weights"])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_one_local_step_of_sgd_is_the_synchronous_trajectory(workers: int, weighted: bool) -> None:
    changes: dict[str, Any] = {"optimizer": Sgd(learning_rate=0.1)}
    synchronous, averaging = make_task(1, **changes), make_task(workers, synchrony=local(1), **changes)
    rows = make_rows(53, synchronous, weighted=weighted)
    np.testing.assert_allclose(
        train(averaging, rows, 3).parameters, train(synchronous, rows, 3).parameters, rtol=0, atol=1e-10
    )


def test_a_single_worker_may_take_any_number_of_local_steps_without_a_difference() -> None:
    rows = make_rows(53, make_task(1))
    alone = train(make_task(1), rows, 3)
    for steps in (1, 3, 100, "auto"):
        local_steps = train(make_task(1, synchrony=local(steps)), rows, 3)
        np.testing.assert_allclose(local_steps.parameters, alone.parameters, rtol=0, atol=1e-10)


def test_moves_are_averaged_by_the_weight_of_their_rows_with_outer_momentum() -> None:
    # Block momentum: Chen and Huo, 2016, equations 4 to 6.
    task = make_task(
        2,
        synchrony=local(2, momentum=0.5),
        optimizer=Sgd(learning_rate=0.1),
        shape=NetworkShape(layers=(Dense(units=4, activation="tanh"),)),
        batch_size=20,
        shuffle=False,
    )
    rows = make_rows(80, task, weighted=True)
    assert rows.weights is not None
    ours = train(task, rows, 1).parameters

    # The same by hand: two workers, two rounds of two steps, each on its half of every batch.
    parameters, velocity = initial_parameters(task), np.zeros(task.parameters)
    for round_ in range(2):
        moves, weights = [], []
        for rank in range(2):
            alone = make_task(
                1, optimizer=task.optimizer, shape=task.shape, batch_size=10, shuffle=False, synchrony=local(100)
            )
            of_worker = [
                row
                for step in (0, 1)
                for row in range((2 * round_ + step) * 20 + rank * 10, (2 * round_ + step) * 20 + rank * 10 + 10)
            ]
            part = make_rows(80, task, weighted=True)
            assert part.weights is not None
            part.x, part.targets, part.weights = part.x[of_worker], part.targets[of_worker], part.weights[of_worker]
            group = Cast(alone, part)
            group.servers[0]._parameters[:] = parameters
            moves.append(group.train(1).parameters - parameters)
            weights.append(part.weights.sum())
            group.close()
        move = np.average(moves, axis=0, weights=weights)
        velocity = 0.5 * velocity + move
        parameters = parameters + move + 0.5 * velocity
    np.testing.assert_allclose(ours, parameters, rtol=0, atol=1e-10)


def test_the_steps_between_averages_are_as_few_as_keep_the_exchange_cheap() -> None:
    pace = Pace("auto")
    assert pace.steps == 1
    for _ in range(20):
        pace.note(busy=0.010, exchange=0.001, most=1000)
    assert 0.001 / (pace.steps * 0.010 + 0.001) <= 0.05
    assert pace.steps <= 4
    for _ in range(40):
        pace.note(busy=0.0001, exchange=0.001, most=1000)
    assert 0.001 / (pace.steps * 0.0001 + 0.001) <= 0.05
    for _ in range(40):
        pace.note(busy=0.0001, exchange=10.0, most=1000)
    assert pace.steps == 256  # more would not help with a worker that is always slower


def test_a_number_of_local_steps_that_was_asked_for_is_kept() -> None:
    pace = Pace(7)
    pace.note(busy=0.1, exchange=10.0, most=1000)
    assert pace.steps == 7


@pytest.mark.parametrize("nodes", [None, ["a", "b", "c"]], ids=["shared memory", "sockets"])
def test_stale_gradients_are_all_applied_and_counted(nodes: list[str] | None) -> None:
    task = make_task(2, synchrony=training.BoundedStaleness(max_staleness=2), optimizer=Sgd(learning_rate=0.05))
    rows = make_rows(160, task)
    trained = train(task, rows, 5, nodes)
    server = trained.servers[0]
    assert server.updates == 5 * 10 * 2
    counts = server.describe_synchrony().staleness
    assert sum(counts) == 10 * 2
    assert len(counts) <= 3
    assert trained.losses[-1] < trained.losses[0]


def test_without_another_worker_stale_training_is_synchronous() -> None:
    rows = make_rows(53, make_task(1))
    stale = train(make_task(1, synchrony=training.BoundedStaleness()), rows, 3)
    np.testing.assert_allclose(stale.parameters, train(make_task(1), rows, 3).parameters, rtol=0, atol=1e-10)


@pytest.mark.parametrize("synchrony", [training.BoundedStaleness(), local(3)], ids=lambda s: str(s.kind))
def test_every_synchrony_trains_over_split_parameters_and_several_machines(synchrony: training.Synchrony) -> None:
    task = make_task(2, shape=WIDE, synchrony=synchrony, servers=2, clip_norm=1.0)
    rows = make_rows(200, task)
    trained = train(task, rows, 4, ["a", "b", "a", "b"])
    assert trained.losses[-1] < trained.losses[0]
    assert np.isfinite(trained.parameters).all()


def test_shards_without_rows_take_part() -> None:
    rows = make_rows(3, make_task(1))  # fewer rows than workers
    for synchrony in (training.Synchronous(), training.BoundedStaleness(), local(2)):
        trained = train(make_task(5, synchrony=synchrony, shape=SMALL), rows, 2)
        assert np.isfinite(trained.parameters).all()
