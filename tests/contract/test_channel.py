"""The channel's contract, held to both implementations: what is posted arrives whole, in order, and from nobody else."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.processes import start_process
from worker.channel import REMARKS, Halted, Inlet, Outlet, PeerLost, Vector
from worker.channel.shared_memory import SharedInlet, SharedOutlet
from worker.channel.sockets import KeyPair, Patience, Sockets

PATIENCE = Patience(connect=5)


@dataclass(frozen=True)
class Terms:
    """What both ends of a pair have to agree on. A span of the worker's vector goes to the server, as to a shard."""

    kind: str
    fence: bytes = bytes(range(16))
    slots: int = 1
    size: int = 3000
    start: int = 0
    stop: int = 3000
    dtype: str = "float32"
    patience: Patience = PATIENCE


@dataclass
class End:
    outlet: Outlet
    inlet: Inlet
    written: Vector
    """What is posted, or what that is a span of."""
    stop: threading.Event
    close: Callable[[], None]


def open_end(role: str, terms: Terms, wire: Any) -> End:
    """The "server" or the "worker" of a pair; the wire carries what they tell each other, as Ray does."""
    opening = open_shared_memory if terms.kind == "shared memory" else open_sockets
    return opening(role, terms, wire)


def open_shared_memory(role: str, terms: Terms, wire: Any) -> End:
    dtype, stop = np.dtype(terms.dtype), threading.Event()
    sizes = {"server": terms.stop - terms.start, "worker": terms.size}
    outlet = SharedOutlet(terms.slots, sizes.pop(role), dtype, terms.fence)
    wire.send(outlet.address)
    (size,) = sizes.values()
    span = slice(terms.start, terms.stop) if role == "server" else slice(0, size)
    inlet = SharedInlet(wire.recv(), span, terms.slots, size, dtype, terms.fence, stop)

    def close() -> None:
        outlet.close()
        inlet.close()

    return End(outlet, inlet, outlet.vector, stop, close)


def open_sockets(role: str, terms: Terms, wire: Any) -> End:
    keys, sockets, stop = KeyPair.generate(), Sockets(), threading.Event()
    span = slice(terms.start, terms.stop)
    incoming = np.zeros((terms.slots, terms.stop - terms.start), terms.dtype)
    if role == "server":
        written = np.zeros_like(incoming)
        peer = wire.recv()
        end = sockets.bind("127.0.0.1", keys, peer, "127.0.0.1", terms.fence, written, incoming, stop, terms.patience)
        wire.send(end.address)
    else:
        wire.send(keys.public)
        written = np.zeros((terms.slots, terms.size), terms.dtype)
        end = sockets.connect(
            wire.recv(), "127.0.0.1", keys, terms.fence, written[:, span], incoming, stop, terms.patience
        )
    return End(end.outlet, end.inlet, written, stop, sockets.close)


class Peers:
    """Opens the ends of pairs, in this process and in others, and closes them."""

    def __init__(self, kind: str, stack: ExitStack) -> None:
        self.terms = Terms(kind)
        self._stack = stack
        self.threads = stack.enter_context(ThreadPoolExecutor(4))

    def open(self, role: str, terms: Terms, wire: Any) -> End:
        end = open_end(role, terms, wire)
        self._stack.callback(end.close)
        return end

    def pair(self, **terms: Any) -> tuple[End, End]:
        """A server's and a worker's end, both in this process."""
        agreed = replace(self.terms, **terms)
        return self.disagreeing_pair(agreed, agreed)

    def disagreeing_pair(self, server_terms: Terms, worker_terms: Terms) -> tuple[End, End]:
        one, other = multiprocessing.Pipe()
        with one, other:
            server = self.threads.submit(self.open, "server", server_terms, one)
            worker = self.open("worker", worker_terms, other)
            return server.result(10), worker

    def start(self, role: str, behaviour: Callable[[End, Any], None]) -> tuple[Any, Any]:
        """Another process that opens an end and behaves in a certain way; the wire to it."""
        return start_process(self._stack, _peer, role, self.terms, behaviour)


def _peer(wire: Connection, role: str, terms: Terms, behaviour: Callable[[End, Any], None]) -> None:
    behaviour(open_end(role, terms, wire), wire)


@pytest.fixture(params=["shared memory", "sockets"])
def peers(request: pytest.FixtureRequest) -> Iterator[Peers]:
    with ExitStack() as stack:
        yield Peers(request.param, stack)


def numbers(shape: tuple[int, ...], seed: int) -> Vector:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def test_posts_arrive_whole_with_their_remarks_both_ways(peers: Peers) -> None:
    server, worker = peers.pair()
    for seed, (writer, reader) in enumerate([(server, worker), (worker, server)]):
        sent, remarks = numbers((1, 3000), seed), np.arange(REMARKS) + seed + 0.5
        writer.written[:], writer.outlet.remarks[:] = sent, remarks
        writer.outlet.post(1)
        reader.inlet.wait(1)
        np.testing.assert_array_equal(reader.inlet.vector, sent)
        np.testing.assert_array_equal(reader.inlet.remarks, remarks)
        assert reader.inlet.arrived() == 1


