"""Callers that are slow, or many: whoever keeps the server waiting makes room for others."""

from __future__ import annotations

import asyncio
import re
import resource
from collections import deque
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.corked import Corked
from service.middleware import MAX_HEADER_BYTES

MOST_CONNECTIONS = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 3
"""As many file descriptors again are for the files of uploads, and the last third for the store and who is just coming."""

MOST_WATCHERS = MOST_CONNECTIONS // 2
"""So many callers may wait for jobs to change: others find room beside them."""

MOST_AT_ONCE = min(2048, MOST_WATCHERS)
"""So many come in before it is looked at who has to go."""

_MOST_HEAD_BYTES = 3 * MAX_HEADER_BYTES
"""Of a head, or of anything else between two pieces of a body; below, too much is answered as a problem."""
_MOST_PIPELINED = 16
"""Requests that are sent before the one before them is answered."""
_UPGRADE = re.compile(rb"\r\nupgrade(?=[ \t]*:)", re.IGNORECASE)
_HEAD_SECONDS = 30.0
"""Within which the head of a request comes whole."""


class Room:
    """The connections whose callers are waited for, longest first; when there are too many, the first one is closed.

    Args:
        most: how many connections there may be in all.

    Attributes:
        at_work: requests that have come and are not answered yet.

    """

    at_work = 0

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._awaited: dict[Connection, None] = {}

    def enter(self) -> None:
        """There is one more."""
        self._count += 1
        if self._count > self._most and self._awaited:
            next(iter(self._awaited)).abort()

    def leave(self, connection: Connection) -> None:
        """It is gone."""
        self._count -= 1
        self._awaited.pop(connection, None)

    def note(self, connection: Connection, *, is_awaited: bool, since_now: bool = False) -> None:
        """Whether the server waits for its caller; one that it has waited for already keeps its place, or begins anew."""
        if since_now or not is_awaited:
            self._awaited.pop(connection, None)
        if is_awaited:
            self._awaited.setdefault(connection)


class Connection(HttpToolsProtocol):
    """A connection that is closed when its caller dawdles over the head of a request, or over anything when others wait."""

    def __init__(self, room: Room, **given: Any) -> None:
        super().__init__(**given)
        self._room = room
        self._timer: asyncio.TimerHandle | None = None
        self._head_by: float | None = None
        self._unused_bytes = 0
        self._is_in_head = self._is_in_body = False
        self._cycles: deque[RequestResponseCycle] = deque()
        """Requests that are not answered yet: the first one is at work, the others wait behind it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        """It has come."""
        self._corked = Corked(transport, self.loop)
        super().connection_made(self._corked)
        self._note()
        self._room.enter()

    def data_received(self, data: bytes) -> None:
        """Its caller has sent something."""
        self._unused_bytes += len(data)
        super().data_received(data if self._is_in_body else _without_upgrade(data))
        if self._unused_bytes > _MOST_HEAD_BYTES:
            self.abort()
        else:
            self._note()

    def on_message_begin(self) -> None:
        """A head begins."""
        if len(self.pipeline) >= _MOST_PIPELINED:
            raise ConnectionAbortedError
        self._is_in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; those that come after a body, when the request is at work already, are not looked at."""
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head has come whole."""
        if not self.url.startswith(b"/"):  # it is meant for a proxy, which this is not
            raise ConnectionAbortedError
        self._is_in_head, self._is_in_body, self._unused_bytes = False, True, 0
        super().on_headers_complete()
        self._cycles.append(self.cycle)
        self._room.at_work += 1

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._unused_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has come whole."""
        self._is_in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Its caller has an answer."""
        self._cycles.popleft()
        self._room.at_work -= 1
        if not self._room.at_work:  # nobody else's answer is about to be written
            self._corked.flush()
        super().on_response_complete()
        self._note()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        super().connection_lost(exc)  # which tells the newest request alone
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()
        self._room.at_work -= len(self._cycles)
        self._cycles.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._room.leave(self)

    def abort(self) -> None:
        """Closes it at once."""
        self._room.note(self, is_awaited=False)
        self.transport.abort()

    def _note(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        if cycle is None or cycle.response_complete:
            self._await_head(True)
            self._room.note(self, is_awaited=True)
        else:
            self._await_head(False)
            self._room.note(self, is_awaited=cycle.more_body, since_now=True)

    def _await_head(self, is_awaited: bool) -> None:
        if not is_awaited:
            self._head_by = None
        elif self._head_by is None:
            self._head_by = self.loop.time() + _HEAD_SECONDS
            if self._timer is None:
                self._timer = self.loop.call_later(_HEAD_SECONDS, self._look_at_head)

    def _look_at_head(self) -> None:
        """Closes it when a head is late; a timer of its own for every request would cost more than all else here."""
        self._timer = None
        if self._head_by is None:
            return
        left = self._head_by - self.loop.time()
        if left > 0:
            self._timer = self.loop.call_later(left, self._look_at_head)
        else:
            self.abort()


def _without_upgrade(data: bytes) -> bytes:
    """The same without a wish for another protocol in its head.

    Some clients ask for HTTP/2 so, Java's among them, and mean the request all the same; the parser would skip its body.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nignored", head) + end + rest
