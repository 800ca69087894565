"""The channel between processes of one machine: anonymous shared memory, and a counter in it that readers watch.

Every outlet is a segment (a `memfd`) of its own, which has no name anywhere: it is gone with the last process that
maps it, however that process ends. A reader opens it through its owner's `/proc` entry, which only the same user may
do, and maps it read-only, so that nobody can write into another's vector. A segment belongs to one incarnation of its
owner and is never taken over: what a lost process still writes is read by nobody.

A reader yields the processor for a short while, then sleeps until the counter changes (`futex`). So that the owner
need not ask the kernel to wake somebody with every post, a reader that sleeps says so in its seat of the outlet's
*bell*, the only page that readers may write.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import threading
import time

import numpy as np
import psutil
from numpy.typing import NDArray

from common import processes
from worker.channel import LONGEST_STEP_SECONDS, LOOK_SECONDS, REMARKS, Halted, PeerLost, Vector

_PAGE = mmap.PAGESIZE
_NUMBER, _HALTED, _SLOTS, _SIZE, _ITEM, _FENCE, _REMARKS = 0, 8, 16, 17, 18, 20, 24
"""Places in the header, in 8-byte words; the counter has a cache line of its own."""


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.syscall.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint, *[ctypes.c_void_p] * 2]
_yield = _libc.sched_yield  # unlike os.sched_yield of Python 3.11 it lets other threads of the process run
_FUTEX = {"x86_64": 202, "aarch64": 98}[os.uname().machine]
_WAIT, _WAKE = 0, 1


class Region:
    """A stretch of this process's memory in which segments of several owners can lie one after the other.

    Args:
        size: bytes, all zero at first.

    """

    def __init__(self, size: int) -> None:
        self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def place(self, at: int, file: int, offset: int, size: int, *, writable: bool) -> None:
        """Maps a part of a file at a place in here; all in bytes, places and offsets whole pages."""
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        placed = _libc.mmap(self.address + at, size, protection, mmap.MAP_SHARED | _MAP_FIXED, file, offset)
        if placed != self.address + at:
            raise OSError(ctypes.get_errno(), "mmap failed")

    def array(self, dtype: np.dtype[np.floating], at: int, count: int, *, writable: bool) -> Vector:
        """Numbers in here."""
        found: Vector = np.frombuffer(self._map, dtype, count, offset=at)
        found.flags.writeable = writable
        return found

    def words(self) -> memoryview:
        """The region's beginning, a page, as int64: quicker than an array, number by number."""
        return memoryview(self._map)[:_PAGE].cast("q")


_MAP_FIXED = 0x10


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


