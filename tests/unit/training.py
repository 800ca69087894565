"""A whole training in one process: threads stand in for processes, all else is as it is."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from common.network.metrics import MetricSums
from common.network.structure import parameter_count
from common.schemas.losses import CrossEntropy
from common.schemas.network import Dense, NetworkShape
from common.schemas.optimizers import Adam, Regularization
from worker.channel.ends import NormEnd, Place, ServerEnd, Surroundings, WorkerEnd
from worker.channel.sockets import KeyPair, Sockets
from worker.evaluator import pieces
from worker.gradient_worker import make_worker
from worker.optimizers import State
from worker.parameter_server import ParameterServer, initial_parameters, make_server
from worker.shared_rows import SharedRows
from worker.task import Segment, SegmentSums, TrainingTask

INPUTS, CLASSES = 5, 3


def arrays(rows: SharedRows) -> list[NDArray[Any] | None]:
    """All that the rows of a training are."""
    return [
        rows.x,
        rows.targets,
        rows.weights,
        rows.validation_x,
        rows.validation_targets,
        rows.validation_weights,
    ]


SMALL = NetworkShape(layers=(Dense(units=7, activation="tanh", dropout=0.25), Dense(units=4)))


@dataclass
class Rows:
    """As `worker.shared_rows.SharedRows`, of any dtype."""

    x: NDArray[Any]
    targets: NDArray[Any]
    weights: NDArray[Any] | None
    validation_x: NDArray[Any]
    validation_targets: NDArray[Any]
    validation_weights: NDArray[Any] | None


def make_task(workers: int, *, clip_norm: float | None = None, **changes: Any) -> TrainingTask:
    values: dict[str, Any] = {
        "task": "classification",
        "shape": SMALL,
        "loss": CrossEntropy(),
        "optimizer": Adam(learning_rate=0.01),
        "batch_size": 16,
        "shuffle": True,
        "seed": 5,
        "dtype": "float64",
        "fence": os.urandom(16),
        "regularization": Regularization(clip_norm=clip_norm),
        **changes,
    }
    outputs = CLASSES if values["task"] == "classification" else 1
    return TrainingTask(
        inputs=INPUTS,
        outputs=outputs,
        parameters=parameter_count(values["shape"], INPUTS, outputs),
        workers=workers,
        **values,
    )


def make_rows(rows: int, task: TrainingTask, *, scale: float = 1.0, weighted: bool = False) -> Rows:
    random = np.random.default_rng(rows)
    total = rows + 9
    x = (scale * random.standard_normal((total, INPUTS))).astype(task.dtype)
    targets: NDArray[Any] = (
        random.integers(0, CLASSES, total)
        if task.task == "classification"
        else random.standard_normal((total, 1)).astype(task.dtype)
    )
    weights = random.choice([0.0, 0.5, 1.0, 3.25], total).astype(task.dtype) if weighted else None
    parts = [slice(0, rows), slice(rows, total)]
    train, validation = ((x[part], targets[part], None if weights is None else weights[part]) for part in parts)
    return Rows(*train, *validation)


class Trained:
    """The end of a training, and what was seen on the way."""

    def __init__(self, servers: Sequence[ParameterServer], epochs: list[list[SegmentSums]]) -> None:
        self.parameters = np.concatenate([server._parameters for server in servers])
        self.servers = servers
        self.epochs = epochs

    @property
    def losses(self) -> list[float]:
        return [float(sum(sum(part.losses) for part in sums)) for sums in self.epochs]

    @property
    def evaluation(self) -> MetricSums:
        return MetricSums.total(piece for part in self.epochs[-1] for piece in part.evaluation)


class Cast:
    """Servers and workers of a task, joined.

    Args:
        task: what is trained.
        rows: all of them.
        nodes: the machine of each server and then of each worker; different ones are joined by sockets.
        states: of the shards and the workers of another cast, whose place this one takes.

    """

    def __init__(
        self,
        task: TrainingTask,
        rows: Rows,
        nodes: Sequence[str] | None = None,
        states: tuple[Sequence[State], Sequence[State]] | None = None,
    ) -> None:
        self.task, self.rows = task, rows
        count = task.servers * task.lanes
        self.stop = threading.Event()
        nodes = nodes or ["here"] * (count + task.workers)
        around = [self._surroundings(node) for node in nodes]
        shards, workers = around[:count], around[count:]
        places = [one.place for one in shards]
        ends = [ServerEnd(task, k, one, [w.place for w in workers]) for k, one in enumerate(shards)]
        norms = [NormEnd(task, k, one, places) if task.clips_whole_gradient else None for k, one in enumerate(shards)]
        self.worker_ends = [
            WorkerEnd(task, rank, one, [end.addresses[rank] for end in ends]) for rank, one in enumerate(workers)
        ]
        initial = initial_parameters(task)
        self.servers = []
        for k, (end, norm) in enumerate(zip(ends, norms, strict=True)):
            end.attach([worker.address for worker in self.worker_ends])
            if norm is not None:
                norm.attach([other.addresses for other in norms if other is not None])
            state = None if states is None else states[0][k]
            self.servers.append(make_server(task, end, initial[task.shards[k]], norm, state))
        self.workers = [
            make_worker(rank, task, cast("Any", rows), end, None if states is None else states[1][rank])
            for rank, end in enumerate(self.worker_ends)
        ]
        self._around = around
        self._ends: list[Any] = [*ends, *self.worker_ends, *(norm for norm in norms if norm is not None)]

    def _surroundings(self, node: str) -> Surroundings:
        keys = KeyPair.generate()
        return Surroundings(Place(node, "127.0.0.1", keys.public), keys, Sockets(), self.stop)

    @property
    def steps(self) -> int:
        """In an epoch."""
        return self.task.steps(len(self.rows.x))

    def states(self) -> tuple[list[State], list[State]]:
        """Of the shards and of the workers, copied."""
        shards, workers = ([copied(one.state()) for one in all_] for all_ in (self.servers, self.workers))
        return shards, workers

    def train(self, epochs: int) -> Trained:
        """Whole epochs, the validation rows evaluated after each."""
        everything = pieces(cast("Any", self.rows))
        segments = [Segment(epoch, 0, self.steps, everything) for epoch in range(1, epochs + 1)]
        trained = self.run(segments)
        for sums in trained.epochs:
            assert sum(part.rows for part in sums) == len(self.rows.x)
        return trained

    def run(self, segments: Sequence[Segment]) -> Trained:
        """One segment after the other."""
        seen = []
        with ThreadPoolExecutor(len(self.servers) + len(self.workers)) as threads:
            for segment in segments:
                serving = [threads.submit(server.serve, segment.steps) for server in self.servers if segment.steps]
                running = [threads.submit(worker.run, segment) for worker in self.workers]
                try:
                    for server in serving:
                        server.result(60)
                except BaseException:
                    self.stop.set()
                    raise
                seen.append([worker.result(60) for worker in running])
        return Trained(self.servers, seen)

    def close(self) -> None:
        for end in self._ends:
            end.close()
        for one in self._around:
            one.sockets.close()


def train(task: TrainingTask, rows: Rows, epochs: int, nodes: Sequence[str] | None = None) -> Trained:
    """A whole training from the same initial parameters."""
    group = Cast(task, rows, nodes)
    try:
        return group.train(epochs)
    finally:
        group.close()


def copied(state: State) -> State:
    """A state that later steps do not change."""
    return {name: array.copy() for name, array in state.items()}
