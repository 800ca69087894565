"""What every request passes: a number of its own, a limit on its body, and the key if there are keys."""

from __future__ import annotations

import hmac
import random
import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.errors import StoreUnavailable, Unauthorized
from common.store.access import AccessStore, digest
from service.problems import problem

MAX_HEADER_BYTES = 32 * 1024
_MAX_DIGITS = 20
_FRESH_SECONDS = 5.0
_PAUSE_SECONDS = 5.0
"""For so long a store that was away is not asked for keys again: whoever needs no store must not wait for it."""

Limit = Callable[[Scope], int]
"""From a request to the most bytes that it may have."""


_NO_SNIFFING = (b"x-content-type-options", b"nosniff")
_OURS = {b"x-request-id", b"x-content-type-options"}
_OWN_HOST = re.compile(rb"(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_ANY_HOST = re.compile(rb"[A-Za-z0-9._~-]{1,255}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")


_random = random.Random(secrets.randbits(256))  # to ask the kernel costs more than all else about an id


def new_request_id() -> str:
    """An id that no other request has; it is no secret."""
    return f"req_{_random.getrandbits(96):024x}"


def marks(request_id: str) -> list[tuple[bytes, bytes]]:
    """The headers that every answer has."""
    return [(b"x-request-id", request_id.encode()), _NO_SNIFFING]


class RequestId:
    """Gives every request an id, which its answer carries as X-Request-Id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["request_id"] = request_id = new_request_id()

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                others = [pair for pair in message.get("headers", ()) if pair[0] not in _OURS]
                message["headers"] = [*others, *marks(request_id)]
            await send(message)

        await self._app(scope, receive, named)


class HostCheck:
    """Refuses a request that does not name its host once.

    With `loopback` it must be this machine's own: a web page that rebinds its name to this address sends its name.
    """

    def __init__(self, app: ASGIApp, *, loopback: bool) -> None:
        self._app = app
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http" and not names_host(scope, loopback=self._loopback):
            expected = "localhost or a loopback address" if self._loopback else "a host"
            detail = f"The Host header must be {expected}, once."
            close = {"Connection": "close"}  # nobody who asks for another host has more to ask here
            await problem(Request(scope), 400, "host_not_allowed", detail, headers=close)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def names_host(scope: Scope, *, loopback: bool) -> bool:
    """Whether a request names its host once; with `loopback`, this machine."""
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if not hosts:
        return not loopback and bool(scope["http_version"] == "1.0")
    pattern = _OWN_HOST if loopback else _ANY_HOST
    return len(hosts) == 1 and pattern.fullmatch(hosts[0]) is not None


def header_bytes(scope: Scope) -> int:
    """Of all headers of a request."""
    return sum([len(name) + len(value) for name, value in scope["headers"]])


class BodyTooLong(Exception):
    """More bytes came than are allowed."""


def is_more_than(declared: bytes, limit: int) -> bool:
    """Whether a Content-Length is larger; no number is not."""
    return declared.isdigit() and (len(declared) > _MAX_DIGITS or int(declared) > limit)


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
        if header_bytes(scope) > MAX_HEADER_BYTES:
            detail = f"The headers are larger than the {MAX_HEADER_BYTES} bytes allowed."
            await problem(Request(scope), 431, "headers_too_large", detail)(scope, receive, send)
            return
        limit, received, answered = self._limit(scope), 0, False
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if is_more_than(declared, limit):
            await _refuse(limit, scope, receive, send)
            return

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise BodyTooLong
            return message

        async def watched(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self._app(scope, counted, watched)
        except BodyTooLong:
            if answered:
                raise
            await _refuse(limit, scope, receive, send)


async def _refuse(limit: int, scope: Scope, receive: Receive, send: Send) -> None:
    detail = f"The body is larger than the {limit} bytes allowed here."
    await problem(Request(scope), 413, "too_large", detail, headers={"Connection": "close"})(scope, receive, send)


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

    def recalls(self, authorization: str | None) -> bool:
        """Whether a request passes by what is known already, without asking the store; if not, `check` decides."""
        digests = self._digests
        if digests is None or self._clock() - self._looked >= max(_FRESH_SECONDS, self._pause):
            return False
        return not digests or _holds(digests, _bearer(authorization))

    def check(self, authorization: str | None) -> None:
        """Lets a request pass that carries a known key, or any if no keys were made.

        Raises:
            Unauthorized: it carries none, or an unknown one.
            StoreUnavailable: the store has not answered yet.

        """
        digests, key = self._known(max_age=_FRESH_SECONDS), _bearer(authorization)
        if not digests or _holds(digests, key) or (key and _holds(self._known(max_age=0.5), key)):
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


def _bearer(authorization: str | None) -> str:
    """The key that a header bears; none is empty."""
    scheme, _, key = (authorization or "").partition(" ")
    return key if scheme.lower() == "bearer" else ""


def _holds(digests: Sequence[str] | frozenset[str], key: str) -> bool:
    mine = digest(key)
    return any([hmac.compare_digest(mine, known) for known in digests])  # noqa: C419  # all of them, in constant time
