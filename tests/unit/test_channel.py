"""The shared-memory channel: whole vectors, in step, never over a dead peer's memory."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from worker.channel import Halted, PeerLost
from worker.channel.shared_memory import Segment, SharedMemoryServer, SharedMemoryWorker

FLOAT32 = np.dtype(np.float32)
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # looked at, not written to


def pair(size: int = 1000, workers: int = 1) -> tuple[SharedMemoryServer, list[SharedMemoryWorker]]:
    server = SharedMemoryServer(size, FLOAT32)
    ends = [SharedMemoryWorker(server.address, size, FLOAT32) for _ in range(workers)]
    server.attach([end.address for end in ends])
    return server, ends


def test_a_pushed_gradient_arrives_whole_with_its_weight() -> None:
    server, (worker,) = pair()
    worker.gradient[:] = np.arange(1000)
    worker.push(1, 17.0)
    (gradient,), (weight,) = server.gradients(1)
    assert weight == 17.0
    np.testing.assert_array_equal(gradient, np.arange(1000))


def test_a_worker_sees_a_version_only_when_it_is_published() -> None:
    server, (worker,) = pair()
    server.parameters[:] = 3
    with ThreadPoolExecutor(1) as threads:
        pulling = threads.submit(worker.pull, 1)
        assert not pulling.done()
        server.publish(1)
        pulling.result(10)
    np.testing.assert_array_equal(worker.parameters, np.full(1000, 3))


def test_every_step_of_a_long_exchange_carries_its_own_numbers() -> None:
    server, ends = pair(size=20_000, workers=2)

    def work(end: SharedMemoryWorker) -> None:
        for step in range(1, 501):
            end.pull(step - 1)
            assert (end.parameters == step - 1).all()
            end.gradient[:] = step
            end.push(step, float(step))

    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(work, end) for end in ends]
        for step in range(1, 501):
            gradients, weights = server.gradients(step)
            assert all((gradient == step).all() for gradient in gradients)
            assert weights == [step, step]
            server.parameters[:] = step
            server.publish(step)
        for future in running:
            future.result(10)


def test_nobody_can_write_into_a_peers_vector() -> None:
    server, (worker,) = pair()
    worker.push(1, 1.0)
    (gradient,), _ = server.gradients(1)
    with pytest.raises(ValueError, match="read-only"):
        worker.parameters[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        gradient[0] = 1


def test_a_halt_ends_all_waiting() -> None:
    server, (worker,) = pair()
    with ThreadPoolExecutor(2) as threads:
        pulling, serving = threads.submit(worker.pull, 1), threads.submit(server.gradients, 1)
        server.halt()
        with pytest.raises(Halted):
            pulling.result(10)
        with pytest.raises(Halted):
            serving.result(10)


_PEER = """
import sys, numpy as np
from worker.channel.shared_memory import SharedMemoryServer, SharedMemoryWorker
if sys.argv[1] == "server":
    end = SharedMemoryServer(1000, np.dtype(np.float32))
else:
    end = SharedMemoryWorker(sys.argv[1], 1000, np.dtype(np.float32))
print(end.address, flush=True)
sys.stdin.read()
"""


def start_peer(role: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _PEER, role], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


@pytest.mark.parametrize("stopped_first", [False, True], ids=["killed", "frozen and killed"])
def test_a_server_notices_that_a_worker_was_killed(stopped_first: bool) -> None:
    server = SharedMemoryServer(1000, FLOAT32)
    process, address = start_peer(server.address)
    server.attach([address])
    with process, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(server.gradients, 1)
        if stopped_first:
            process.send_signal(signal.SIGSTOP)
        process.kill()
        with pytest.raises(PeerLost):
            waiting.result(10)


def test_a_worker_notices_that_its_server_was_killed() -> None:
    process, address = start_peer("server")
    worker = SharedMemoryWorker(address, 1000, FLOAT32)
    with process, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(worker.pull, 1)
        process.kill()
        with pytest.raises(PeerLost):
            waiting.result(10)


def test_attaching_to_a_process_that_is_gone_is_a_clear_error() -> None:
    process, address = start_peer("server")
    with process:
        process.kill()
        process.wait()
        with pytest.raises(PeerLost):
            SharedMemoryWorker(address, 1000, FLOAT32)


def test_segments_have_no_name_anywhere_and_are_gone_with_their_processes() -> None:
    before = set(SHARED_MEMORY.iterdir())
    process, address = start_peer("server")
    with process:
        opened = Segment.open(address, 1000, FLOAT32)
        assert set(SHARED_MEMORY.iterdir()) == before
        process.kill()
        process.wait()
        assert not opened.vector.any()  # still mapped here, and nowhere else
        assert set(SHARED_MEMORY.iterdir()) == before
