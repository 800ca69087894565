"""What only sockets have: strangers, eavesdroppers, forged and oversized frames, frozen peers, broken connections."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zmq

from tests.processes import start_process
from worker.channel import REMARKS, Halted, PeerLost, Vector
from worker.channel import sockets as implementation
from worker.channel.sockets import KeyPair, Patience, SocketAddress, SocketEnd, Sockets

FENCE = bytes(range(16))
BRIEF = Patience(connect=0.3, heartbeat=0.5, step=0.3)
FRAME = implementation._FRAME
HOST = "127.0.0.1"


def blank(slots: int, size: int) -> Vector:
    return np.zeros((slots, size), np.float32)


class Bench:
    """Makes ends, raw sockets and other processes, and closes them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.sockets = Sockets()
        stack.callback(self.sockets.close)
        self.raw_context = zmq.Context()
        stack.callback(self.raw_context.term)
        self.server_keys, self.worker_keys = KeyPair.generate(), KeyPair.generate()
        self.stop = threading.Event()
        self.threads = stack.enter_context(ThreadPoolExecutor(2))

    def bind(self, *, slots: int = 1, size: int = 100, patience: Patience = implementation.PATIENCE) -> SocketEnd:
        out, into = blank(slots, size), blank(slots, size)
        keys, peer = self.server_keys, self.worker_keys.public
        return self.sockets.bind(HOST, keys, peer, HOST, FENCE, out, into, self.stop, patience)

    def connect(
        self,
        address: SocketAddress,
        *,
        slots: int = 1,
        size: int = 100,
        patience: Patience = implementation.PATIENCE,
    ) -> SocketEnd:
        out, into = blank(slots, size), blank(slots, size)
        return self.sockets.connect(address, HOST, self.worker_keys, FENCE, out, into, self.stop, patience)

    def pair(self, **shape: Any) -> tuple[SocketEnd, SocketEnd]:
        server = self.bind(**shape)
        return server, self.connect(server.address, **shape)

    def raw(self, address: SocketAddress, keys: KeyPair | None, server_key: bytes | None = None) -> zmq.Socket[bytes]:
        """A socket that is none of ours; without keys, one that neither encrypts nor says who it is."""
        raw = self._stack.enter_context(self.raw_context.socket(zmq.DEALER))
        raw.linger, raw.immediate, raw.sndhwm = 0, True, 1
        if keys is not None:
            raw.curve_publickey, raw.curve_secretkey = keys.public, keys.secret
            raw.curve_serverkey = server_key or address.public_key
        raw.connect(address.endpoint)
        return raw

    def start(self, behaviour: Callable[..., None], *arguments: Any) -> tuple[Any, Any]:
        """Another process that is given a wire, which is returned, and the arguments."""
        return start_process(self._stack, behaviour, *arguments)

    def relay(self, address: SocketAddress) -> tuple[Relay, SocketAddress]:
        """A machine in the middle, and the address at which it poses as the server."""
        relay = Relay(address)
        self._stack.callback(relay.close)
        return relay, replace(address, endpoint=relay.endpoint)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack)


def step(server: SocketEnd, worker: SocketEnd, number: int) -> None:
    """A post each way, checked."""
    for writer, reader, value in ((server, worker, number), (worker, server, -number)):
        writer.outlet.vector[:] = value
        writer.outlet.post(number)
        reader.inlet.wait(number)
        assert (reader.inlet.vector == value).all()


def header(
    magic: bytes = b"chnr", version: int = 1, kind: int = 1, fence: bytes = FENCE, number: int = 1, size: int = 400
) -> bytes:
    return implementation._HEADER.pack(magic, version, kind, fence, number, size, *[0.0] * REMARKS)


# Who gets in


def refused_by_handshake(raw: zmq.Socket[bytes]) -> None:
    """Waits until the handshake of a socket has failed."""
    with raw.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED) as monitor:
        event, _ = monitor.recv_multipart()
    assert int.from_bytes(event[:2], "little") == zmq.EVENT_DISCONNECTED
    raw.disable_monitor()


def a_stranger_with_keys(bench: Bench, address: SocketAddress) -> None:
    refused_by_handshake(bench.raw(address, KeyPair.generate()))


def the_server_itself(bench: Bench, address: SocketAddress) -> None:
    refused_by_handshake(bench.raw(address, bench.server_keys))


