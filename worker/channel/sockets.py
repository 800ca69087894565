"""The channel between processes of different machines: ZeroMQ over TCP, encrypted and authenticated by CurveZMQ.

ZeroMQ carried the first parameter servers (Li et al. 2014). One connection joins a shard of the server and a worker and
carries posts both ways: the shard's end binds, the worker's connects. Each knows the other's address and public key
beforehand. A call from another address is hung up on before a byte of it is read, for ZeroMQ would keep as much of a
stranger's handshake as of a post. The key that a bound end expects gets in once, so nobody else does, and a broken
connection is never mended: what was lost with it nobody could tell, and both ends say `PeerLost`.

A post is a header and then the vector, cut into frames, each a ZeroMQ message of its own. So encrypting, sending,
decrypting and copying overlap, every frame is a sign of life, however long the vector, and the queues at both ends bound
the memory that posts take: they hold two, and posting never waits for the reader. (Whoever has the key could still claim
more, by messages of many parts, which ZeroMQ counts as one.)
"""

from __future__ import annotations

import secrets
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import zmq
from numpy.typing import NDArray
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from common.errors import ChainruleError
from worker.channel import FENCE_BYTES, LONGEST_STEP_SECONDS, LOOK_SECONDS, REMARKS, Halted, PeerLost, Vector

_HEADER = struct.Struct(f"<4sBBxx{FENCE_BYTES}sqq{REMARKS}d")
"""Magic, version of the format, kind, fence, number, bytes of the vector, remarks."""
_MAGIC, _VERSION = b"chnr", 1
_POST, _HALT = 1, 2

_MOST_SOCKETS = 65_536  # three for each end
_FRAME = 1024 * 1024
_SEAL = 33  # bytes that CurveZMQ adds to a frame
_LONGEST_HANDSHAKE = 1024  # no command of CurveZMQ's handshake is longer

_LOOK_MS = int(LOOK_SECONDS * 1000)  # between looks at whether the peer is connected and this process told to stop
_LINGER_MS = 1000  # for what was sent before closing, a halt above all


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an end waits, in seconds.

    Attributes:
        connect: for the peer to connect.
        heartbeat: for a sign of life from the peer's process, which gives ten in that time.
        step: for a post.

    """

    connect: float = 30.0
    heartbeat: float = 10.0
    step: float = LONGEST_STEP_SECONDS


PATIENCE = Patience()


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A process's CURVE keys (Z85). The secret one never leaves the process that made it."""

    public: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> KeyPair:
        """New keys."""
        return cls(*zmq.curve_keypair())


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """Where an end is bound, and whose key answers there."""

    endpoint: str
    public_key: bytes


@dataclass(frozen=True, slots=True)
class SocketEnd:
    """One end of a connection: what this process posts, and what the peer does."""

    outlet: SocketOutlet
    inlet: SocketInlet
    address: SocketAddress

    def close(self) -> None:
        """Closes the connection; what was posted before is still sent."""
        self.outlet.close()


