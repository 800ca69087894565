"""Ray: the only file that speaks to it. The server and the workers of a run as actors, placed on one machine.

Actor calls are for control, a few per epoch; the traffic of every step goes through `worker.channel`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from common.errors import ChainruleError, OutOfMemory
from common.network.initializers import initialize
from common.network.metrics import MetricSums
from common.schemas.cluster import Node
from worker.channel import PeerLost, Vector
from worker.channel.shared_memory import SharedMemoryServer, SharedMemoryWorker
from worker.gradient_worker import GradientWorker
from worker.optimizers import make_optimizer
from worker.parameter_server import ParameterServer
from worker.task import EpochSums, TrainingData, TrainingTask


class ProcessLost(ChainruleError):
    """A process of the run died, or Ray did; the job is tried again."""

    code = "worker_lost"


class Group(Protocol):
    """The server and the workers of one run, as their driver sees them."""

    def begin_epoch(self, epoch: int, version: int, steps: int) -> None:
        """Sets everyone to work on an epoch."""

    def wait(self, seconds: float) -> bool:
        """Waits for the epoch's end for at most so long; whether it has come."""

    def finish_epoch(self) -> list[EpochSums]:
        """What each worker saw in the epoch.

        Raises:
            Diverged: the loss is no finite number.
            ProcessLost: somebody died.

        """

    def evaluate(self) -> list[MetricSums]:
        """Each worker's part of an evaluation of the parameters as they are."""

    def remember_best(self) -> None:
        """Keeps the parameters as the best so far."""

    def best(self) -> Vector:
        """The best parameters so far."""

    def halt(self) -> None:
        """Ends the epoch in work at its next step."""

    def processes(self) -> list[dict[str, object]]:
        """Role, pid and work done of each process, told by the process itself."""

    def close(self) -> None:
        """Ends the processes."""


class ServerProcess:
    """The parameter server in a process of its own, which waits until it is given a task."""

    def prepare(self, task: TrainingTask) -> str:
        """Makes the server, its parameters drawn from the task's seed; where workers attach."""
        dtype = np.dtype(task.dtype)
        self._channel = SharedMemoryServer(task.parameters, dtype)
        initial = np.empty(task.parameters, dtype)
        generator = np.random.default_rng(np.random.SeedSequence(task.seed, spawn_key=(0,)))
        initialize(task.shape, task.inputs, task.outputs, generator, initial)
        optimizer = make_optimizer(task.optimizer, task.parameters, dtype)
        self._server = ParameterServer(self._channel, optimizer, initial)
        return self._channel.address

    def attach(self, workers: list[str]) -> None:
        """Connects to the workers."""
        self._channel.attach(workers)

    def serve(self, steps: int) -> int:
        """See `ParameterServer.serve`."""
        return self._server.serve(steps)

    def remember_best(self) -> None:
        """See `ParameterServer.remember_best`."""
        self._server.remember_best()

    def best(self) -> Vector:
        """See `ParameterServer.best`."""
        return self._server.best()

    def describe(self) -> dict[str, object]:
        """This process and what it did."""
        return {"role": "server", "pid": os.getpid(), "updates": self._server.version}

    @ray.method(concurrency_group="control")
    def halt(self) -> None:
        """See `ParameterServer.halt`; runs beside `serve`."""
        self._server.halt()


class WorkerProcess:
    """A gradient worker in a process of its own, which waits until it is given a task."""

    def prepare(self, rank: int, task: TrainingTask, data: TrainingData, server: str) -> str:
        """Makes the worker; where the server reads its gradient."""
        self._rank = rank
        self._channel = SharedMemoryWorker(server, task.parameters, np.dtype(task.dtype))
        self._worker = GradientWorker(rank, task, data, self._channel)
        return self._channel.address

    def run_epoch(self, epoch: int, version: int) -> EpochSums:
        """See `GradientWorker.run_epoch`."""
        return self._worker.run_epoch(epoch, version)

    def evaluate(self) -> MetricSums:
        """See `GradientWorker.evaluate`."""
        return self._worker.evaluate()

    def describe(self) -> dict[str, object]:
        """This process and what it did."""
        return {"role": "worker", "rank": self._rank, "pid": os.getpid(), "gradients": self._worker.gradients_pushed}


_remote: Any = ray.remote  # its types know nothing of concurrency groups
ServerActor = _remote(num_cpus=0, max_restarts=0, concurrency_groups={"control": 1})(ServerProcess)
WorkerActor = _remote(num_cpus=0, max_restarts=0)(WorkerProcess)


