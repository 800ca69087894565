"""Ray: the only file that speaks to it. The servers and workers of a run as actors, placed on the cluster's machines.

Actor calls are for control, a few per epoch; the traffic of every step goes through `worker.channel`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from common.errors import ChainruleError, OutOfMemory, lacks_memory
from common.schemas.cluster import Node
from worker.admission import cpus_of_worker
from worker.channel import Halted, PeerLost, Vector
from worker.channel.ends import Address, NormEnd, Place, ServerEnd, Surroundings, WorkerEnd
from worker.channel.sockets import KeyPair, Sockets
from worker.gradient_worker import make_worker
from worker.last_words import Witness
from worker.optimizers import State
from worker.parameter_server import ParameterServer, Told, initial_parameters, make_server
from worker.shared_rows import RowsHandle, SharedRows
from worker.task import Segment, SegmentSums, TrainingTask
from worker.training_data import Preparation


class ProcessLost(ChainruleError):
    """A process of the run died, or Ray did; the job is tried again."""

    code = "worker_lost"


_ANSWER_SECONDS = 60.0
"""For calls between segments, which take milliseconds, or seconds where a large vector travels between machines."""
_ROWS_SECONDS = 3600.0
"""For making the rows ready on another machine."""

_SOCKET_THREADS = 2
"""That encrypt and send for all connections of a process."""


class _Process:
    """What servers and workers have in common: a process that waits until it is given a task."""

    def __init__(self) -> None:
        context = ray.get_runtime_context()
        keys = KeyPair.generate()
        host = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        self._here = Surroundings(
            Place(context.get_node_id(), host, keys.public), keys, Sockets(_SOCKET_THREADS), threading.Event()
        )

    def place(self) -> tuple[Place, int]:
        """Where this process is, and its number there."""
        return self._here.place, os.getpid()

    @ray.method(concurrency_group="control")
    def halt(self) -> None:
        """Ends the segment in work at its next step; runs beside it."""
        self._here.stop.set()


class ServerProcess(_Process):
    """A parameter server in a process of its own, with a thread for each shard that it keeps."""

    def prepare(
        self, task: TrainingTask, server: int, servers: Sequence[Place], workers: Sequence[Place]
    ) -> list[tuple[list[Address], list[Address]]]:
        """Makes its shards' ends; for each, what the workers and what the other shards need to attach."""
        self._task = task
        self._shards = range(server * task.lanes, (server + 1) * task.lanes)
        places = [place for place in servers for _ in range(task.lanes)]
        self._ends = [ServerEnd(task, shard, self._here, workers) for shard in self._shards]
        self._norms = [
            NormEnd(task, shard, self._here, places) if task.clips_whole_gradient else None for shard in self._shards
        ]
        return [
            (end.addresses, [] if norm is None else norm.addresses)
            for end, norm in zip(self._ends, self._norms, strict=True)
        ]

    def attach(
        self,
        workers: Sequence[str],
        norms: Sequence[Sequence[Address]],
        states: Sequence[State] | None,
        initial: Vector | None,
    ) -> None:
        """Connects to workers and other shards, and posts the first parameters.

        They are those of `states`, one for each of this process's shards; or else of `initial`, the whole vector; or
        else drawn from the task's seed.
        """
        task = self._task
        if states is not None:
            starts = [state["parameters"] for state in states]
        else:
            whole = initial_parameters(task) if initial is None else initial
            starts = [whole[task.shards[shard]] for shard in self._shards]
        self._servers = []
        for place, (start, end, norm) in enumerate(zip(starts, self._ends, self._norms, strict=True)):
            end.attach(workers)
            if norm is not None:
                norm.attach(norms)
            state = None if states is None else states[place]
            self._servers.append(make_server(task, end, start, norm, state))
        self._threads = ThreadPoolExecutor(max(1, len(self._servers) - 1))

    def states(self) -> list[State]:
        """See `ParameterServer.state`; of each of its shards."""
        return [server.state() for server in self._servers]

    def serve(self, steps: int, rate: float) -> Told:
        """See `ParameterServer.serve`; what the first shard tells of how the workers kept step."""
        first, *others = self._servers
        running = [self._threads.submit(self._serve, server, steps, rate) for server in others]
        failures = [self._serve(first, steps, rate), *(thread.result() for thread in running)]
        for error in sorted(filter(None, failures), key=lambda error: isinstance(error, Halted)):
            raise error  # one that was halted has nothing to tell of why: another may
        return first.describe_synchrony()

    def _serve(self, server: ParameterServer, steps: int, rate: float) -> BaseException | None:
        try:
            server.serve(steps, rate)
        except BaseException as error:  # handed on by `serve`
            self._here.stop.set()  # no shard goes on alone
            return error
        return None

    def remember(self, number: int) -> None:
        """See `ParameterServer.remember`."""
        for server in self._servers:
            server.remember(number)

    def best(self) -> Vector:
        """The best parameters of its shards, one after the other."""
        return np.concatenate([server.best for server in self._servers])

    def mean(self) -> Vector:
        """The mean parameters of its shards, one after the other."""
        return np.concatenate([server.mean for server in self._servers])

    def describe(self) -> dict[str, object]:
        """This process and what it did."""
        updates = self._servers[0].updates
        return {"role": "server", "pid": os.getpid(), "node": self._here.place.node, "updates": updates}


