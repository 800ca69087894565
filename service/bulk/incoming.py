"""The body of a request, as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from common.errors import Invalid, Stalled
from service.gunzip import Gunzip

_STALL_SECONDS: Final = 60.0
"""How long a caller may send nothing before its request is given up."""


class Incoming:
    """A body that is read no faster than it is used.

    Args:
        request: whose body it is.
        expanded: expands it, if it is compressed.

    Attributes:
        complete: whether all of it has come.

    """

    def __init__(self, request: Request, expanded: Gunzip | None = None) -> None:
        self.complete = False
        self._request = request
        self._chunks = request.stream()
        self._expanded = expanded

    async def chunks(self) -> AsyncGenerator[bytes]:
        """What comes.

        Raises:
            Stalled: nothing comes any more.
            Invalid: it is not compressed as it says (`malformed_gzip`).
            TooLarge: it expands to more than is allowed.
            ClientDisconnect: the caller has gone.

        """
        while chunk := await self._next():
            if self._expanded is None:
                yield chunk
                continue
            pieces = self._expanded.pieces(chunk)
            while (piece := await run_in_threadpool(next, pieces, None)) is not None:
                yield piece
        if self._expanded is not None and self._expanded.began:
            self._expanded.end()

    async def parts(self, size: int) -> AsyncGenerator[tuple[bytes, bool]]:
        """The same in parts of at least `size` bytes, but for the last; each with whether it is that.

        Raises:
            Invalid: there is no body (`empty_body`), or as above.

        """
        gathered: list[bytes] = []
        length = total = 0
        async for chunk in self.chunks():
            gathered.append(chunk)
            length += len(chunk)
            total += len(chunk)
            if length >= size:
                yield b"".join(gathered), False
                gathered, length = [], 0
        if total == 0:
            raise Invalid("The body is empty; a file was expected.", code="empty_body")
        yield b"".join(gathered), True

    async def discard(self) -> None:
        """Takes in what is left of it: a caller who is told something while it sends may listen only afterwards."""
        try:
            while await self._next():
                pass
        except (Stalled, ClientDisconnect):
            pass

    async def gone(self) -> None:
        """Returns when the caller has gone, after all of the body has come."""
        while (await self._request.receive())["type"] != "http.disconnect":
            pass

    async def _next(self) -> bytes:
        """The next bytes; none at the end."""
        if self.complete:
            return b""
        try:
            async with asyncio.timeout(_STALL_SECONDS):
                chunk = await anext(self._chunks, b"")
        except TimeoutError:
            raise Stalled(f"Nothing came for {_STALL_SECONDS:.0f} seconds; the request was given up.") from None
        self.complete = not chunk
        return chunk