class ActorPool:
    """Processes that are up before there is a task for them: to start one takes a second, to use one a millisecond.

    All are on the machine of their driver, where shared memory joins them. A process serves one task and is ended.
    """

    def __init__(self) -> None:
        self._here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._servers: list[Any] = []
        self._workers: list[Any] = []

    def fill(self, workers: int) -> None:
        """Brings the pool to one server and so many workers, and waits until they are up.

        Raises:
            ProcessLost: one did not come up.

        """
        while not self._servers:
            self._servers.append(self._new(ServerActor))
        while len(self._workers) < workers:
            self._workers.append(self._new(WorkerActor))
        get([actor.__ray_ready__.remote() for actor in (*self._servers, *self._workers)])

    def take(self, workers: int) -> tuple[Any, list[Any]]:
        """A server and so many workers, from the pool as far as it goes."""
        server = self._servers.pop() if self._servers else self._new(ServerActor)
        taken = [self._workers.pop() if self._workers else self._new(WorkerActor) for _ in range(workers)]
        return server, taken

    def group(self, task: TrainingTask, data: TrainingData) -> ActorGroup:
        """The processes of one run, ready to begin."""
        return ActorGroup(*self.take(task.workers), task, data)

    def _new(self, actor: Any) -> Any:
        return actor.options(scheduling_strategy=self._here).remote()


class ActorGroup:
    """A `Group` of Ray actors.

    Raises:
        ProcessLost: an actor is not there.

    """

    def __init__(self, server: Any, workers: list[Any], task: TrainingTask, data: TrainingData) -> None:
        self._server = server
        self._workers = workers
        self._epoch: list[Any] = []
        self._data = ray.put(data)  # one copy for the machine; workers map it, read-only
        try:
            address = get(server.prepare.remote(task))
            prepared = [worker.prepare.remote(rank, task, self._data, address) for rank, worker in enumerate(workers)]
            get(server.attach.remote(get(prepared)))
        except BaseException:
            self.close()
            raise

    def begin_epoch(self, epoch: int, version: int, steps: int) -> None:
        self._epoch = [self._server.serve.remote(steps)]
        self._epoch += [worker.run_epoch.remote(epoch, version) for worker in self._workers]

    def wait(self, seconds: float) -> bool:
        ready, _ = ray.wait(self._epoch, num_returns=len(self._epoch), timeout=seconds, fetch_local=False)
        return len(ready) == len(self._epoch)

    def finish_epoch(self) -> list[EpochSums]:
        server, *workers = self._epoch
        sums = get(workers)
        try:
            get(server)
        except ChainruleError as error:
            if error.stable_code != "halted":
                raise
        return list(sums)

    def evaluate(self) -> list[MetricSums]:
        return list(get([worker.evaluate.remote() for worker in self._workers]))

    def remember_best(self) -> None:
        self._server.remember_best.remote()  # calls of one caller run in order: the next epoch comes after it

    def best(self) -> Vector:
        best: Vector = get(self._server.best.remote())
        return best

    def halt(self) -> None:
        get(self._server.halt.remote())

    def processes(self) -> list[dict[str, object]]:
        return list(get([actor.describe.remote() for actor in (self._server, *self._workers)]))

    def close(self) -> None:
        for actor in (self._server, *self._workers):
            ray.kill(actor)


def get(refs: Any) -> Any:
    """What actors answer.

    Raises:
        ProcessLost: an actor died, or Ray did.
        OutOfMemory: an actor was ended, or refused, for want of memory.
        ChainruleError: what the actor itself raised.

    """
    try:
        return ray.get(refs)
    except OutOfMemoryError as error:
        raise OutOfMemory("A process of the run was ended because memory ran out.") from error
    except RayActorError as error:
        raise ProcessLost("A process of the run died.") from error
    except RayTaskError as error:
        if isinstance(error.cause, PeerLost):
            raise ProcessLost(error.cause.message) from error
        if isinstance(error.cause, ChainruleError):
            raise error.cause from error
        if isinstance(error.cause, MemoryError):
            raise OutOfMemory("A process of the run could not get the memory it needed.") from error
        raise
    except RayError as error:
        raise ProcessLost("Ray failed.") from error


@dataclass(frozen=True, slots=True)
class ClusterConnection:
    """This process as a driver of the cluster at `address`."""

    address: str

    def open(self) -> None:
        """Connects.

        Raises:
            ProcessLost: the cluster does not answer.

        """
        try:
            ray.init(address=self.address, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise ProcessLost(f"The Ray cluster at {self.address} does not answer.") from error

    def here(self) -> str:
        """The id of the machine that this driver, and so its actors, are on."""
        return str(ray.get_runtime_context().get_node_id())

    def nodes(self) -> list[Node]:
        """The machines of the cluster."""
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        return [_read_node(node) for node in nodes if node["Alive"]]


def _read_node(node: Mapping[str, Any]) -> Node:
    return Node(
        id=node["NodeID"],
        address=node["NodeManagerAddress"],
        cpus=float(node["Resources"].get("CPU", 0)),
        memory_bytes=int(node["Resources"].get("memory", 0)),
        alive=bool(node["Alive"]),
    )
