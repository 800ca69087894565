"""Rows that the processes of a machine share: one copy, read-only, and nothing left behind."""

from __future__ import annotations

import errno
import mmap
import multiprocessing
import os
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.errors import OutOfMemory
from tests.unit.training import arrays
from worker.channel import PeerLost
from worker.shared_rows import RowsHandle, RowsShape, SharedRows

SHAPE = RowsShape(rows=5, validation_rows=2, inputs=3, labels=True, weighted=True)
SPAWN = multiprocessing.get_context("spawn")
IN_MEMORY, ON_DISK = 1 << 30, 0
both = pytest.mark.parametrize("budget", [IN_MEMORY, ON_DISK], ids=["memory", "disk"])


@pytest.fixture(scope="module")
def other() -> Iterator[ProcessPoolExecutor]:
    """Another process of this machine."""
    with ProcessPoolExecutor(1, mp_context=SPAWN) as executor:
        yield executor


def fill(rows: SharedRows, seed: int = 0) -> list[NDArray[Any] | None]:
    """Random numbers in every array; copies of them."""
    generator = np.random.default_rng(seed)
    for array in arrays(rows):
        if array is not None:
            array[:] = generator.integers(-1000, 1000, array.shape)
    return [None if array is None else array.copy() for array in arrays(rows)]


def read(handle: RowsHandle) -> list[tuple[NDArray[Any] | None, bool]]:
    """In another process: what it sees, and whether it may write."""
    opened = SharedRows.open(handle)
    seen = [(None if a is None else a.copy(), a is not None and a.flags.writeable) for a in arrays(opened)]
    opened.close()
    return seen


def force(handle: RowsHandle) -> str:
    """In another process: tries to write."""
    try:
        SharedRows.open(handle).x.flags.writeable = True
    except ValueError as error:
        return str(error)
    return ""


@both
def test_another_process_sees_what_the_owner_wrote_and_cannot_change_it(
    tmp_path: Path, other: ProcessPoolExecutor, budget: int
) -> None:
    rows = SharedRows.create(SHAPE, budget, tmp_path)
    written = fill(rows)
    for (seen, writeable), expected in zip(other.submit(read, rows.handle).result(), written, strict=True):
        assert seen is not None
        assert expected is not None
        np.testing.assert_array_equal(seen, expected)
        assert not writeable
    assert "WRITEABLE" in other.submit(force, rows.handle).result()
    rows.x[0, 0] = 77  # the same memory, not a copy of it
    assert SharedRows.open(rows.handle).x[0, 0] == 77


@given(st.builds(RowsShape, st.integers(1, 3000), st.integers(0, 50), st.integers(1, 9), st.booleans(), st.booleans()))
def test_every_array_has_its_own_place_and_its_kind(shape: RowsShape) -> None:
    rows = SharedRows.create(shape, IN_MEMORY, Path("/nowhere"))
    assert all(not np.any(array) for array in arrays(rows) if array is not None)
    if not shape.validation_rows:
        assert rows.validation_x is rows.x
        assert rows.validation_targets is rows.targets
        assert rows.validation_weights is rows.weights
    written = fill(rows)
    opened = SharedRows.open(rows.handle)
    if shape.validation_rows:
        for array, expected in zip(arrays(opened), written, strict=True):
            assert (array is None) == (expected is None)
            assert array is None or expected is None or (array == expected).all()
    for count, side in ((shape.rows, arrays(opened)[:3]), (shape.validation_rows or shape.rows, arrays(opened)[3:])):
        x, targets, weights = side
        assert x is not None
        assert targets is not None
        assert (x.shape, x.dtype.name, x.flags.c_contiguous) == ((count, shape.inputs), "float32", True)
        assert x.ctypes.data % mmap.PAGESIZE == 0
        kind = ((count,), "int64") if shape.labels else ((count, 1), "float32")
        assert (targets.shape, targets.dtype.name) == kind
        assert (weights is not None) == shape.weighted
        assert weights is None or (weights.shape, weights.dtype.name) == ((count,), "float32")
    rows.close()


@both
def test_closed_rows_are_lost_to_others_but_not_to_those_that_have_them(tmp_path: Path, budget: int) -> None:
    rows = SharedRows.create(SHAPE, budget, tmp_path)
    written = fill(rows)
    opened = SharedRows.open(rows.handle)
    rows.close()
    rows.close()
    with pytest.raises(PeerLost):
        SharedRows.open(rows.handle)
    np.testing.assert_array_equal(opened.x, written[0])


