"""The short way of a small prediction, past FastAPI and what every request passes, which cost more than it does.

Only what goes well is answered here. All else goes the long way, where it is told what is wrong with it.
"""

from __future__ import annotations

import logging
import re
from typing import NamedTuple

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from common.errors import ChainruleError
from common.settings import Settings
from service.middleware import MAX_HEADER_BYTES, header_bytes, is_more_than, marks, names_host, new_request_id
from service.routes.predictions import QUICK_BYTES, find, quick_answer
from service.routes.shared import Services, admit

log = logging.getLogger(__name__)

_PATH = re.compile(r"/v1/models/([^/]{1,200})/predict")
_JSON = b"application/json"
_PLAIN = {b"content-type": (_JSON,), b"accept": (b"*/*", _JSON), b"content-encoding": (b"identity",)}
"""What headers say of a request that is answered here, if they say anything."""


class _Wanted(NamedTuple):
    """A prediction: by which model, and for whom."""

    reference: str
    authorization: str | None


class QuickLane:
    """Answers `POST /v1/models/{ref}/predict` with a small body of JSON, known keys and no query.

    Args:
        app: what answers all else, over the same services.

    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self.state = app.state
        settings: Settings = app.state.services.settings
        self._loopback = settings.is_loopback
        self._most_bytes = min(QUICK_BYTES, settings.max_predict_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        wanted, behind = self._wanted(scope), self.state.services
        if wanted is None or not await _admits(behind, wanted):
            await self._app(scope, receive, send)
            return
        messages: list[Message] = []
        body = await _body(receive, messages, self._most_bytes)
        answer = None if body is None else await _answer(behind, wanted.reference, body)
        if answer is None:
            await self._app(scope, _again(messages, receive), send)
            return
        about = [(b"content-length", str(len(answer)).encode()), (b"content-type", _JSON), *marks(new_request_id())]
        await send({"type": "http.response.start", "status": 200, "headers": about})
        await send({"type": "http.response.body", "body": answer})

    def _wanted(self, scope: Scope) -> _Wanted | None:
        """Whose prediction is wanted, and by whom; None for any other request."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["query_string"]:
            return None
        match = _PATH.fullmatch(scope["path"])
        if match is None or not names_host(scope, loopback=self._loopback) or header_bytes(scope) > MAX_HEADER_BYTES:
            return None
        kind, key = b"", None
        for name, value in scope["headers"]:
            if name in _PLAIN and value.lower() not in _PLAIN[name]:
                return None
            if name == b"content-type":
                kind = value
            elif name == b"content-length" and is_more_than(value, self._most_bytes):
                return None
            elif name == b"authorization" and key is None:  # of several the first counts, as the long way has it
                key = value.decode("latin-1")
        return _Wanted(match[1], key) if kind else None


async def _admits(behind: Services, wanted: _Wanted) -> bool:
    try:
        await admit(behind, wanted.authorization)
    except ChainruleError:
        return False
    return True


async def _answer(behind: Services, reference: str, body: bytes) -> bytes | None:
    try:
        return await quick_answer(await find(reference, behind), body, behind)
    except ChainruleError:
        return None
    except Exception:
        log.exception("the short way failed")  # whatever it is, the long way says it
        return None


async def _body(receive: Receive, messages: list[Message], most: int) -> bytes | None:
    """The whole body, if it is small; `messages` are those it came with."""
    body: bytes = b""
    while True:
        message = await receive()
        messages.append(message)
        if message["type"] != "http.request":
            return None
        body += bytes(message.get("body", b""))
        if len(body) > most:
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
