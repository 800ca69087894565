"""Web servers of tests, which speak TLS and behave as badly as they are told to."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import trustme

Answer = Callable[[ssl.SSLSocket, str], None]
"""Answers a request for a target on a connection."""


def plain(body: bytes, kind: str = "text/csv", status: str = "200 OK", **headers: str) -> Answer:
    """A whole answer."""
    lines = {"Content-Type": kind, "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())

    def answer(connection: ssl.SSLSocket, _: str) -> None:
        connection.sendall(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body)

    return answer


def redirect(locations: Iterable[str]) -> Answer:
    """Leads to the first location, the next time to the second, and so on."""
    left = iter(locations)

    def answer(connection: ssl.SSLSocket, target: str) -> None:
        plain(b"", status="302 Found", Location=next(left))(connection, target)

    return answer


@dataclass
class Site:
    """A running server: where it is, and what it was asked for."""

    port: int
    asked: list[str] = field(default_factory=list)
    """`name target` of each request, the name being that in the TLS greeting."""
    connections: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    """Set when the test is over: who only waits should wait for this."""


@contextmanager
def site(
    authority: trustme.CA, *names: str, address: str = "127.0.0.1", port: int = 0, **answers: Answer
) -> Iterator[Site]:
    """A server for `names`; `answers` by the first word of the path."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    listener = socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    found = Site(listener.getsockname()[1])
    heard = threading.local()

    def note(_: ssl.SSLSocket, name: str | None, __: ssl.SSLContext) -> None:
        heard.name = name

    context.sni_callback = note  # type: ignore[assignment]

    def serve(raw: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(raw, server_side=True) as connection:
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(65536)
            target = request.split(b" ", 2)[1].decode()
            found.asked.append(f"{heard.name} {target}")
            word = target.split("/")[1].partition(".")[0].partition("?")[0]
            answers[word](connection, target)

    def accept() -> None:
        with suppress(OSError):  # until it is closed
            while True:
                raw, _ = listener.accept()
                found.connections += 1
                thread = threading.Thread(target=serve, args=(raw,))
                threads.append(thread)
                thread.start()

    threads = [accepting := threading.Thread(target=accept)]
    accepting.start()
    try:
        yield found
    finally:
        found.over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