def own(pipe: Connection, budget: int, folder: Path) -> None:
    """A process that owns rows until it is ended."""
    rows = SharedRows.create(SHAPE, budget, folder)
    rows.x[:] = 3
    pipe.send(rows.handle)
    pipe.recv()


@both
def test_when_the_owner_is_killed_rows_that_are_open_stay_and_nothing_is_left_on_the_disk(
    tmp_path: Path, budget: int
) -> None:
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=own, args=(theirs, budget, tmp_path / "scratch"))
    process.start()
    handle = ours.recv()
    opened = SharedRows.open(handle)
    process.kill()
    process.join()
    with pytest.raises(PeerLost):
        SharedRows.open(handle)
    assert (opened.x == 3).all()
    assert [file for _, _, files in os.walk(tmp_path) for file in files] == []


def test_another_file_under_the_same_number_does_not_pass_for_the_rows(tmp_path: Path) -> None:
    rows = SharedRows.create(SHAPE, IN_MEMORY, tmp_path)
    for wrong in (
        replace(rows.handle, inode=rows.handle.inode + 1),
        replace(rows.handle, device=rows.handle.device + 1),
    ):
        with pytest.raises(PeerLost):
            SharedRows.open(wrong)
    rows.close()


def place(rows: SharedRows) -> str:
    """What the system calls the file."""
    return str(Path(f"/proc/self/fd/{rows.handle.file}").readlink())


def test_rows_beyond_the_budget_lie_on_the_disk_and_are_read_by_blocks(tmp_path: Path) -> None:
    shape = RowsShape(rows=1000, validation_rows=0, inputs=100, labels=True, weighted=False)
    within = SharedRows.create(shape, shape.size, tmp_path)
    beyond = SharedRows.create(shape, shape.size - 1, tmp_path)
    assert within.block_rows is None
    assert beyond.block_rows == 2**20 // 400
    assert SharedRows.open(beyond.handle).block_rows == beyond.block_rows
    assert [place(rows).startswith(str(tmp_path)) for rows in (within, beyond)] == [False, True]
    assert list(tmp_path.iterdir()) == []
    wide = RowsShape(rows=1, validation_rows=0, inputs=2**20, labels=True, weighted=False)
    assert SharedRows.create(wide, ON_DISK, tmp_path).block_rows == 1


def test_the_room_is_taken_before_anything_is_written(tmp_path: Path) -> None:
    rows = SharedRows.create(replace(SHAPE, rows=100_000), ON_DISK, tmp_path)
    assert rows._file is not None
    assert os.fstat(rows._file).st_blocks * 512 >= rows.handle.shape.size


def test_a_file_system_without_unnamed_files_does_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opening = os.open

    def refuse(path: str | Path, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return opening(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", refuse)
    rows = SharedRows.create(SHAPE, ON_DISK, tmp_path)
    written = fill(rows)
    np.testing.assert_array_equal(SharedRows.open(rows.handle).x, written[0])
    assert list(tmp_path.iterdir()) == []


def files_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def refused(create: Callable[[], SharedRows]) -> None:
    before = files_open()
    try:
        create()
    finally:
        assert files_open() == before


def test_a_full_disk_is_told_at_once() -> None:
    tmpfs = Path("/dev/shm")  # noqa: S108 # a disk that knows its size, and refuses more in no time
    if not os.path.ismount(tmpfs):
        pytest.skip("needs a file system of a known size")
    room = os.statvfs(tmpfs)
    shape = replace(SHAPE, rows=room.f_blocks * room.f_frsize // 12 + 1)
    with pytest.raises(OutOfMemory, match="scratch disk"):
        refused(lambda: SharedRows.create(shape, ON_DISK, tmpfs))


def test_a_folder_that_cannot_be_used_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutOfMemory) as caught:
        refused(lambda: SharedRows.create(SHAPE, ON_DISK, tmp_path / "file" / "scratch"))
    assert "CHAINRULE_DATA_MEMORY_BYTES" in (caught.value.hint or "")


def limited(budget: int, folder: Path) -> str:
    """In another process: the error's name where no file may be as large."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    try:
        refused(lambda: SharedRows.create(SHAPE, budget, folder))
    except OutOfMemory as error:
        return type(error).__name__
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return ""


def test_no_room_is_an_error_and_never_a_signal(tmp_path: Path, other: ProcessPoolExecutor) -> None:
    assert other.submit(limited, IN_MEMORY, tmp_path).result() == "OutOfMemory"
    assert other.submit(limited, ON_DISK, tmp_path).result() == "OutOfMemory"