def a_thief_of_the_public_key(bench: Bench, address: SocketAddress) -> None:
    refused_by_handshake(bench.raw(address, replace(KeyPair.generate(), public=bench.worker_keys.public)))


def somebody_who_takes_it_for_another_server(bench: Bench, address: SocketAddress) -> None:
    refused_by_handshake(bench.raw(address, bench.worker_keys, server_key=KeyPair.generate().public))


def a_socket_without_encryption(bench: Bench, address: SocketAddress) -> None:
    refused_by_handshake(bench.raw(address, None))


def a_socket_with_a_password(bench: Bench, address: SocketAddress) -> None:
    with bench.raw_context.socket(zmq.DEALER) as raw:
        raw.linger, raw.plain_username, raw.plain_password = 0, b"admin", b"admin"
        raw.connect(address.endpoint)
        refused_by_handshake(raw)


def a_web_browser(_bench: Bench, address: SocketAddress) -> None:
    with dial(address) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        drain(plain)


def noise(_bench: Bench, address: SocketAddress) -> None:
    random = np.random.default_rng(0)
    for greeting in (b"", b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(47)):
        with dial(address) as plain, suppress(ConnectionError):
            plain.sendall(greeting + random.bytes(100_000))
            drain(plain)


def dial(address: SocketAddress) -> socket.socket:
    host, port = address.endpoint.removeprefix("tcp://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def drain(plain: socket.socket) -> None:
    """Waits until the other side has closed the connection."""
    with suppress(ConnectionError):
        while plain.recv(1000):
            pass


STRANGERS = [
    a_stranger_with_keys,
    the_server_itself,
    a_thief_of_the_public_key,
    somebody_who_takes_it_for_another_server,
    a_socket_without_encryption,
    a_socket_with_a_password,
    a_web_browser,
    noise,
]


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_is_refused_before_and_during_a_run_that_goes_on(
    bench: Bench, stranger: Callable[[Bench, SocketAddress], None]
) -> None:
    server = bench.bind()
    stranger(bench, server.address)
    assert server.inlet.arrived() == 0
    worker = bench.connect(server.address)
    step(server, worker, 1)
    stranger(bench, server.address)
    assert server.inlet.arrived() == 1
    step(server, worker, 2)


def test_a_crowd_at_the_door_keeps_nobody_from_training(bench: Bench) -> None:
    server = bench.bind()
    with ExitStack() as crowd:
        for _ in range(100):
            crowd.enter_context(dial(server.address))
        worker = bench.connect(server.address)
        step(server, worker, 1)
        for _ in range(100):
            crowd.enter_context(dial(server.address))
        step(server, worker, 2)
    step(server, worker, 3)  # and so does their leaving


def test_a_connection_that_never_says_who_it_is_is_closed(bench: Bench) -> None:
    server = bench.bind(patience=BRIEF)
    with dial(server.address) as plain:
        drain(plain)


def test_the_expected_key_gets_in_once(bench: Bench) -> None:
    server, worker = bench.pair()
    step(server, worker, 1)
    refused_by_handshake(bench.raw(server.address, bench.worker_keys))
    step(server, worker, 2)


def test_a_worker_speaks_to_nobody_but_its_server(bench: Bench) -> None:
    server = bench.bind(patience=BRIEF)
    posing = replace(server.address, public_key=KeyPair.generate().public)
    worker = bench.connect(posing, patience=BRIEF)
    with pytest.raises(PeerLost, match="not connected in time"):
        worker.outlet.post(1)
    with pytest.raises(PeerLost, match="not connected in time"):
        server.inlet.wait(1)


def test_a_caller_from_another_address_is_hung_up_on_before_it_is_listened_to(bench: Bench) -> None:
    server = bench.bind(size=FRAME // 4)
    port = int(server.address.endpoint.rpartition(":")[2])
    stranger = socket.create_connection((HOST, port), timeout=10, source_address=("127.0.0.2", 0))
    with stranger, suppress(ConnectionResetError):
        assert stranger.recv(1) == b""  # not even the greeting
    step(server, bench.connect(server.address, size=FRAME // 4), 1)


def test_with_nobody_to_ask_nobody_gets_in(bench: Bench) -> None:
    bench.sockets._gate._socket.unbind("inproc://zeromq.zap.01")
    server = bench.bind()
    refused_by_handshake(bench.raw(server.address, bench.worker_keys))


def test_the_secret_key_is_not_shown_and_the_address_holds_none(bench: Bench) -> None:
    secret = bench.server_keys.secret
    assert secret.decode() not in repr(bench.server_keys)
    server = bench.bind()
    assert pickle.loads(pickle.dumps(server.address)) == server.address  # noqa: S301  # as Ray does
    assert secret not in pickle.dumps(server.address)


# What is on the wire


class Relay:
    """Passes bytes on between a worker that takes it for the server and the server."""

    def __init__(self, address: SocketAddress) -> None:
        self._address = address
        self._door = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._door.getsockname()[1]}"
        self.seen = bytearray()
        self.forge: Callable[[bytes], bytes] = bytes
        self.refusals = 0
        self._lines: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._listen)]
        self._threads[0].start()

    def _listen(self) -> None:
        while True:
            try:
                line, _ = self._door.accept()
            except OSError:
                return
            if self.refusals:
                self.refusals -= 1
                line.close()
                continue
            other = dial(self._address)
            self._lines += [line, other]
            for source, sink in ((line, other), (other, line)):
                thread = threading.Thread(target=self._pass_on, args=(source, sink))
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while said := source.recv(65536):
                self.seen += said
                sink.sendall(self.forge(said))
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Breaks the connections that there are."""
        for line in self._lines:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self.cut()
        for thread in self._threads:
            thread.join()
        for line in (self._door, *self._lines):
            line.close()


def test_nothing_can_be_read_on_the_wire(bench: Bench) -> None:
    server = bench.bind()
    relay, address = bench.relay(server.address)
    worker = bench.connect(address)
    step(server, worker, 1)
    worker.outlet.vector[:] = np.frombuffer(b"a secret gradient..." * 20, np.float32)
    worker.outlet.post(2)
    server.inlet.wait(2)
    assert b"a secret gradient" in server.inlet.vector.tobytes()
    assert len(relay.seen) > 3 * 400
    assert b"secret" not in relay.seen
    assert FENCE not in relay.seen


def test_bytes_changed_on_the_way_are_refused(bench: Bench) -> None:
    server = bench.bind()
    relay, address = bench.relay(server.address)
    worker = bench.connect(address)
    step(server, worker, 1)
    relay.forge = lambda said: said[:-1] + bytes([said[-1] ^ 1])
    worker.outlet.post(2)
    with pytest.raises(PeerLost):
        server.inlet.wait(2)


# What an authenticated peer may send

BREACHES: dict[str, list[bytes]] = {
    "other magic": [header(magic=b"nope"), bytes(400)],
    "other version": [header(version=2), bytes(400)],
    "unknown kind": [header(kind=3), bytes(400)],
    "other run": [header(fence=bytes(16)), bytes(400)],
    "number zero": [header(number=0), bytes(400)],
    "negative number": [header(number=-1), bytes(400)],
    "repeated number": [header(number=1), bytes(400), header(number=1), bytes(400)],
    "skipped number": [header(number=3), bytes(400)],
    "smaller vector": [header(size=396), bytes(396)],
    "larger vector": [header(size=404), bytes(404)],
    "frame too short": [header(), bytes(399)],
    "frame too long": [header(), bytes(401)],
    "empty frame": [header(), b""],
    "no vector": [header(), header(number=2)],
    "empty header": [b""],
    "short header": [header()[:-1]],
    "long header": [header() + b"\0"],
    "oversized header": [bytes(1_000_000)],
    "oversized frame": [header(), bytes(1_000_000)],
}


@pytest.mark.parametrize("frames", BREACHES.values(), ids=BREACHES)
def test_what_breaks_the_protocol_is_refused_for_good(bench: Bench, frames: list[bytes]) -> None:
    server = bench.bind()
    raw = bench.raw(server.address, bench.worker_keys)
    for frame in frames:
        raw.send(frame)
    with pytest.raises(PeerLost):
        server.inlet.wait(2)
    with suppress(zmq.Again):  # for the server may have hung up
        for frame in (header(number=2), bytes(400)):
            raw.send(frame, zmq.NOBLOCK)
    for attempt in (server.inlet.arrived, lambda: server.outlet.post(1)):
        with pytest.raises(PeerLost):
            attempt()


def test_a_frame_larger_than_any_that_was_agreed_on_is_not_even_received(bench: Bench) -> None:
    for size, complaint in ((1024, "a frame of 1024 bytes"), (1025, "gone")):  # the longest of a handshake is allowed
        server = bench.bind()
        raw = bench.raw(server.address, bench.worker_keys)
        raw.send(bytes(size))
        with pytest.raises(PeerLost, match=complaint):
            server.inlet.wait(1)


def test_a_longer_vector_that_begins_with_a_frame_of_the_right_size_is_refused(bench: Bench) -> None:
    server = bench.bind(size=FRAME // 4)
    raw = bench.raw(server.address, bench.worker_keys)
    raw.send(header(size=2 * FRAME))
    for _ in range(2):
        raw.send(bytes(FRAME))
    with pytest.raises(PeerLost, match="bytes as number 1"):
        server.inlet.wait(1)


def test_frames_of_the_agreed_form_are_taken(bench: Bench) -> None:
    server = bench.bind()
    raw = bench.raw(server.address, bench.worker_keys)
    raw.send(header())
    raw.send(np.full(100, 7, np.float32).tobytes())
    server.inlet.wait(1)
    assert (server.inlet.vector == 7).all()
    raw.send(header(kind=2, number=0, size=0))
    with pytest.raises(Halted):
        server.inlet.wait(2)


def test_a_peer_that_sends_on_and_on_is_held_up(bench: Bench) -> None:
    server = bench.bind(size=FRAME // 4)
    raw = bench.raw(server.address, bench.worker_keys)
    sent = 0
    while raw.poll(300, zmq.POLLOUT):
        raw.send(bytes(FRAME))
        sent += 1
        assert sent < 60  # the server's queue of 10, the sender's own, and what the system buffers


# Whether the peer lives


def _play_worker(wire: Any, address: SocketAddress, keys: KeyPair, sent: int, received: int) -> None:
    sockets = Sockets()
    end = sockets.connect(address, HOST, keys, FENCE, blank(1, sent), blank(1, received), threading.Event())
    with suppress(EOFError):
        while (number := wire.recv()) is not None:
            end.outlet.post(number)
    sockets.close()


def start_worker(
    bench: Bench, sent: int = 100, received: int = 100, patience: Patience = implementation.PATIENCE
) -> tuple[SocketEnd, Any, Any]:
    out, into, peer = blank(1, received), blank(1, sent), bench.worker_keys.public
    server = bench.sockets.bind(HOST, bench.server_keys, peer, HOST, FENCE, out, into, bench.stop, patience)
    process, wire = bench.start(_play_worker, server.address, bench.worker_keys, sent, received)
    wire.send(1)
    server.inlet.wait(1)
    return server, process, wire


@pytest.mark.parametrize("received", [100, 10_000_000], ids=["idle", "in the middle of a post"])
def test_a_frozen_process_is_noticed_by_its_silence(bench: Bench, received: int) -> None:
    server, process, _ = start_worker(bench, received=received, patience=Patience(heartbeat=2))
    os.kill(process.pid, signal.SIGSTOP)
    began = time.monotonic()
    if received > 100:
        server.outlet.post(1)
    with pytest.raises(PeerLost, match="gone"):
        server.inlet.wait(2)
    assert time.monotonic() - began < 10


def test_a_process_that_was_frozen_for_a_moment_goes_on(bench: Bench) -> None:
    server, process, wire = start_worker(bench, patience=Patience(heartbeat=20))
    os.kill(process.pid, signal.SIGSTOP)
    wire.send(2)
    server.outlet.post(1)
    assert server.inlet.arrived() == 1
    os.kill(process.pid, signal.SIGCONT)
    server.inlet.wait(2)


def test_a_peer_that_lives_but_posts_nothing_is_given_up(bench: Bench) -> None:
    server, worker = bench.pair(patience=Patience(step=0.2))
    worker.outlet.post(1)
    server.inlet.wait(1)
    with pytest.raises(PeerLost, match="does not answer"):
        server.inlet.wait(2)


def test_a_peer_that_never_connects_is_given_up_whatever_is_tried(bench: Bench) -> None:
    one, other = bench.bind(patience=BRIEF), bench.bind(patience=BRIEF)
    for attempt in (lambda: one.inlet.wait(1), lambda: other.outlet.post(1), one.inlet.arrived, other.inlet.arrived):
        with pytest.raises(PeerLost, match="not connected in time"):
            attempt()


def test_whoever_waits_for_a_peer_to_connect_can_be_told_to_stop(bench: Bench) -> None:
    server = bench.bind()
    waiting = bench.threads.submit(server.outlet.post, 1)
    bench.stop.set()
    with pytest.raises(Halted):
        waiting.result(10)


def test_a_worker_tries_to_connect_until_it_succeeds(bench: Bench) -> None:
    server = bench.bind()
    relay, address = bench.relay(server.address)
    relay.refusals = 3
    worker = bench.connect(address)
    step(server, worker, 1)
    assert relay.refusals == 0


def test_a_broken_connection_is_final_for_both_ends(bench: Bench) -> None:
    server = bench.bind()
    relay, address = bench.relay(server.address)
    worker = bench.connect(address)
    step(server, worker, 1)
    relay.cut()
    for end in (server, worker):
        with pytest.raises(PeerLost, match="gone"):
            end.inlet.wait(2)
        with pytest.raises(PeerLost, match="gone"):
            end.outlet.post(2)


# Posting and closing


def test_posting_does_not_wait_for_the_reader(bench: Bench) -> None:
    size = 5 * FRAME // 4
    server, worker = bench.pair(slots=2, size=size)
    for value, number in ((1.0, 1), (2.0, 2)):
        server.outlet.vector[:] = value
        server.outlet.post(number)
    server.outlet.vector[:] = 3  # what was posted is no longer looked at
    server.outlet.halt()
    for value, number in ((1.0, 1), (2.0, 2)):
        worker.inlet.wait(number)
        assert (worker.inlet.vector == value).all()
    with pytest.raises(Halted):
        worker.inlet.wait(3)


def test_what_was_posted_before_closing_still_arrives(bench: Bench) -> None:
    for writes_first in (True, False):
        pair = bench.pair(size=FRAME)
        writer, reader = pair if writes_first else pair[::-1]
        writer.outlet.post(1)
        writer.outlet.halt()
        writer.close()
        reader.inlet.wait(1)
        with pytest.raises(Halted):
            reader.inlet.wait(2)


def test_closing_does_not_wait_long_for_a_frozen_peer(bench: Bench) -> None:
    server, process, _ = start_worker(bench, received=10_000_000)
    os.kill(process.pid, signal.SIGSTOP)
    server.outlet.post(1)
    server.outlet.halt()
    began = time.monotonic()
    bench.sockets.close()
    assert time.monotonic() - began < 5


_FORGETFUL = """
import threading, numpy as np
from worker.channel.sockets import KeyPair, Sockets
sockets, ours, theirs = Sockets(), KeyPair.generate(), KeyPair.generate()
vectors = [np.zeros((1, 100)) for _ in range(4)]
server = sockets.bind("127.0.0.1", ours, theirs.public, "127.0.0.1", bytes(16), *vectors[:2], threading.Event())
worker = sockets.connect(server.address, "127.0.0.1", theirs, bytes(16), *vectors[2:], threading.Event())
server.outlet.post(1)
worker.inlet.wait(1)
print("waited")
"""


def test_a_process_that_leaves_its_ends_open_can_end() -> None:
    done = subprocess.run([sys.executable, "-c", _FORGETFUL], capture_output=True, text=True, timeout=30, check=True)
    assert (done.stdout, done.stderr) == ("waited\n", "")


def test_a_vector_whose_rows_lie_scattered_is_refused(bench: Bench) -> None:
    scattered = np.zeros((100, 1), np.float32).T[:, ::2]
    whole = np.zeros((1, 50), np.float32)
    for outgoing, incoming in ((scattered, whole), (whole, scattered)):
        with pytest.raises(ValueError, match="contiguous"):
            bench.sockets.bind(
                HOST, bench.server_keys, bench.worker_keys.public, HOST, FENCE, outgoing, incoming, bench.stop
            )


def test_one_process_keeps_up_several_connections(bench: Bench) -> None:
    pairs = [bench.pair() for _ in range(5)]
    for number in range(1, 20):
        for server, worker in pairs:
            step(server, worker, number)


def test_ends_that_come_and_go_do_not_disturb_the_others(bench: Bench) -> None:
    lasting = bench.pair()
    for number in range(1, 100):
        passing = bench.pair()
        step(*passing, 1)
        closing = [bench.threads.submit(end.close) for end in passing]  # at the same time, as processes do
        step(*lasting, number)
        for closed in closing:
            closed.result()
