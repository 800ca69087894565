"""Answers that begin while their request is still coming."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import IO, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from common.errors import Stalled, StorageFull, TooLarge
from service import problems
from service.bulk.incoming import Incoming
from service.middleware import BodyTooLong

_SLICE: Final = 64 << 10
"""Bytes that are sent at once, so that a caller who reads slowly is told from one who does not read."""
_SENDING_SECONDS: Final = 2.0
"""For so long a caller may take nothing while it sends: many send all before they read, and would wait forever."""
_READING_SECONDS: Final = 600.0
"""For so long a caller may take nothing afterwards."""


class AnswerStream(Response):
    """Sends pieces as they come, no faster than they are read, and ends the connection before its end on a failure.

    A caller who takes nothing while it sends gets the rest from a file on disk.

    Args:
        request: what is answered.
        incoming: the body of it.
        pieces: of the answer.
        failure: what is sent last, given a problem as a JSON document.
        place: makes a path for the file.
        limit: most bytes of it.
        media_type: of the answer.
        headers: of the answer.

    """

    def __init__(
        self,
        request: Request,
        incoming: Incoming,
        pieces: AsyncGenerator[bytes],
        failure: Callable[[bytes], bytes],
        *,
        place: Callable[[], Path],
        limit: int,
        media_type: str,
        headers: Mapping[str, str],
    ) -> None:
        self._request = request
        self._incoming = incoming
        self._pieces = pieces
        self._failure = failure
        self._place = place
        self._limit = limit
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.init_headers(headers)

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        """Sends it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async with aclosing(self._pieces), aclosing(self._until_gone()) as pieces:
                await self._send_all(pieces, send)
        except ClientDisconnect:
            return
        except Exception as error:  # whatever it is, the caller is to be told
            await self._fail(error, send)
            return
        await send(_body(b"", more=False))

    async def _until_gone(self) -> AsyncGenerator[bytes]:
        """The pieces, as long as there is somebody to take them."""
        gone: asyncio.Task[None] | None = None
        try:
            async for piece in self._pieces:
                if gone is None and self._incoming.complete:
                    gone = asyncio.create_task(self._incoming.gone())
                if gone is not None and gone.done():
                    raise ClientDisconnect
                yield piece
        finally:
            if gone is not None:
                gone.cancel()

    async def _send_all(self, pieces: AsyncIterator[bytes], send: Send) -> None:
        async for piece in pieces:
            for start in range(0, len(piece), _SLICE):
                sending = asyncio.ensure_future(send(_body(piece[start : start + _SLICE])))
                if self._incoming.complete:
                    await _patiently(sending)
                elif not (await asyncio.wait({sending}, timeout=_SENDING_SECONDS))[0]:
                    await self._send_by_disk(sending, piece[start + _SLICE :], pieces, send)
                    return
                else:
                    sending.result()

    async def _send_by_disk(
        self, sending: asyncio.Future[None], begun: bytes, pieces: AsyncIterator[bytes], send: Send
    ) -> None:
        """Sends the rest when all of the request has come; `sending` has not been taken yet."""
        try:
            path = self._place()
            with await run_in_threadpool(path.open, "x+b") as file:
                path.unlink()
                failed = await self._keep(begun, pieces, file)
                await self._incoming.discard()
                await _patiently(sending)
                file.seek(0)
                while chunk := await run_in_threadpool(file.read, _SLICE):
                    await _patiently(asyncio.ensure_future(send(_body(chunk))))
            if failed is not None:
                raise failed
        finally:
            sending.cancel()

    async def _keep(self, begun: bytes, pieces: AsyncIterator[bytes], file: IO[bytes]) -> Exception | None:
        """Writes the rest to a file; what came in between, if all could not be written."""
        try:
            size = await run_in_threadpool(file.write, begun)
            async for piece in pieces:
                size += await run_in_threadpool(file.write, piece)
                if size > self._limit:
                    return TooLarge("The answer is too large to be kept until it is read; read while you send.")
        except ClientDisconnect:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                return StorageFull("There is no room left to keep the answer; read while you send.")
            return error
        except Exception as error:  # what is there by now is sent before it
            return error
        return None

    async def _fail(self, error: Exception, send: Send) -> None:
        """Tells it if there is a way, and leaves the answer without its end."""
        if isinstance(error, BodyTooLong):
            error = TooLarge("The body is larger than the bytes allowed here.")
        told = self._failure(bytes((await problems.answer_to(self._request, error)).body))
        sending = asyncio.ensure_future(send(_body(told)))
        await self._incoming.discard()  # who reads only afterwards takes nothing before
        with suppress(Stalled):
            await _patiently(sending)


async def _patiently(sending: asyncio.Future[None]) -> None:
    """Waits until something was sent.

    Raises:
        Stalled: the caller takes nothing any more.

    """
    if not (await asyncio.wait({sending}, timeout=_READING_SECONDS))[0]:
        sending.cancel()
        raise Stalled(f"Nothing of the answer was taken for {_READING_SECONDS:.0f} seconds; it was given up.")
    sending.result()


def _body(data: bytes, *, more: bool = True) -> dict[str, object]:
    return {"type": "http.response.body", "body": data, "more_body": more}
