"""What every request passes: a number of its own, a limit on its body, and the key if there are keys."""

from __future__ import annotations

import hmac
import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.errors import StoreUnavailable, Unauthorized
from common.store.access import AccessStore, digest
from service.problems import problem

MAX_HEADER_BYTES = 32 * 1024
_MAX_DIGITS = 20
_PAUSE_SECONDS = 5.0
"""For so long a store that was away is not asked for keys again: whoever needs no store must not wait for it."""

Limit = Callable[[str], int]
"""From a path to the most bytes that a request to it may have."""


class RequestId:
    """Gives every request an id, which its answer carries as X-Request-Id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["request_id"] = request_id = f"req_{secrets.token_hex(12)}"

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        await self._app(scope, receive, named)


class LoopbackHost:
    """Refuses a `Host` that is not this machine's own: a web page that rebinds its name to this address sends its name."""

    _OWN = re.compile(rb"(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        hosts = [value for name, value in scope.get("headers", ()) if name == b"host"]
        if scope["type"] == "http" and not (len(hosts) == 1 and self._OWN.fullmatch(hosts[0])):
            detail = "The Host header must be localhost or a loopback address, once."
            await problem(Request(scope), 400, "host_not_allowed", detail)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class _TooLong(Exception):
    """More bytes came than are allowed."""


class SizeLimit:
    """Answers 413 and closes the connection when a body is, or says it is, longer than its path allows; 431 for headers."""

    def __init__(self, app: ASGIApp, limit: Limit) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            detail = f"The headers are larger than the {MAX_HEADER_BYTES} bytes allowed."
            await problem(Request(scope), 431, "headers_too_large", detail)(scope, receive, send)
            return
        limit, received, answered = self._limit(scope["path"]), 0, False
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        detail = f"The body is larger than the {limit} bytes allowed here."
        refuse = problem(Request(scope), 413, "too_large", detail, headers={"Connection": "close"})
        if declared.isdigit() and (len(declared) > _MAX_DIGITS or int(declared) > limit):
            await refuse(scope, receive, send)
            return

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _TooLong
            return message

        async def watched(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self._app(scope, counted, watched)
        except _TooLong:
            if answered:
                raise
            await refuse(scope, receive, send)


class KeyRing:
    """Knows the API keys.

    Looks into the store every five seconds, and when a key is unknown; keeps the last answer while the store is away.
    """

    def __init__(self, access: AccessStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._access = access
        self._clock = clock
        self._lock = threading.Lock()
        self._digests: frozenset[str] | None = None
        self._looked = 0.0
        self._pause = 0.0

    def check(self, authorization: str | None) -> None:
        """Lets a request pass that carries a known key, or any if no keys were made.

        Raises:
            Unauthorized: it carries none, or an unknown one.
            StoreUnavailable: the store has not answered yet.

        """
        digests = self._known(max_age=5.0)
        if not digests:
            return
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and (_holds(digests, key) or _holds(self._known(max_age=0.5), key)):
            return
        raise Unauthorized("This needs a valid API key: send `Authorization: Bearer <key>`.")

    def _known(self, max_age: float) -> frozenset[str]:
        with self._lock:
            now = self._clock()
            if self._digests is None or now - self._looked >= max(max_age, self._pause):
                try:
                    self._digests, self._pause = self._access.digests(), 0.0
                except StoreUnavailable:
                    if self._digests is None:
                        raise
                    self._pause = _PAUSE_SECONDS
                self._looked = self._clock()
            return self._digests


def _holds(digests: Sequence[str] | frozenset[str], key: str) -> bool:
    mine = digest(key)
    return any([hmac.compare_digest(mine, known) for known in digests])  # noqa: C419  # all of them, in constant time