def test_a_vector_of_many_frames_or_pages_arrives_whole(peers: Peers) -> None:
    size = 1_000_003
    server, worker = peers.pair(size=size, stop=size, dtype="float64")
    sent = numbers((1, size), 0).astype(np.float64)
    worker.written[:] = sent
    worker.outlet.post(1)
    server.inlet.wait(1)
    np.testing.assert_array_equal(server.inlet.vector, sent)


def test_every_slot_has_its_own_numbers(peers: Peers) -> None:
    server, worker = peers.pair(slots=3)
    sent = numbers((3, 3000), 0)
    worker.written[:] = sent
    worker.outlet.post(1)
    server.inlet.wait(1)
    np.testing.assert_array_equal(server.inlet.vector, sent)


def test_a_reader_of_a_span_gets_that_span_of_every_slot(peers: Peers) -> None:
    server, worker = peers.pair(slots=2, size=5000, start=1024, stop=3072)
    sent = numbers((2, 5000), 0)
    worker.written[:] = sent
    worker.outlet.post(1)
    server.inlet.wait(1)
    np.testing.assert_array_equal(server.inlet.vector, sent[:, 1024:3072])


def test_an_empty_span_is_posted_like_any_other(peers: Peers) -> None:
    server, worker = peers.pair(start=2048, stop=2048)
    for number in (1, 2):
        for writer, reader in ((server, worker), (worker, server)):
            writer.outlet.remarks[0] = number
            writer.outlet.post(number)
            reader.inlet.wait(number)
            assert reader.inlet.vector.shape == (1, 0)
            assert reader.inlet.remarks[0] == number


def test_a_post_is_seen_when_it_is_made_and_not_before(peers: Peers) -> None:
    server, worker = peers.pair()
    assert worker.inlet.arrived() == 0
    server.written[:] = 3
    waiting = peers.threads.submit(worker.inlet.wait, 1)
    with pytest.raises(TimeoutError):
        waiting.result(0.1)
    server.outlet.post(1)
    waiting.result(10)
    assert (worker.inlet.vector == 3).all()
    assert worker.inlet.arrived() == 1
    waiting = peers.threads.submit(worker.inlet.wait, 2)
    with pytest.raises(TimeoutError):
        waiting.result(0.1)
    server.outlet.post(2)
    waiting.result(10)


def test_a_post_is_seen_without_waiting_too(peers: Peers) -> None:
    server, worker = peers.pair()
    server.outlet.post(1)
    while worker.inlet.arrived() == 0:
        os.sched_yield()
    server.written[:] = 7
    server.outlet.post(2)
    while worker.inlet.arrived() == 1:
        os.sched_yield()
    assert (worker.inlet.vector == 7).all()


def _answer_steps(end: End, _wire: Any) -> None:
    for step in range(1, 501):
        end.inlet.wait(step)
        assert end.inlet.remarks[0] == step
        np.negative(end.inlet.vector, out=end.written)
        end.outlet.remarks[0] = -step
        end.outlet.post(step)
    end.inlet.wait(501)
    end.close()


def test_every_step_of_a_long_exchange_carries_its_own_numbers(peers: Peers) -> None:
    process, wire = peers.start("worker", _answer_steps)
    server = peers.open("server", peers.terms, wire)
    for step in range(1, 501):
        server.written[:] = step
        server.outlet.remarks[0] = step
        server.outlet.post(step)
        server.inlet.wait(step)
        assert (server.inlet.vector == -step).all()
        assert server.inlet.remarks[0] == -step
    server.outlet.post(501)
    process.join(10)
    assert process.exitcode == 0


def test_a_halt_ends_the_peers_waiting(peers: Peers) -> None:
    for writer, reader in (peers.pair(), peers.pair()[::-1]):
        waiting = peers.threads.submit(reader.inlet.wait, 1)
        writer.outlet.halt()
        with pytest.raises(Halted):
            waiting.result(10)
        with pytest.raises(Halted):
            reader.inlet.arrived()


def test_what_was_posted_before_a_halt_can_still_be_waited_for(peers: Peers) -> None:
    server, worker = peers.pair()
    server.written[:] = 5
    server.outlet.post(1)
    server.outlet.halt()
    worker.inlet.wait(1)
    assert (worker.inlet.vector == 5).all()
    with pytest.raises(Halted):
        worker.inlet.wait(2)


def test_a_process_that_is_told_to_stop_stops_waiting(peers: Peers) -> None:
    for end in peers.pair():
        waiting = peers.threads.submit(end.inlet.wait, 1)
        with pytest.raises(TimeoutError):
            waiting.result(0.1)
        end.stop.set()
        with pytest.raises(Halted):
            waiting.result(10)
        with pytest.raises(Halted):
            end.inlet.arrived()


def _answer_once(end: End, wire: Any) -> None:
    end.inlet.wait(1)
    end.outlet.post(1)
    wire.recv()


