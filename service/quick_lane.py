"""The short way of a small prediction, past FastAPI's routing and dependencies, which cost several times as much as it does.

Only what goes well is answered here. All else goes the long way, where it is told what is wrong with it.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.errors import ChainruleError
from service.routes.predictions import QUICK_BYTES, find, quick_answer
from service.routes.shared import Services

_PATH = re.compile(r"/v1/models/([^/]{1,200})/predict")
_JSON = b"application/json"
_PLAIN = {b"content-type": (_JSON,), b"accept": (b"*/*", _JSON), b"content-encoding": (b"identity",)}
"""What headers say of a request that is answered here, if they say anything."""


class QuickLane:
    """Answers `POST /v1/models/{ref}/predict` with a small body of JSON, known keys and no query."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        reference = self._reference(scope)
        if reference is None:
            await self._app(scope, receive, send)
            return
        messages: list[Message] = []
        body = await _body(receive, messages)
        answer = None if body is None else await self._answer(reference, body)
        if answer is None:
            await self._app(scope, _again(messages, receive), send)
            return
        headers = [(b"content-length", str(len(answer)).encode()), (b"content-type", _JSON)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _reference(self, scope: Scope) -> str | None:
        """Whose prediction is wanted; None for any other request."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["query_string"]:
            return None
        match = _PATH.fullmatch(scope["path"])
        if match is None:
            return None
        kind, key = b"", None
        for name, value in scope["headers"]:
            if name in _PLAIN and value.lower() not in _PLAIN[name]:
                return None
            if name == b"content-type":
                kind = value
            elif name == b"authorization" and key is None:  # of several the first counts, as the long way has it
                key = value.decode("latin-1")
        return match[1] if kind and self._services.keys.recalls(key) else None

    async def _answer(self, reference: str, body: bytes) -> bytes | None:
        try:
            found = await find(reference, self._services)
            return quick_answer(found, body, self._services.settings.max_predict_rows)
        except ChainruleError:
            return None


async def _body(receive: Receive, messages: list[Message]) -> bytes | None:
    """The whole body, if it is small; `messages` are those it came with."""
    body: bytes = b""
    while True:
        message = await receive()
        messages.append(message)
        if message["type"] != "http.request":
            return None
        body += bytes(message.get("body", b""))
        if len(body) > QUICK_BYTES:
            return None
        if not message.get("more_body", False):
            return body


def _again(messages: list[Message], receive: Receive) -> Receive:
    """What was received already, and then what comes."""
    waiting = iter(messages)

    async def next_message() -> Message:
        message = next(waiting, None)
        return await receive() if message is None else message

    return next_message
