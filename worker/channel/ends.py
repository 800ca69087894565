"""All outlets and inlets of one process in a training, of the kind that each peer's place demands."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.network.parameters import GRAIN
from common.schemas.training import BoundedStaleness
from worker.channel import Halted, Inlet, Outlet, Vector
from worker.channel.shared_memory import Region, SharedInlet, SharedOutlet
from worker.channel.sockets import KeyPair, SocketAddress, SocketEnd, Sockets
from worker.task import TrainingTask
from worker.tree_sum import LEAVES, most_nodes

NOTE = 0
"""The remark in which a server tells its workers how many local steps to take."""
WEIGHT = 0
"""The remark in which a worker tells the summed weight of its rows; no number at all: the loss was none."""
WEIGHTS = slice(0, LEAVES)
"""The same for each leaf of a reproducible sum; others leave all but the first at 0."""
POSITION, BUSY, EXCHANGE, NORM = range(LEAVES, LEAVES + 4)
"""Further remarks of a worker: steps done in the epoch; seconds of a step, and of the last exchange; of the vector."""


_SPIN_OF_SERVER = 0.00002
"""Seconds: while the servers wait the workers compute, and need the processors more."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process is, and the key by which its peers know it."""

    node: str
    host: str
    public_key: bytes


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a process needs to make its ends."""

    place: Place
    keys: KeyPair
    sockets: Sockets
    stop: threading.Event
    """Set by another thread to end all waiting."""


Address = str | SocketAddress
"""What a process needs to attach to another one's end: of the same machine, or of another."""


def slots(task: TrainingTask) -> int:
    """Vectors in each post of a worker."""
    return most_nodes(task.workers) if task.reproducible else 1


class ServerEnd:
    """The side of one shard: its parameters, and everyone's gradients of them.

    Args:
        task: what is trained.
        shard: which of `task.shards`.
        here: this process.
        workers: where they are, by rank.

    """

    def __init__(self, task: TrainingTask, shard: int, here: Surroundings, workers: Sequence[Place]) -> None:
        self._task, self._here, self._shard = task, here, shard
        self._span = task.shards[shard]
        self.span = (self._span.start, self._span.stop)
        """The range of the flat vector that the shard is."""
        self._size = self._span.stop - self._span.start
        self._dtype = np.dtype(task.dtype)
        # A worker that runs ahead must not see the server write: then each has an outlet of its own.
        self._is_apart = isinstance(task.synchrony, BoundedStaleness)
        self._common = SharedOutlet(1, self._size, self._dtype, task.fence)
        self.parameters: Vector = np.empty(self._size, self._dtype) if self._is_apart else self._common.vector[0]
        self._outlets: list[Outlet] = []
        self._sockets: dict[int, SocketEnd] = {}
        self.inlets: list[Inlet] = []
        self.addresses: list[Address] = []
        """What each worker needs."""
        for rank, place in enumerate(workers):
            self._open(rank, place)
        self._distinct = tuple({id(outlet): outlet for outlet in self._outlets}.values())

    def _open(self, rank: int, place: Place) -> None:
        task, here = self._task, self._here
        if place.node == here.place.node:
            outlet = SharedOutlet(1, self._size, self._dtype, task.fence) if self._is_apart else self._common
            self._outlets.append(outlet)
            self.addresses.append(outlet.address)
            return
        outgoing = np.empty((1, self._size), self._dtype) if self._is_apart else self._common.vector
        incoming = np.empty((slots(task), self._size), self._dtype)
        end = here.sockets.bind(
            here.place.host, here.keys, place.public_key, place.host, task.fence, outgoing, incoming, here.stop
        )
        self._sockets[rank] = end
        self._outlets.append(end.outlet)
        self.addresses.append(end.address)

    def attach(self, workers: Sequence[str]) -> None:
        """Connects to the workers' gradients, given by rank.

        Raises:
            PeerLost: one is gone.

        """
        task = self._task
        for rank, address in enumerate(workers):
            self.inlets.append(
                self._sockets[rank].inlet
                if rank in self._sockets
                else SharedInlet(
                    address,
                    self._span,
                    slots(task),
                    task.parameters,
                    self._dtype,
                    task.fence,
                    self._here.stop,
                    seat=self._shard,
                    spin=_SPIN_OF_SERVER,
                )
            )

    def wait(self, number: int) -> None:
        """Waits for everyone's post of this number. Raises as `Inlet.wait` does."""
        for inlet in self.inlets:
            inlet.wait(number)

    def publish(self, number: int, note: float = 0.0) -> None:
        """Posts the parameters to all workers."""
        if self._is_apart:
            for rank in range(len(self._outlets)):
                self.release(rank, number)
            return
        for outlet in self._distinct:
            outlet.remarks[NOTE] = note
            outlet.post(number)

    def release(self, rank: int, number: int) -> None:
        """Posts the parameters to one worker."""
        outlet = self._outlets[rank]
        np.copyto(outlet.vector[0], self.parameters)
        outlet.post(number)

    def halt(self) -> None:
        """Ends everyone's waiting for these parameters."""
        for outlet in self._distinct:
            outlet.halt()

    def close(self) -> None:
        """Gives memory and connections back."""
        _close(self._common, *self._outlets, *self.inlets)