class WorkerProcess(_Process):
    """A gradient worker in a process of its own."""

    def prepare_rows(self, preparation: Preparation) -> RowsHandle:
        """Makes the rows ready on a machine that the driver is not on."""
        self._rows = preparation.prepare().data
        return self._rows.handle

    def prepare(
        self, rank: int, task: TrainingTask, rows: RowsHandle, addresses: Sequence[Address], state: State | None
    ) -> str:
        """Makes the worker; where servers of this machine read its gradient."""
        self._rank = rank
        end = WorkerEnd(task, rank, self._here, addresses)
        self._worker = make_worker(rank, task, SharedRows.open(rows), end, state)
        return end.address

    def run(self, segment: Segment) -> SegmentSums:
        """See `GradientWorker.run`."""
        return self._worker.run(segment)

    def state(self) -> State:
        """See `GradientWorker.state`."""
        return self._worker.state()

    def describe(self) -> dict[str, object]:
        """This process and what it did."""
        computed = self._worker.gradients_computed
        node = self._here.place.node
        return {"role": "worker", "rank": self._rank, "pid": os.getpid(), "node": node, "gradients": computed}


_remote: Any = ray.remote  # its types know nothing of concurrency groups
ServerActor = _remote(num_cpus=0, max_restarts=0, concurrency_groups={"control": 1})(ServerProcess)
WorkerActor = _remote(num_cpus=0, max_restarts=0, concurrency_groups={"control": 1})(WorkerProcess)


_GRANT_SECONDS = 1.0
"""Within which Ray grants what it can. Where a request is removed just then, one that comes after may never be granted."""