class _Fence:
    """Keeps memory accesses in program order across processors.

    Releasing and acquiring a lock is, on x86, an instruction that no access crosses, and on ARM a store-release and a
    load-acquire, with the same effect for what stands before and after the pair.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def __call__(self) -> None:
        self._lock.release()
        self._lock.acquire()


class _Peer:
    """The process behind an address, known by its start time too, so that a reused pid does not pass for it."""

    def __init__(self, pid: int) -> None:
        try:
            self._process = psutil.Process(pid)
        except psutil.NoSuchProcess as error:
            raise PeerLost(_GONE) from error

    def check(self) -> None:
        """Raises PeerLost if it is gone."""
        try:
            if processes.is_there(self._process):
                return
        except OSError as error:  # no file descriptor is left to look with
            raise PeerLost(f"Process {self._process.pid} cannot be looked at: {error.strerror}.") from error
        raise PeerLost(f"Process {self._process.pid} is gone.")


_GONE = "The process at the other end is gone."


class SharedOutlet:
    """See `worker.channel.Outlet`.

    Args:
        slots: vectors that are posted together.
        size: numbers in each.
        dtype: float32, or float64 where exactness is tested.
        fence: 16 bytes that name the run; readers of another one are turned away.

    """

    def __init__(self, slots: int, size: int, dtype: np.dtype[np.floating], fence: bytes) -> None:
        stride = _pages(size * dtype.itemsize)
        self._file, self._region = _create("chainrule", _PAGE + slots * stride)
        self._bell_file, self._bell_region = _create("chainrule-bell", _PAGE)
        per_slot = stride // dtype.itemsize
        numbers = self._region.array(dtype, _PAGE, slots * per_slot, writable=True)
        self.vector: Vector = numbers.reshape(slots, per_slot)[:, :size]
        self._words = self._region.words()
        self._seats = memoryview(self._bell_region.words()).cast("B")
        self.remarks: NDArray[np.float64] = np.frombuffer(self._words, np.float64, REMARKS, _REMARKS * 8)
        self._words[_SLOTS], self._words[_SIZE], self._words[_ITEM] = slots, size, dtype.itemsize
        self._words[_FENCE : _FENCE + 2] = memoryview(fence).cast("q")
        self._fence = _Fence()
        self._open = [self._file, self._bell_file]

    @property
    def address(self) -> str:
        """What a `SharedInlet` needs."""
        return f"{os.getpid()}:{self._file}:{self._bell_file}"

    def post(self, number: int) -> None:
        self._fence()
        self._words[_NUMBER] = number
        self._fence()
        if self._seats[:_SEATS] != _NOBODY:
            _wake(self._region.address)

    def halt(self) -> None:
        self._words[_HALTED] = 1
        _wake(self._region.address)

    def close(self) -> None:
        """The mappings go when the last array on them does."""
        while self._open:
            os.close(self._open.pop())


_SEATS = 256
_NOBODY = bytes(_SEATS)


SPIN_SECONDS = 0.0005
"""For a reader whose peer answers soon, on a processor that it would only leave to take again."""


class SharedInlet:
    """See `worker.channel.Inlet`.

    Args:
        address: of the outlet.
        span: the numbers of each slot that are read; it begins at a whole page.
        slots: as the outlet's.
        size: as the outlet's.
        dtype: as the outlet's.
        fence: as the outlet's.
        stop: ends waiting, from another thread.
        seat: tells this reader from the outlet's others, from 0.
        spin: seconds for which it yields the processor before it sleeps.
        region: where the span of the first slot is to lie, from byte `at` on; None: anywhere.
        at: a whole number of pages.

    Raises:
        PeerLost: the owner is gone, or the outlet is not the one that is meant.

    """

    def __init__(
        self,
        address: str,
        span: slice,
        slots: int,
        size: int,
        dtype: np.dtype[np.floating],
        fence: bytes,
        stop: threading.Event,
        seat: int = 0,
        spin: float = SPIN_SECONDS,
        region: Region | None = None,
        at: int = 0,
    ) -> None:
        pid, file, bell = (int(part) for part in address.split(":"))
        self._peer = _Peer(pid)
        self._stop = stop
        self._spin = spin
        self._fence = _Fence()
        self._header = _open(pid, file, Region(_PAGE), 0, _PAGE, writable=False)
        self._words = self._header.words().toreadonly()
        if [*self._words[_SLOTS : _ITEM + 1], *self._words[_FENCE : _FENCE + 2]] != [
            *(slots, size, dtype.itemsize),
            *memoryview(fence).cast("q"),
        ]:
            raise PeerLost("The process at the other end belongs to another run.")
        self.remarks: NDArray[np.float64] = np.frombuffer(self._words, np.float64, REMARKS, _REMARKS * 8)
        self._bell = _open(pid, bell, Region(_PAGE), 0, _PAGE, writable=True)
        self._seats, self._seat = self._bell.words().cast("B"), seat

        count, stride = span.stop - span.start, _pages(size * dtype.itemsize)
        length = _pages(count * dtype.itemsize)
        region = region or Region(max(slots * length, _PAGE))
        for slot in range(slots if count else 0):
            offset = _PAGE + slot * stride + span.start * dtype.itemsize
            _open(pid, file, region, at + slot * length, length, writable=False, offset=offset)
        numbers = region.array(dtype, at, slots * length // dtype.itemsize, writable=False)
        self.vector: Vector = numbers.reshape(slots, -1)[:, :count]

    def arrived(self) -> int:
        words = self._words
        if words[_HALTED] or self._stop.is_set():
            raise Halted("The training was halted.")
        number = words[_NUMBER]
        self._fence()
        return int(number)

    def wait(self, number: int) -> None:
        words = self._words
        if words[_NUMBER] < number:
            until = time.perf_counter() + self._spin
            while words[_NUMBER] < number:
                _yield()
                if time.perf_counter() > until:
                    self._sleep(number)
        self._fence()
        if words[_NUMBER] != number:
            raise PeerLost("The process at the other end is out of step.")

    def check(self) -> None:
        self._peer.check()

    def close(self) -> None:
        """The mappings go when the last array on them does."""

    def _sleep(self, number: int) -> None:
        began = looked = time.perf_counter()
        self._seats[self._seat] = 1
        try:
            while True:
                self._fence()
                seen = self._words[_NUMBER]
                if seen >= number:
                    return
                if self._words[_HALTED] or self._stop.is_set():
                    raise Halted("The training was halted.")
                _sleep_while(self._header.address, seen)
                now = time.perf_counter()
                if now - looked >= LOOK_SECONDS:
                    looked = now
                    self._peer.check()
                if now - began > LONGEST_STEP_SECONDS:
                    raise PeerLost("The process at the other end does not answer.")
        finally:
            self._seats[self._seat] = 0


def memory_file(name: str) -> int:
    """A file in memory, which goes with the last process that has it open or mapped; its size is to be sealed."""
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def seal_size(memfd: int) -> None:
    """Makes the size of a file in memory final: whoever maps it would die of SIGBUS if another process cut it."""
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)


def _create(name: str, size: int) -> tuple[int, Region]:
    file = memory_file(name)
    os.ftruncate(file, size)
    seal_size(file)
    region = Region(size)
    region.place(0, file, 0, size, writable=True)
    return file, region


def _open(pid: int, file: int, region: Region, at: int, size: int, *, writable: bool, offset: int = 0) -> Region:
    """Maps a part of another process's file."""
    mode = os.O_RDWR if writable else os.O_RDONLY
    try:
        opened = os.open(f"/proc/{pid}/fd/{file}", mode | os.O_CLOEXEC)
    except OSError as error:  # of a zombie, or of a pid or a descriptor used again
        raise PeerLost(_GONE) from error
    try:
        if os.fstat(opened).st_size < offset + size:
            raise PeerLost("The memory of the process at the other end is smaller than agreed.")
        region.place(at, opened, offset, size, writable=writable)
    finally:
        os.close(opened)
    return region


def _wake(address: int) -> None:
    _libc.syscall(_FUTEX, address, _WAKE, 0x7FFFFFFF, None, None)


def _sleep_while(address: int, value: int) -> None:
    """Sleeps until somebody posts, unless the number is no longer `value`, for a while at most."""
    _libc.syscall(_FUTEX, address, _WAIT, value & 0xFFFFFFFF, ctypes.addressof(_LOOK), None)


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


_LOOK = _Time(0, int(LOOK_SECONDS * 1e9))
