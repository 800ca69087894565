"""The channel between processes of one machine: anonymous shared memory and counters in it that each side watches.

Every end owns one segment (a `memfd`), which has no name anywhere: it is gone with the last process that maps it,
however that process ends. A peer opens it through the owner's `/proc` entry, which only the same user may do, and
maps it read-only, so that nobody can write into another's vector. A segment belongs to one incarnation of its owner
and is never taken over: what a lost worker still writes is read by nobody.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import psutil

from worker.channel import Halted, PeerLost, Vector

_HEADER = 4096  # a page of its own: counters share no cache line with vectors
_VERSION, _HALTED, _WEIGHT = 0, 8, 16  # in 8-byte words, a cache line each

_SPIN_SECONDS = 0.002
_LONGEST_NAP_SECONDS = 0.001
_LOOK_SECONDS = 0.05  # between looks at whether the peer lives
_LONGEST_STEP_SECONDS = 300.0  # after which a peer that lives counts as frozen


class Segment:
    """Shared memory that holds a page of counters and one vector."""

    def __init__(self, file: int, size: int, dtype: np.dtype[np.floating], *, writable: bool) -> None:
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._map = mmap.mmap(file, _HEADER + size * dtype.itemsize, mmap.MAP_SHARED, protection)
        self.vector: Vector = np.frombuffer(self._map, dtype, size, offset=_HEADER)
        self.counters = np.frombuffer(self._map, np.int64, _HEADER // 8)
        self.weights = np.frombuffer(self._map, np.float64, _HEADER // 8)
        self._file = file

    @classmethod
    def create(cls, size: int, dtype: np.dtype[np.floating]) -> Segment:
        """A segment of this process's own, all zero."""
        file = os.memfd_create("chainrule", os.MFD_CLOEXEC)
        os.ftruncate(file, _HEADER + size * dtype.itemsize)
        return cls(file, size, dtype, writable=True)

    @classmethod
    def open(cls, address: str, size: int, dtype: np.dtype[np.floating]) -> Segment:
        """A peer's segment, read-only.

        Raises:
            PeerLost: its owner is gone.

        """
        pid, file = address.split(":")
        try:
            opened = os.open(f"/proc/{int(pid)}/fd/{int(file)}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise PeerLost("The process at the other end is gone.") from error
        return cls(opened, size, dtype, writable=False)

    @property
    def address(self) -> str:
        """What `open` takes."""
        return f"{os.getpid()}:{self._file}"

    def close(self) -> None:
        """Closes the file; the mapping goes when the last array on it does."""
        os.close(self._file)


class _Fence:
    """Keeps memory accesses in program order across processors.

    x86 never delays a store past a later store, nor a load past a later load, so there this is for the compiler of
    none; on ARM, releasing and acquiring a lock is a store-release and a load-acquire, which no access crosses.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def __call__(self) -> None:
        self._lock.release()
        self._lock.acquire()


class _Peer:
    """The process behind an address, known by its start time too, so that a reused pid does not pass for it."""

    def __init__(self, address: str) -> None:
        try:
            self._process = psutil.Process(int(address.split(":")[0]))
        except psutil.NoSuchProcess as error:
            raise PeerLost("The process at the other end is gone.") from error

    def check(self) -> None:
        """Raises PeerLost if it is gone."""
        if not self._process.is_running() or self._process.status() == psutil.STATUS_ZOMBIE:
            raise PeerLost(f"Process {self._process.pid} is gone.")


def _wait(is_done: Callable[[], bool], peers: Sequence[_Peer], nap_first: float = 0.0) -> None:
    """Waits for a peer's counter: yields the processor for a short while, then naps, and looks whether peers live."""
    if nap_first:
        time.sleep(nap_first)
    began = time.perf_counter()
    nap, look_at = 0.00005, began + _LOOK_SECONDS
    while not is_done():
        now = time.perf_counter()
        if now - began < _SPIN_SECONDS:
            os.sched_yield()
            continue
        time.sleep(nap)
        nap = min(nap * 1.5, _LONGEST_NAP_SECONDS)
        if now > look_at:
            if now - began > _LONGEST_STEP_SECONDS:
                raise PeerLost("The process at the other end does not answer.")
            for peer in peers:
                peer.check()
            look_at = now + _LOOK_SECONDS


class SharedMemoryServer:
    """The server's end (see `worker.channel.ServerChannel`).

    Args:
        size: numbers in the vector.
        dtype: float32, or float64 where exactness is tested.

    """

    def __init__(self, size: int, dtype: np.dtype[np.floating]) -> None:
        self._own = Segment.create(size, dtype)
        self._workers: list[Segment] = []
        self._peers: list[_Peer] = []
        self._fence = _Fence()
        self._usual_wait = 0.0

    @property
    def address(self) -> str:
        return self._own.address

    @property
    def parameters(self) -> Vector:
        return self._own.vector

    def attach(self, addresses: Sequence[str]) -> None:
        self._workers = [Segment.open(address, self.parameters.size, self.parameters.dtype) for address in addresses]
        self._peers = [_Peer(address) for address in addresses]
        self._gradients = [worker.vector for worker in self._workers]

    def gradients(self, version: int) -> tuple[Sequence[Vector], Sequence[float]]:
        halted = self._own.counters

        def all_pushed() -> bool:
            if halted[_HALTED]:
                raise Halted("The training was halted.")
            return all(worker.counters[_VERSION] >= version for worker in self._workers)

        # The workers need the processors more: sleep through most of a step, then watch closely.
        began = time.perf_counter()
        _wait(all_pushed, self._peers, nap_first=0.6 * self._usual_wait if self._usual_wait > 0.0005 else 0.0)
        waited = min(time.perf_counter() - began, 0.05)
        self._usual_wait = min(waited, self._usual_wait * 1.05 + 0.00002)
        self._fence()
        return self._gradients, [float(worker.weights[_WEIGHT]) for worker in self._workers]

    def publish(self, version: int) -> None:
        self._fence()
        self._own.counters[_VERSION] = version

    def halt(self) -> None:
        self._own.counters[_HALTED] = 1

    def close(self) -> None:
        for segment in (self._own, *self._workers):
            segment.close()


class SharedMemoryWorker:
    """A worker's end (see `worker.channel.WorkerChannel`).

    Args:
        server: the address of the server's end.
        size: numbers in the vector.
        dtype: as the server's.

    Raises:
        PeerLost: the server is gone.

    """

    def __init__(self, server: str, size: int, dtype: np.dtype[np.floating]) -> None:
        self._server = Segment.open(server, size, dtype)
        self._own = Segment.create(size, dtype)
        self._peers = [_Peer(server)]
        self._fence = _Fence()

    @property
    def address(self) -> str:
        return self._own.address

    @property
    def parameters(self) -> Vector:
        return self._server.vector

    @property
    def gradient(self) -> Vector:
        return self._own.vector

    def pull(self, version: int) -> None:
        counters = self._server.counters

        def published() -> bool:
            if counters[_HALTED]:
                raise Halted("The training was halted.")
            return bool(counters[_VERSION] >= version)

        _wait(published, self._peers)
        self._fence()

    def push(self, version: int, weight: float) -> None:
        self._own.weights[_WEIGHT] = weight
        self._fence()
        self._own.counters[_VERSION] = version

    def close(self) -> None:
        for segment in (self._own, self._server):
            segment.close()
