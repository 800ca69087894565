"""The limit: two processes that compute gradients and update their own weights, without a word between them.

The same arithmetic as two workers and a server do, in the project's own code and environment, and no communication.
"""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np

from common.network.initializers import initialize
from common.network.network import Network
from common.network.parameters import parameter_count
from common.network.quiet import quiet
from common.schemas.training import Adam, CrossEntropy, Dense, NetworkShape
from tests.benchmarks.peers.blas import blas
from tests.benchmarks.peers.task import Task, answer, read_task
from worker.optimizers import make_optimizer

PROCESSES = 2
WARM_UP_SHARE = 0.2


class Loop:
    """The steps of one process: its half of each batch."""

    def __init__(self, task: Task, rank: int) -> None:
        inputs, *hidden, outputs = task.sizes
        shape = NetworkShape(layers=tuple(Dense(units=units) for units in hidden))
        count = parameter_count(shape, inputs, outputs)
        generator = np.random.default_rng([task.seed, rank])
        self._all_x, self._all_y = np.load(task.file("x.npy")), np.load(task.file("y.npy"))
        self._rows = task.batch // PROCESSES
        self._x = np.empty((self._rows, inputs), np.float32)
        self._y = np.empty(self._rows, np.int64)
        self._parameters, self._gradient = np.empty(count, np.float32), np.empty(count, np.float32)
        initialize(shape, inputs, outputs, generator, self._parameters)
        self._network = Network(
            shape,
            inputs,
            outputs,
            CrossEntropy(),
            max_rows=self._rows,
            parameters=self._parameters,
            gradient=self._gradient,
        )
        self._optimizer = make_optimizer(Adam(learning_rate=1e-3), self._parameters, self._gradient)
        self._order = generator.permutation(len(self._all_x))
        self._place = 0

    def run(self, seconds: float) -> float:
        """Steps for so long; rows per second."""
        began = time.perf_counter()
        steps = 0
        while (elapsed := time.perf_counter() - began) < seconds or not steps:
            self._step()
            steps += 1
        return steps * self._rows / elapsed

    def _step(self) -> None:
        if self._place + self._rows > len(self._order):
            self._place = 0
        rows = self._order[self._place : self._place + self._rows]
        self._place += self._rows
        np.take(self._all_x, rows, axis=0, out=self._x, mode="clip")
        np.take(self._all_y, rows, axis=0, out=self._y, mode="clip")
        self._network.gradients(self._x, self._y)
        self._optimizer.step(1 / self._rows)


_barriers: list[Barrier] = []


def share(barrier: Barrier) -> None:
    """Gives a process the barrier: it can only be handed over at its start."""
    _barriers.append(barrier)


def measure(task: Task, rank: int) -> dict[str, Any]:
    """One process: waits for the other, warms up, measures."""
    loop = Loop(task, rank)
    _barriers[0].wait(60)
    with quiet():
        loop.run(WARM_UP_SHARE * task.seconds)
        rate = loop.run(task.seconds)
    return {
        "rows_per_second": rate,
        "blas": blas(),
    }


def main() -> None:
    """Measures both at once."""
    task = read_task()
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    with ProcessPoolExecutor(PROCESSES, context, share, (barrier,)) as pool:
        found = list(pool.map(measure, [task] * PROCESSES, range(PROCESSES)))
    answer({"rows_per_second": sum(part["rows_per_second"] for part in found), "blas": found[0]["blas"]})


if __name__ == "__main__":
    main()