class Reservation:
    """Processors of the cluster, one share for each worker of a job: on one machine if it has them, else on several.

    The actors themselves take none, so that they can be up before there is a job; this is what they are counted by.

    Args:
        workers: how many there are.

    Raises:
        ProcessLost: the cluster is too small, or does not answer.

    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._cpus = self._share()
        self._ask()

    def _share(self) -> float:
        share = cpus_of_worker(self._workers, [node.cpus for node in nodes()])
        if share is None:
            raise ProcessLost("The cluster has become too small for the job.")
        return share

    def _ask(self) -> None:
        with _ray_failures():
            self._group = placement_group([{"CPU": self._cpus}] * self._workers, strategy="PACK")
            self._granted = self._group.ready()

    def renew(self) -> None:
        """Asks anew where machines have come or gone since, and what was asked for may never be there.

        Raises:
            ProcessLost: the cluster has become too small.

        """
        share = self._share()
        if share != self._cpus:
            self.release()
            self._cpus = share
            self._ask()

    def wait(self, seconds: float) -> bool:
        """Waits for at most so long; whether the processors are there."""
        with _ray_failures():  # its own `wait` takes whole seconds: a fraction of one is none at all
            return bool(ray.wait([self._granted], timeout=seconds, fetch_local=False)[0])

    @property
    def nodes(self) -> list[str]:
        """The machine of each worker, by rank."""
        with _ray_failures():
            table: dict[str, Any] = placement_group_table(self._group)
        placed: dict[int, str] = table["bundles_to_node_id"]
        return [placed[rank] for rank in sorted(placed)]

    def release(self) -> None:
        """Gives the processors back; a Ray that has failed takes them itself."""
        with suppress(RayError):
            ray.wait([self._granted], timeout=_GRANT_SECONDS, fetch_local=False)
            remove_placement_group(self._group)


class ActorPool:
    """Processes that are up before there is a task for them: to start one takes a second, to use one a millisecond.

    They are on the machine of their driver; others are started when a run needs them. A process serves one task and
    is ended.
    """

    def __init__(self) -> None:
        self._here = ray.get_runtime_context().get_node_id()
        self._servers: list[Any] = []
        self._workers: list[Any] = []

    def fill(self, workers: int) -> None:
        """Brings the pool to one server and so many workers, and waits until they are up.

        Raises:
            ProcessLost: one did not come up.

        """
        while not self._servers:
            self._servers.append(_start(ServerActor, self._here))
        while len(self._workers) < workers:
            self._workers.append(_start(WorkerActor, self._here))
        get([actor.__ray_ready__.remote() for actor in (*self._servers, *self._workers)])

    def group(
        self,
        task: TrainingTask,
        rows: SharedRows,
        preparation: Preparation,
        reservation: Reservation,
        start: States | Vector | None,
    ) -> ActorGroup:
        """The processes of one run, ready to begin: each server beside one of the workers.

        `start`: where others stopped, or the parameters to begin with; None: they are drawn from the task's seed.
        """
        machines = reservation.nodes
        beside = [machines[server * task.workers // task.servers] for server in range(task.servers)]
        servers = [self._take(self._servers, ServerActor, node) for node in beside]
        workers = [self._take(self._workers, WorkerActor, node) for node in machines]
        return ActorGroup(servers, workers, task, rows, preparation, self._here, start)

    def _take(self, reserve: list[Any], kind: Any, node: str) -> Any:
        return reserve.pop() if node == self._here and reserve else _start(kind, node)


def _start(kind: Any, node: str) -> Any:
    return kind.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()


@dataclass(frozen=True, slots=True)
class States:
    """What the processes of a run need to go on where others stopped."""

    shards: Sequence[State]
    """Of the servers, shard by shard."""
    workers: Sequence[State]
    """By rank."""


class ActorGroup:
    """The servers and the workers of one run, as their driver sees them.

    Raises:
        ProcessLost: an actor is not there.

    """

    def __init__(
        self,
        servers: list[Any],
        workers: list[Any],
        task: TrainingTask,
        rows: SharedRows,
        preparation: Preparation,
        here: str,
        start: States | Vector | None,
    ) -> None:
        self._servers, self._workers = servers, workers
        self._serving: list[Any] = []
        self._running: list[Any] = []
        self._witness = Witness([])
        try:
            self._join(task, rows, preparation, here, start)
        except BaseException:
            self.close()
            raise

    def _join(
        self,
        task: TrainingTask,
        rows: SharedRows,
        preparation: Preparation,
        here: str,
        start: States | Vector | None,
    ) -> None:
        states, initial = (start, None) if isinstance(start, States) else (None, start)
        servers, workers = self._servers, self._workers
        found: list[tuple[Place, int]] = get([actor.place.remote() for actor in (*servers, *workers)])
        self._witness = Witness(pid for place, pid in found if place.node == here)
        places = [place for place, _ in found]
        server_places, worker_places = places[: len(servers)], places[len(servers) :]
        first_of = {place.node: worker for worker, place in reversed(list(zip(workers, worker_places, strict=True)))}
        first_of.pop(here, None)
        prepared = get([worker.prepare_rows.remote(preparation) for worker in first_of.values()], _ROWS_SECONDS)
        handles = {here: rows.handle, **dict(zip(first_of, prepared, strict=True))}

        ends = get([s.prepare.remote(task, i, server_places, worker_places) for i, s in enumerate(servers)])
        shards: list[tuple[list[Address], list[Address]]] = [shard for of_server in ends for shard in of_server]
        gradients = get(
            [
                worker.prepare.remote(
                    rank,
                    task,
                    handles[place.node],
                    [given[rank] for given, _ in shards],
                    states and states.workers[rank],
                )
                for rank, (worker, place) in enumerate(zip(workers, worker_places, strict=True))
            ]
        )
        norms = [norms for _, norms in shards]
        lanes = task.lanes
        get(
            [
                server.attach.remote(gradients, norms, states and states.shards[i * lanes : (i + 1) * lanes], initial)
                for i, server in enumerate(servers)
            ]
        )

    def begin(self, segment: Segment) -> None:
        """Sets everyone to work on a segment; servers take no part in an evaluation."""
        steps, rate = segment.steps, segment.rate
        self._serving = [server.serve.remote(steps, rate) for server in self._servers] if steps else []
        self._running = [worker.run.remote(segment) for worker in self._workers]

    def wait(self, seconds: float) -> bool:
        """Waits for the segment's end for at most so long; whether it has come."""
        awaited = [*self._serving, *self._running]
        ready, _ = ray.wait(awaited, num_returns=len(awaited), timeout=seconds, fetch_local=False)
        return len(ready) == len(awaited)

    def finish(self) -> tuple[list[SegmentSums], Told]:
        """What each worker saw in the segment, and what the first server has to tell of how they kept step.

        Raises:
            Diverged: the loss is no finite number.
            ProcessLost: somebody died.

        """
        sums: list[SegmentSums] = get(self._running)
        told: list[Told] = []
        for server in self._serving:
            with suppress(Halted):  # which has nothing to tell of why: another may
                told.append(get(server))
        return sums, told[0] if told else Told()

    def states(self) -> States:
        """Where everyone stands between two segments."""
        of_servers: list[list[State]] = get([server.states.remote() for server in self._servers])
        of_workers: list[State] = get([worker.state.remote() for worker in self._workers])
        return States([shard for shards in of_servers for shard in shards], of_workers)

    def remember(self, number: int) -> None:
        """Keeps the parameters of an epoch's end: see `ParameterServer.remember`."""
        for server in self._servers:
            server.remember.remote(number)  # calls of one caller run in order: the next segment comes after it

    def best(self) -> Vector:
        """The best parameters so far."""
        return np.concatenate(get([server.best.remote() for server in self._servers]))

    def mean(self) -> Vector:
        """The mean of the best parameters and those of all epochs after them."""
        return np.concatenate(get([server.mean.remote() for server in self._servers]))

    def halt(self) -> None:
        """Ends the segment in work at its next step."""
        for actor in (*self._servers, *self._workers):
            actor.halt.remote()  # not waited for: one that is frozen would not answer

    def processes(self) -> list[dict[str, object]]:
        """Role, pid and work done of each process, told by the process itself."""
        return list(get([actor.describe.remote() for actor in (*self._servers, *self._workers)]))

    def close(self) -> None:
        """Ends the processes; what was written by one that has died before goes into the log."""
        self._witness.tell()
        for actor in (*self._servers, *self._workers):
            with suppress(RayError):
                ray.kill(actor)


