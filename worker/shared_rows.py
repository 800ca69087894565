"""The encoded rows of a training, once per machine: the workers of a machine map one copy, read-only.

They lie in a file without a name, which is gone with the last process that maps it, however that process ends: in
memory (a `memfd`) where they fit the memory budget, else on a local disk, of which the system keeps in memory what it
has room for. A worker opens the file through its owner's `/proc` entry, which only the same user may do.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import OutOfMemory
from worker.channel import PeerLost
from worker.channel.shared_memory import memory_file, seal_size

_BLOCK_BYTES = 1 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM)
_NO_UNNAMED_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT)
"""What a file system says that does not know O_TMPFILE, or a kernel."""
_FULL = "The scratch disk has no room for the encoded rows."
_MAKE_ROOM = "Make room on the disk of CHAINRULE_STATE_DIR."
_Array = NDArray[Any]
_Kind = tuple[tuple[int, ...], str]
"""Shape and dtype of an array."""


@dataclass(frozen=True, slots=True)
class RowsShape:
    """What the arrays of a training's rows have room for."""

    rows: int
    validation_rows: int
    """0: the training rows stand in for them."""
    inputs: int
    labels: bool
    """Targets are class numbers, int64, shape (rows,); else numbers, float32, shape (rows, 1)."""
    weighted: bool

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return sum(map(_pages, self._arrays()))

    def arrays(self, memory: mmap.mmap) -> list[_Array | None]:
        """x, targets and weights of the training rows, and then of the validation rows, in `memory`."""
        placed, start = list[_Array | None](), 0
        for array in self._arrays():
            placed.append(array and np.ndarray(*array, memory, start))
            start += _pages(array)
        return placed if self.validation_rows else placed * 2

    def _arrays(self) -> list[_Kind | None]:
        found: list[_Kind | None] = []
        for rows in [self.rows] + [self.validation_rows] * (self.validation_rows > 0):
            found.append(((rows, self.inputs), "float32"))
            found.append(((rows,), "int64") if self.labels else ((rows, 1), "float32"))
            found.append(((rows,), "float32") if self.weighted else None)
        return found


def _pages(array: _Kind | None) -> int:
    """Bytes of an array, whole pages."""
    if array is None:
        return 0
    shape, dtype = array
    return -(-math.prod(shape) * np.dtype(dtype).itemsize // mmap.PAGESIZE) * mmap.PAGESIZE


@dataclass(frozen=True, slots=True)
class RowsHandle:
    """Where a process of the same machine finds the rows: plain data."""

    pid: int
    file: int
    """The number that the file has in that process."""
    device: int
    inode: int
    """With `device`: the file itself, so that no other one of a reused pid passes for it."""
    shape: RowsShape
    in_memory: bool


class SharedRows:
    """The rows of one training; written by their owner while they are made, then read by everybody.

    x, shape (rows, inputs), float32; targets, int64, shape (rows,), or float32, shape (rows, 1); weights, float32,
    shape (rows,), or None. Without validation rows the arrays of the validation are those of the training.
    """

    def __init__(self, memory: mmap.mmap, handle: RowsHandle) -> None:
        arrays: Sequence[Any] = handle.shape.arrays(memory)
        self.x: NDArray[np.float32] = arrays[0]
        self.targets: _Array = arrays[1]
        self.weights: NDArray[np.float32] | None = arrays[2]
        self.validation_x: NDArray[np.float32] = arrays[3]
        self.validation_targets: _Array = arrays[4]
        self.validation_weights: NDArray[np.float32] | None = arrays[5]
        self.handle = handle
        """What `open` takes in another process of this machine."""
        self._file: int | None = None

    @classmethod
    def create(cls, shape: RowsShape, memory_bytes: int, scratch: Path) -> SharedRows:
        """Rows of this process's own, all zero.

        Args:
            shape: how many of what.
            memory_bytes: the budget; what is larger goes to a disk.
            scratch: a folder on a local disk, made when it is needed; it always looks empty.

        Raises:
            OutOfMemory: neither the memory nor the disk has room for them, or no file can be made in `scratch`.

        """
        in_memory = shape.size <= memory_bytes
        file = memory_file("chainrule-rows") if in_memory else _scratch_file(scratch)
        try:
            _allocate(file, shape.size, in_memory=in_memory)
            if in_memory:
                seal_size(file)
            found = os.fstat(file)
            handle = RowsHandle(os.getpid(), file, found.st_dev, found.st_ino, shape, in_memory)
            rows = cls(mmap.mmap(file, shape.size), handle)
        except BaseException:
            os.close(file)
            raise
        rows._file = file
        return rows

    @classmethod
    def open(cls, handle: RowsHandle) -> SharedRows:
        """The rows of another process of this machine, read-only.

        Raises:
            PeerLost: that process is gone, or has closed them.

        """
        gone = "The process that holds the rows is gone."
        try:
            file = os.open(f"/proc/{handle.pid}/fd/{handle.file}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise PeerLost(gone) from error
        try:
            found = os.fstat(file)
            if (found.st_dev, found.st_ino) != (handle.device, handle.inode):
                raise PeerLost(gone)
            return cls(mmap.mmap(file, handle.shape.size, prot=mmap.PROT_READ), handle)
        finally:
            os.close(file)

    @property
    def block_rows(self) -> int | None:
        """Rows of a block of the epoch's order, about 1 MiB; None for rows in memory, which need none."""
        if self.handle.in_memory:
            return None
        return max(1, _BLOCK_BYTES // (self.handle.shape.inputs * self.x.itemsize))

    def close(self) -> None:
        """Lets no other process open them any more; the memory goes with the last array on it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _scratch_file(folder: Path) -> int:
    """A file without a name on the disk of `folder`."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in _NO_UNNAMED_FILES:
                raise
        file, name = tempfile.mkstemp(dir=folder)
        Path(name).unlink()
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise OutOfMemory(_FULL, hint=_MAKE_ROOM) from error
        raise OutOfMemory(
            f"The encoded rows are larger than the memory budget, and no scratch file can be made: {error.strerror}.",
            hint="Raise CHAINRULE_DATA_MEMORY_BYTES, or let CHAINRULE_STATE_DIR be a folder on a local disk.",
        ) from error
    return file


def _allocate(file: int, size: int, *, in_memory: bool) -> None:
    """Takes all the room now: where it is missing later, the process that writes ends with SIGBUS."""
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        if in_memory:
            raise OutOfMemory(f"There is no memory for the encoded rows, {size} bytes.") from error
        raise OutOfMemory(_FULL, hint=_MAKE_ROOM) from error