class Sockets:
    """The ends of a process, with the threads that encrypt and send for them, and one that says who may connect.

    Args:
        threads: that encrypt and send; an end has one of them, shared with others.

    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._sockets: list[zmq.Socket[bytes]] = []

    @cached_property
    def _context(self) -> zmq.Context[zmq.Socket[bytes]]:
        """Made when it is needed: most trainings stay on one machine."""
        context = zmq.Context(self._threads)
        context.set(zmq.MAX_SOCKETS, _MOST_SOCKETS)
        return context

    @cached_property
    def _gate(self) -> _Gate:
        return _Gate(self._context)

    def bind(
        self,
        host: str,
        keys: KeyPair,
        peer: bytes,
        peer_host: str,
        fence: bytes,
        outgoing: Vector,
        incoming: Vector,
        stop: threading.Event,
        patience: Patience = PATIENCE,
    ) -> SocketEnd:
        """The shard's end, at a port of the system's choice.

        Args:
            host: the IP address of this machine that the peer can reach.
            keys: of this process.
            peer: its public key; nobody else gets in.
            peer_host: the IP address that it calls from; nobody else is listened to.
            fence: 16 bytes that name the run; posts of another run are refused.
            outgoing: shape (slots, size), sent by each post; every row contiguous.
            incoming: shape (slots, size) as the peer's `outgoing`, where its posts are written; every row contiguous.
            stop: ends waiting, from another thread.
            patience: how long to wait.

        """
        socket = self._socket(outgoing, incoming, patience)
        socket.ipv6 = ":" in host
        socket.curve_server = True
        socket.curve_secretkey = keys.secret
        socket.zap_domain = self._gate.expect(peer)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # nobody gets in should the gate be gone
        socket.setsockopt(zmq.TCP_ACCEPT_FILTER, peer_host.encode())
        watch = self._watch(socket, zmq.EVENT_HANDSHAKE_SUCCEEDED)
        socket.bind(f"tcp://{_in_url(host)}:*")
        address = SocketAddress(socket.get_string(zmq.LAST_ENDPOINT), keys.public)
        connection = _Connection(socket, watch, stop, patience, is_bound=True)
        return _end(connection, address, fence, outgoing, incoming, patience)

    def connect(
        self,
        address: SocketAddress,
        host: str,
        keys: KeyPair,
        fence: bytes,
        outgoing: Vector,
        incoming: Vector,
        stop: threading.Event,
        patience: Patience = PATIENCE,
    ) -> SocketEnd:
        """The worker's end of what is bound at `address`; calls from `host`, and the rest as for `bind`."""
        socket = self._socket(outgoing, incoming, patience)
        socket.ipv6 = "[" in address.endpoint
        socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
        socket.curve_serverkey = address.public_key
        watch = self._watch(socket, zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        source, there = f"{_in_url(host)}:0", address.endpoint.removeprefix("tcp://")
        socket.connect(f"tcp://{source};{there}")
        connection = _Connection(socket, watch, stop, patience, is_bound=False)
        return _end(connection, address, fence, outgoing, incoming, patience)

    def _socket(self, outgoing: Vector, incoming: Vector, patience: Patience) -> zmq.Socket[bytes]:
        sent, received = _frames(outgoing), _frames(incoming)
        heartbeat = int(patience.heartbeat * 1000)
        socket = self._make(zmq.DEALER)
        socket.linger = _LINGER_MS
        # A queue takes new messages once it is known to be half empty: 4 posts' room takes 2, and a halt.
        socket.sndhwm, socket.rcvhwm = 4 * len(sent) + 6, 4 * len(received) + 6
        socket.maxmsgsize = max(_HEADER.size, *map(len, received), _LONGEST_HANDSHAKE) + _SEAL
        socket.heartbeat_ivl, socket.heartbeat_timeout, socket.heartbeat_ttl = heartbeat // 10, heartbeat, heartbeat
        socket.handshake_ivl = heartbeat
        return socket

    def _watch(self, socket: zmq.Socket[bytes], events: int) -> zmq.Socket[bytes]:
        name = f"inproc://{secrets.token_hex(16)}"
        socket.monitor(name, events)
        watch = self._make(zmq.PAIR)
        watch.rcvhwm = 0  # at a full queue ZeroMQ's own thread would stand still
        watch.connect(name)
        return watch

    def _make(self, kind: int) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        self._sockets.append(socket)
        return socket

    def close(self) -> None:
        """Closes what is open, and waits until what was posted is sent, for a second at most."""
        for socket in self._sockets:
            _close(socket)
        if self._sockets:
            self._context.term()


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _close(socket: zmq.Socket[bytes]) -> None:
    if not socket.closed:
        socket.disable_monitor()  # ZeroMQ's own thread would stand still if it had to tell a watch that is closed
        socket.close()


class _Gate:
    """Answers ZeroMQ's question who may connect (ZAP, ZeroMQ's RFC 27): the one key that is expected, once."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._expected: dict[bytes, bytes] = {}
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind("inproc://zeromq.zap.01")
        threading.Thread(target=self._serve, name="gate", daemon=True).start()

    def expect(self, key: bytes) -> bytes:
        """Lets in whoever has the key; the domain to give to the socket."""
        domain = secrets.token_hex(16).encode()
        self._expected[domain] = z85.decode(key)
        return domain

    def _serve(self) -> None:
        while True:
            try:
                version, request, domain, _address, _identity, mechanism, *keys = self._socket.recv_multipart()
                admitted = mechanism == b"CURVE" and keys == [self._expected.get(domain)]
                if admitted:
                    del self._expected[domain]
                status = [b"200", b"OK"] if admitted else [b"400", b"Not expected here."]
                self._socket.send_multipart([version, request, *status, b"", b""])
            except zmq.ContextTerminated:
                self._socket.close()
                return


class _Connection:
    """The connection to the one peer, from before it is made until it is lost.

    Args:
        socket: bound or connecting.
        watch: tells when a handshake has succeeded, and a connecting socket's loss of the connection.
        stop: ends waiting.
        patience: how long to wait.
        is_bound: then others may come and go too, and the loss shows in that the socket cannot be written to.

    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        watch: zmq.Socket[bytes],
        stop: threading.Event,
        patience: Patience,
        *,
        is_bound: bool,
    ) -> None:
        self._socket = socket
        self._watch = watch
        self._stop = stop
        self._is_bound = is_bound
        self._connect_until = time.monotonic() + patience.connect
        self._was_connected = self._is_disconnected = False
        self._failure: ChainruleError | None = None
        self._changes = zmq.Poller()
        self._changes.register(socket, zmq.POLLIN)
        self._changes.register(watch, zmq.POLLIN)

    def fail(self, error: ChainruleError) -> ChainruleError:
        """Ends the connection's use: from now on the error is raised by whatever is tried."""
        self._failure = error
        return error

    def loss(self) -> PeerLost | None:
        """What is to be raised once everything that has arrived is read."""
        if self._failure is not None:
            raise self._failure
        self._look()
        if self._is_disconnected:
            return PeerLost("The process at the other end is gone.")
        if not self._was_connected and time.monotonic() > self._connect_until:
            return PeerLost("The process at the other end has not connected in time.")
        return None

    def _look(self) -> None:
        while self._watch.poll(0):
            if recv_monitor_message(self._watch)["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._was_connected = True
            else:
                self._is_disconnected = self._was_connected  # or else a handshake failed, and ZeroMQ tries again
        if self._is_bound and self._was_connected:
            self._is_disconnected = not self._socket.poll(0, zmq.POLLOUT)

    def check_stop(self) -> None:
        """Raises Halted if this process was told to stop."""
        if self._stop.is_set():
            raise Halted("The training was halted.")

    def await_peer(self) -> None:
        """Waits until the peer is connected.

        Raises:
            Halted: this process was told to stop.
            PeerLost: it is gone, or does not come.

        """
        while (loss := self.loss()) is None and not self._was_connected:
            self.check_stop()
            self._watch.poll(_LOOK_MS)
        if loss is not None:
            raise self.fail(loss)

    def await_arrival(self) -> None:
        """Waits until something arrives or changes, for a moment."""
        self._changes.poll(_LOOK_MS)

    def send(self, frame: bytes | memoryview) -> None:
        """Copies a frame into the queue.

        Raises:
            PeerLost: the peer is gone, or does not read.

        """
        try:
            self._socket.send(frame, zmq.NOBLOCK)
        except zmq.Again as error:
            raise self.fail(PeerLost("The process at the other end is gone, or does not read.")) from error

    def send_last(self, frame: bytes) -> None:
        """Sends a frame if the peer is there, or comes at once."""
        with suppress(ChainruleError, zmq.Again):
            if self.loss() is None:
                if not self._was_connected:
                    self._watch.poll(_LINGER_MS)
                self._socket.send(frame, zmq.NOBLOCK)

    def receive(self, buffer: bytearray | memoryview) -> bool:
        """Reads a frame, if one has arrived, which must fill the buffer.

        Raises:
            PeerLost: it does not.

        """
        try:
            size = self._socket.recv_into(buffer, flags=zmq.NOBLOCK)
        except zmq.Again:
            return False
        if size != len(buffer):
            raise self.fail(PeerLost(f"{_BREACH}: a frame of {size} bytes instead of {len(buffer)}."))
        return True

    def close(self) -> None:
        """Closes the sockets; ZeroMQ sends what is queued, for a second at most."""
        _close(self._socket)
        _close(self._watch)


_BREACH = "The process at the other end breaks the protocol"


class SocketOutlet:
    """See `worker.channel.Outlet`. What is posted is copied: `vector` may be written again as soon as `post` returns."""

    def __init__(self, connection: _Connection, vector: Vector, fence: bytes) -> None:
        self.vector = vector
        self.remarks: NDArray[np.float64] = np.zeros(REMARKS)
        self._connection = connection
        self._frames = _frames(vector)
        self._fence = fence

    def post(self, number: int) -> None:
        """Waits for the peer to connect, before the first one, and for nothing else.

        Raises:
            Halted: this process was told to stop meanwhile.
            PeerLost: the peer is gone, has not connected in time, or does not read what was posted.

        """
        self._connection.await_peer()
        self._connection.send(self._header(_POST, number, self.vector.nbytes))
        for frame in self._frames:
            self._connection.send(frame)

    def halt(self) -> None:
        self._connection.send_last(self._header(_HALT, 0, 0))

    def close(self) -> None:
        """Closes the connection, which is the inlet's too."""
        self._connection.close()

    def _header(self, kind: int, number: int, size: int) -> bytes:
        return _HEADER.pack(_MAGIC, _VERSION, kind, self._fence, number, size, *self.remarks)


class SocketInlet:
    """See `worker.channel.Inlet`. A post is written into `vector` while `arrived` or `wait` looks, never meanwhile."""

    def __init__(self, connection: _Connection, vector: Vector, fence: bytes, patience: float) -> None:
        self.vector = vector.view()
        self.vector.flags.writeable = False
        self.remarks: NDArray[np.float64] = np.zeros(REMARKS)
        self._connection = connection
        self._size = vector.nbytes
        self._frames = _frames(vector)
        self._fence = fence
        self._patience = patience
        self._header = bytearray(_HEADER.size)
        self._awaited: list[memoryview] = []  # frames of the post that is arriving, the next one last
        self._arriving = self._arrived = 0

    def arrived(self) -> int:
        self._read()
        return self._arrived

    def check(self) -> None:
        self._read()

    def wait(self, number: int) -> None:
        until = time.monotonic() + self._patience
        while self._arrived < number:
            if self._read():
                continue
            if time.monotonic() > until:
                raise self._connection.fail(PeerLost("The process at the other end does not answer."))
            self._connection.await_arrival()
        if self._arrived != number:
            raise self._connection.fail(PeerLost(f"{_BREACH}: post {self._arrived} instead of {number}."))

    def close(self) -> None:
        """Closes the connection, which is the outlet's too."""
        self._connection.close()

    def _read(self) -> bool:
        """Reads what has arrived, up to the end of a post; whether it came to one."""
        loss = self._connection.loss()  # asked first: what the peer sent before it was lost is in the queue by now
        while self._connection.receive(self._awaited[-1] if self._awaited else self._header):
            if self._awaited:
                self._awaited.pop()
            else:
                self._begin()
            if not self._awaited:
                self._arrived = self._arriving
                return True
        self._connection.check_stop()
        if loss is not None:
            raise self._connection.fail(loss)
        return False

    def _begin(self) -> None:
        magic, version, kind, fence, number, size, *remarks = _HEADER.unpack(self._header)
        if (magic, version) != (_MAGIC, _VERSION) or kind not in (_POST, _HALT):
            raise self._connection.fail(PeerLost(f"{_BREACH}: this is no header."))
        if fence != self._fence:
            raise self._connection.fail(PeerLost("The process at the other end belongs to another run."))
        if kind == _HALT:
            raise self._connection.fail(Halted("The training was halted."))
        if size != self._size or number <= self._arrived:
            raise self._connection.fail(
                PeerLost(f"{_BREACH}: {size} bytes as number {number} after {self._arrived}, not {self._size}.")
            )
        self.remarks[:] = remarks
        self._arriving = number
        self._awaited = self._frames[::-1]


def _end(
    connection: _Connection,
    address: SocketAddress,
    fence: bytes,
    outgoing: Vector,
    incoming: Vector,
    patience: Patience,
) -> SocketEnd:
    outlet = SocketOutlet(connection, outgoing, fence)
    return SocketEnd(outlet, SocketInlet(connection, incoming, fence, patience.step), address)


def _frames(vector: Vector) -> list[memoryview]:
    """The bytes of the vector, which must be contiguous row by row, in pieces: views, no copies."""
    rows = [memoryview(row.view(np.uint8)) for row in vector]
    return [row[at : at + _FRAME] for row in rows for at in range(0, len(row), _FRAME)]