class WorkerEnd:
    """A worker's side: the parameters of all shards, and its gradient.

    Args:
        task: what is trained.
        rank: the worker's number.
        here: this process.
        addresses: what each shard's server said for this worker.

    Raises:
        PeerLost: a server is gone.

    """

    def __init__(self, task: TrainingTask, rank: int, here: Surroundings, addresses: Sequence[Address]) -> None:
        dtype = np.dtype(task.dtype)
        self._own = SharedOutlet(slots(task), task.parameters, dtype, task.fence)
        self.gradient: Vector = self._own.vector
        """Shape (slots, parameters): what is posted next."""
        self.remarks = self._own.remarks
        region = Region(-(-task.parameters // GRAIN) * GRAIN * dtype.itemsize)
        self.parameters: Vector = region.array(dtype, 0, task.parameters, writable=False)
        """As of the last `pull`."""
        self._stop = here.stop
        self._inlets: list[Inlet] = []
        self._outlets: list[Outlet] = [self._own]
        for span, address in zip(task.shards, addresses, strict=True):
            at, size = span.start * dtype.itemsize, span.stop - span.start
            if isinstance(address, str):
                self._inlets.append(
                    SharedInlet(
                        address,
                        slice(0, size),
                        1,
                        size,
                        dtype,
                        task.fence,
                        here.stop,
                        seat=rank,
                        region=region,
                        at=at,
                    )
                )
                continue
            incoming = region.array(dtype, at, size, writable=True).reshape(1, size)
            end = here.sockets.connect(
                address, here.place.host, here.keys, task.fence, self.gradient[:, span], incoming, here.stop
            )
            self._inlets.append(end.inlet)
            self._outlets.append(end.outlet)

    @property
    def address(self) -> str:
        """Where the servers of this machine find the gradient."""
        return self._own.address

    @property
    def note(self) -> float:
        """What the first server told with the parameters."""
        return float(self._inlets[0].remarks[NOTE])

    def pull(self, number: int) -> None:
        """Waits until `parameters` are those of post `number`. Raises as `Inlet.wait` does."""
        for inlet in self._inlets:
            inlet.wait(number)

    def look(self) -> None:
        """Raises Halted if this process was told to stop; for where nothing is waited for a while."""
        if self._stop.is_set():
            raise Halted("The training was halted.")

    def push(self, number: int) -> None:
        """Posts gradient and remarks to all servers."""
        for outlet in self._outlets:
            if outlet is not self._own:
                outlet.remarks[:] = self.remarks
            outlet.post(number)

    def halt(self) -> None:
        """Ends the servers' waiting for this worker."""
        for outlet in self._outlets:
            outlet.halt()

    def close(self) -> None:
        """Gives memory and connections back."""
        _close(*self._outlets, *self._inlets)


class NormEnd:
    """One shard's way to whole-vector sums: every shard tells all others the sums over its grains.

    Args:
        task: what is trained.
        shard: which of `task.shards`.
        here: this process.
        shards: where they all are.

    """

    def __init__(self, task: TrainingTask, shard: int, here: Surroundings, shards: Sequence[Place]) -> None:
        self._task, self._here, self._shard = task, here, shard
        self._sizes = [-(-(span.stop - span.start) // GRAIN) for span in task.shards]
        self._own = SharedOutlet(1, self._sizes[shard], np.dtype(np.float64), task.fence)
        self._sockets: dict[int, SocketEnd] = {}
        self._inlets: list[Inlet] = []
        self.addresses: list[Address] = [self._own.address] * len(shards)
        """What each shard needs; of two on different machines, the earlier one waits to be called."""
        for other in range(shard + 1, len(shards)):
            if shards[other].node != here.place.node:
                incoming = np.empty((1, self._sizes[other]))
                self._sockets[other] = end = here.sockets.bind(
                    here.place.host,
                    here.keys,
                    shards[other].public_key,
                    shards[other].host,
                    task.fence,
                    self._own.vector,
                    incoming,
                    here.stop,
                )
                self.addresses[other] = end.address

    def attach(self, addresses: Sequence[Sequence[Address]]) -> None:
        """Connects to the other shards, each of which gave an address for every shard.

        Raises:
            PeerLost: one is gone.

        """
        task, here, mine = self._task, self._here, self._shard
        for other, given in enumerate(addresses):
            if other == mine:
                continue
            size, address = self._sizes[other], given[mine]
            if isinstance(address, str):
                inlet: Inlet = SharedInlet(
                    address, slice(0, size), 1, size, np.dtype(np.float64), task.fence, here.stop, seat=mine
                )
            else:
                if other < mine:
                    self._sockets[other] = here.sockets.connect(
                        address,
                        here.place.host,
                        here.keys,
                        task.fence,
                        *(self._own.vector, np.empty((1, size)), here.stop),
                    )
                inlet = self._sockets[other].inlet
            self._inlets.append(inlet)

    @property
    def grains(self) -> Vector:
        """The sums over this shard's grains, to be filled in."""
        grains: Vector = self._own.vector[0]
        return grains

    def exchange(self, number: int) -> list[Vector]:
        """Posts this shard's sums and waits for all others'. Raises as `Inlet.wait` does."""
        self._own.post(number)
        for end in self._sockets.values():
            end.outlet.post(number)
        for inlet in self._inlets:
            inlet.wait(number)
        return [self.grains, *(inlet.vector[0] for inlet in self._inlets)]

    def halt(self) -> None:
        """Ends the other shards' waiting for these sums."""
        outlets: list[Outlet] = [self._own, *(end.outlet for end in self._sockets.values())]
        for outlet in outlets:
            outlet.halt()

    def close(self) -> None:
        """Gives memory and connections back."""
        _close(self._own, *self._inlets)


def _close(*ends: Outlet | Inlet) -> None:
    for end in ends:
        end.close()