def get(refs: Any, seconds: float = _ANSWER_SECONDS) -> Any:
    """What actors answer within so many seconds.

    Raises:
        ProcessLost: an actor died or does not answer, or Ray died.
        OutOfMemory: an actor was ended, or refused, for want of memory.
        ChainruleError: what the actor itself raised.

    """
    try:
        return ray.get(refs, timeout=seconds)
    except GetTimeoutError as error:
        raise ProcessLost("A process of the run does not answer.") from error
    except OutOfMemoryError as error:
        raise OutOfMemory("A process of the run was ended because memory ran out.") from error
    except RayActorError as error:
        raise ProcessLost("A process of the run died.") from error
    except RayTaskError as error:
        if isinstance(error.cause, PeerLost):
            raise ProcessLost(error.cause.message) from error
        if isinstance(error.cause, ChainruleError):
            raise error.cause from error
        if lacks_memory(error.cause):
            raise OutOfMemory("A process of the run could not get the memory it needed.") from error
        raise
    except RayError as error:
        raise ProcessLost("Ray failed.") from error


@contextmanager
def _ray_failures() -> Iterator[None]:
    """Raises ProcessLost for whatever Ray itself raises inside."""
    try:
        yield
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


def nodes() -> list[Node]:
    """The machines of the cluster."""
    with _ray_failures():
        found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [_read_node(node) for node in found if node["Alive"]]


def _read_node(node: Mapping[str, Any]) -> Node:
    return Node(
        id=node["NodeID"],
        address=node["NodeManagerAddress"],
        cpus=float(node["Resources"].get("CPU", 0)),
        memory_bytes=int(node["Resources"].get("memory", 0)),
        alive=bool(node["Alive"]),
    )
