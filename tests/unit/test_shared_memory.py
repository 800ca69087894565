"""What only shared memory has: no names, no writing into a peer's vector, several owners' spans in one piece."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from worker.channel import PeerLost
from worker.channel.shared_memory import Region, SharedInlet, SharedOutlet

FLOAT32 = np.dtype(np.float32)
FENCE = bytes(range(16))
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # looked at, not written to


def open_inlet(address: str, size: int = 1000) -> SharedInlet:
    return SharedInlet(address, slice(0, size), 1, size, FLOAT32, FENCE, threading.Event())


_OWNER = """
import sys, numpy as np
from worker.channel.shared_memory import SharedOutlet
outlet = SharedOutlet(1, 1000, np.dtype(np.float32), bytes(range(16)))
print(outlet.address, flush=True)
sys.stdin.read()
"""


def start_owner() -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen([sys.executable, "-c", _OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_segments_have_no_name_anywhere_and_are_gone_with_their_processes() -> None:
    before = set(SHARED_MEMORY.iterdir())
    process, address = start_owner()
    with process:
        opened = open_inlet(address)
        assert set(SHARED_MEMORY.iterdir()) == before
        process.kill()
        process.wait()
        assert not opened.vector.any()  # still mapped here, and nowhere else
        assert set(SHARED_MEMORY.iterdir()) == before


def test_nobody_can_write_into_a_peers_vector() -> None:
    outlet = SharedOutlet(1, 1000, FLOAT32, FENCE)
    inlet = open_inlet(outlet.address)
    with pytest.raises(ValueError, match="read-only"):
        inlet.vector[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        inlet.remarks[0] = 1


def test_the_mapping_of_a_reader_is_read_only_in_the_kernel_too() -> None:
    process, address = start_owner()
    with process:
        inlet = open_inlet(address)
        start = inlet.vector.__array_interface__["data"][0]
        protections = [
            line.split()[1]
            for line in Path("/proc/self/maps").read_text().splitlines()
            if int(line.split("-")[0], 16) <= start < int(line.split("-")[1].split()[0], 16)
        ]
        assert protections == ["r--s"]
        process.kill()


def test_opening_the_memory_of_a_process_that_is_gone_is_a_clear_error() -> None:
    process, address = start_owner()
    with process:
        process.kill()
        process.wait()
        with pytest.raises(PeerLost):
            open_inlet(address)


def test_spans_of_several_owners_lie_side_by_side_in_one_vector() -> None:
    region = Region(3 * 4096)
    whole = region.array(FLOAT32, 0, 2500, writable=False)
    outlets = [SharedOutlet(1, size, FLOAT32, FENCE) for size in (1024, 1024, 452)]
    inlets = []
    for place, outlet in enumerate(outlets):
        size = outlet.vector.shape[1]
        outlet.vector[:] = place + 1
        inlets.append(
            SharedInlet(
                *(outlet.address, slice(0, size), 1, size, FLOAT32, FENCE, threading.Event()),
                region=region,
                at=place * 4096,
            )
        )
    np.testing.assert_array_equal(whole, np.repeat([1, 2, 3], [1024, 1024, 452]))
    outlets[1].vector[:] = 7  # the same memory, not a copy
    assert (whole[1024:2048] == 7).all()


def test_a_sleeping_reader_says_so_in_its_own_seat_only_while_it_sleeps() -> None:
    outlet = SharedOutlet(1, 1000, FLOAT32, FENCE)
    stop = threading.Event()
    inlet = SharedInlet(outlet.address, slice(0, 1000), 1, 1000, FLOAT32, FENCE, stop, seat=5)
    waiting = threading.Thread(target=inlet.wait, args=(1,))
    waiting.start()
    while not any(outlet._seats):
        os.sched_yield()
    assert [seat for seat, taken in enumerate(outlet._seats) if taken] == [5]
    outlet.post(1)
    waiting.join(10)
    assert not any(outlet._seats)


@pytest.mark.parametrize("size", [0, 10**9])
def test_nobody_can_change_the_size_of_a_segment_under_those_who_map_it(size: int) -> None:
    with closing(SharedOutlet(1, 100, np.dtype(np.float32), bytes(16))) as outlet:
        pid, file, bell = outlet.address.split(":")
        for each in (file, bell):
            again = os.open(f"/proc/{pid}/fd/{each}", os.O_RDWR)
            with pytest.raises(PermissionError):
                os.ftruncate(again, size)
            os.close(again)
