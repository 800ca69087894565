"""Steps of Chainrule's own arithmetic, in one process and without anything around it."""

from __future__ import annotations

import math
import time
from functools import partial

import numpy as np

from common.network.network import Network
from common.network.structure import initialize, parameter_count
from common.schemas.losses import CrossEntropy
from common.schemas.network import Dense, NetworkShape
from common.schemas.optimizers import Adam
from tests.benchmarks.peers.task import Task
from worker.optimizers import make_optimizer


class Loop:
    """The steps of one process on so many rows each; `rank` tells its random numbers from those of others."""

    def __init__(self, task: Task, rows: int, rank: int = 0) -> None:
        inputs, *hidden, outputs = task.sizes
        shape = NetworkShape(layers=tuple(Dense(units=units) for units in hidden))
        count = parameter_count(shape, inputs, outputs)
        generator = np.random.default_rng([task.seed, rank])
        self._all_x, self._all_y = np.load(task.file("x.npy")), np.load(task.file("y.npy"))
        self._rows = rows
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
        self._x = self._network.x(self._rows)
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

    def forward_share(self, seconds: float) -> float:
        """The time of forward and backward passes over that of forward passes alone, on one batch: the least of each."""
        both = partial(self._network.gradients, self._x, self._y)
        forward = partial(self._network.outputs, self._x)
        times: dict[object, float] = {}
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for one in (both, forward):
                began = time.perf_counter()
                one()
                times[one] = min(times.get(one, math.inf), time.perf_counter() - began)
        return times[both] / times[forward]

    def _step(self) -> None:
        if self._place + self._rows > len(self._order):
            self._place = 0
        rows = self._order[self._place : self._place + self._rows]
        self._place += self._rows
        np.take(self._all_x, rows, axis=0, out=self._x, mode="clip")
        np.take(self._all_y, rows, axis=0, out=self._y, mode="clip")
        self._network.gradients(self._x, self._y)
        self._optimizer.step(1 / self._rows)
