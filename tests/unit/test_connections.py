"""Connections: what is at work is counted, and what is written arrives whole and in order."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import httpx2
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from service.connections import Connection, Room
from tests.faults.breaking import eventually

PIECES = [bytes([65 + number % 26]) * size for number, size in enumerate([1, 70_000, 10, 65_535, 65_536, 3] * 5)]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    if scope["path"] == "/wait":
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    while (await receive()).get("more_body"):
        pass
    if scope["path"] == "/thread":
        await asyncio.to_thread(time.sleep, 0.005)
    pieces = PIECES if scope["path"] == "/long" else [b"short"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@dataclass
class Served:
    room: Room
    address: tuple[str, int]

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=10)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A server in a thread."""
    room, ready = Room(50), threading.Event()
    http = partial(Connection, room)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready.set()

    config = uvicorn.Config(app, http=http, loop="uvloop", ws="none", lifespan="off", log_config=None)  # type: ignore[arg-type]
    server = Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        assert ready.wait(10)
        yield Served(room, listener.getsockname())
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def test_a_long_answer_arrives_whole_and_in_order(served: Served) -> None:
    host, port = served.address
    with httpx2.Client(base_url=f"http://{host}:{port}", trust_env=False) as client:
        for path, body in (("/long", b"".join(PIECES)), ("/", b"short"), ("/long", b"".join(PIECES))):
            assert client.get(path).content == body
            assert client.get(path, headers={"Connection": "close"}).content == body


def test_what_is_at_work_is_counted_until_it_is_answered_or_its_caller_is_gone(served: Served) -> None:
    with served.connect() as waits, served.connect() as breaks_off:
        waits.sendall(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
        eventually(lambda: served.room.at_work == 1)
        breaks_off.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab")
        eventually(lambda: served.room.at_work == 2)
    eventually(lambda: served.room.at_work == 0)
    with served.connect() as one, served.connect() as half:
        one.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3 + b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        half.sendall(b"GET / HTTP/1.1\r\nHo")
        answers = b""
        while piece := one.recv(1 << 16):
            answers += piece
        assert answers.count(b"HTTP/1.1 200 OK") == answers.count(b"short") == 4
        assert served.room.at_work == 0


@pytest.mark.parametrize(
    "behind", [b"GET / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab", b"GE"]
)
def test_who_vanishes_with_a_request_behind_one_that_is_at_work_leaves_nothing(served: Served, behind: bytes) -> None:
    for ending in (struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)) * 30:  # reset, or closed
        with served.connect() as leaves:
            leaves.sendall(b"GET /thread HTTP/1.1\r\n\r\n" + behind)
            leaves.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ending)
    with served.connect() as stays:  # comes after them all
        stays.sendall(b"GET /thread HTTP/1.1\r\nConnection: close\r\n\r\n")
        while stays.recv(1 << 16):
            pass
    eventually(lambda: served.room.at_work == served.room._count == len(served.room._awaited) == 0)