@pytest.mark.parametrize("role", ["server", "worker"])
@pytest.mark.parametrize("first", [None, signal.SIGSTOP], ids=["killed", "frozen and killed"])
def test_a_killed_peer_is_noticed_while_it_is_waited_for(peers: Peers, role: str, first: signal.Signals | None) -> None:
    process, wire = peers.start(role, _answer_once)
    end = peers.open("worker" if role == "server" else "server", peers.terms, wire)
    end.outlet.post(1)
    end.inlet.wait(1)
    waiting: Future[None] = peers.threads.submit(end.inlet.wait, 2)
    if first is not None:
        os.kill(process.pid, first)
    with pytest.raises(TimeoutError):
        waiting.result(0.1)
    process.kill()
    with pytest.raises(PeerLost):
        waiting.result(10)


@pytest.mark.parametrize("role", ["server", "worker"])
def test_a_look_at_a_killed_peer_notices_without_waiting_for_a_post(peers: Peers, role: str) -> None:
    process, wire = peers.start(role, _answer_once)
    end = peers.open("worker" if role == "server" else "server", peers.terms, wire)
    end.outlet.post(1)
    end.inlet.wait(1)
    end.inlet.check()
    process.kill()
    process.join()
    with pytest.raises(PeerLost):
        _look_for_ten_seconds(end)


def _look_for_ten_seconds(end: End) -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        end.inlet.check()


def _await_the_end(_end: End, wire: Any) -> None:
    wire.recv()


@pytest.mark.parametrize("role", ["server", "worker"])
def test_a_peer_that_was_killed_before_it_was_needed_is_noticed(peers: Peers, role: str) -> None:
    process, wire = peers.start(role, _await_the_end)
    other = "worker" if role == "server" else "server"
    if peers.terms.kind == "sockets" and role == "worker":  # it says its key and waits for an address
        peer = wire.recv()
        wire = _Told(peer)
    else:
        if peers.terms.kind == "sockets":
            wire.send(KeyPair.generate().public)
        wire = _Told(wire.recv())
    process.kill()
    process.join()
    terms = replace(peers.terms, patience=Patience(connect=0.3))
    with pytest.raises(PeerLost):
        peers.open(other, terms, wire).inlet.wait(1)


class _Told:
    """A wire whose other end has said its part and hears nothing more."""

    def __init__(self, said: Any) -> None:
        self._said = said

    def send(self, _what: Any) -> None:
        pass

    def recv(self) -> Any:
        return self._said


def _write_when_told(end: End, wire: Any) -> None:
    end.inlet.wait(1)
    end.outlet.post(1)
    end.written[:] = 666
    wire.send("ready")
    for number in range(2, 100):
        wire.recv()
        try:
            end.outlet.post(number)
        except PeerLost:
            wire.send("lost")
        else:
            wire.send("posted")


def test_what_a_thawed_former_worker_still_writes_never_reaches_the_new_pair(peers: Peers) -> None:
    process, wire = peers.start("worker", _write_when_told)
    former = peers.open("server", peers.terms, wire)
    former.outlet.post(1)
    former.inlet.wait(1)
    assert wire.recv() == "ready"
    os.kill(process.pid, signal.SIGSTOP)
    former.close()
    server, worker = peers.pair()
    os.kill(process.pid, signal.SIGCONT)
    for number in range(1, 4):
        wire.send("write")
        assert wire.recv() in ("posted", "lost")
        assert server.inlet.arrived() == number - 1
        worker.written[:] = number
        worker.outlet.post(number)
        server.inlet.wait(number)
        wire.send("write")
        assert wire.recv() in ("posted", "lost")
        assert server.inlet.arrived() == number
        assert (server.inlet.vector == number).all()


@pytest.mark.parametrize("difference", [{"fence": bytes(16)}, {"size": 2999, "stop": 2999}, {"dtype": "float64"}])
def test_a_peer_of_another_run_or_size_is_refused(peers: Peers, difference: dict[str, Any]) -> None:
    def meet() -> None:
        server, worker = peers.disagreeing_pair(peers.terms, replace(peers.terms, **difference))
        server.outlet.post(1)
        worker.inlet.wait(1)

    with pytest.raises(PeerLost):
        meet()


def test_a_number_that_was_skipped_is_noticed(peers: Peers) -> None:
    server, worker = peers.pair()
    server.outlet.post(1)
    worker.inlet.wait(1)
    server.outlet.post(3)
    with pytest.raises(PeerLost):
        worker.inlet.wait(2)


def test_a_reader_cannot_write_into_what_it_reads(peers: Peers) -> None:
    _, worker = peers.pair()
    with pytest.raises(ValueError, match="read-only"):
        worker.inlet.vector[0, 0] = 1


def test_a_closed_pair_leaves_no_files_open(peers: Peers) -> None:
    def live() -> None:
        server, worker = peers.pair()
        server.outlet.post(1)
        worker.inlet.wait(1)
        server.close()
        worker.close()

    def files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    live()
    before = files()
    live()
    assert files() == before
