"""Bodies that are read piece by piece, each no larger than what is asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np

from common.errors import TooLarge


class BodyReader:
    """Reads a body that comes in chunks.

    Args:
        chunks: as they come.
        limit: most bytes that there may be.

    """

    def __init__(self, chunks: AsyncIterator[bytes], limit: int) -> None:
        self._chunks = chunks
        self._limit = limit
        self._left = memoryview(b"")
        self._received = 0

    async def read(self, size: int) -> memoryview:
        """The next so many bytes; fewer where the body ends.

        Raises:
            TooLarge: more came than is allowed.

        """
        piece = room(size)
        return piece[: await self.read_into(piece)]

    async def read_into(self, place: memoryview) -> int:
        """Fills a place with what comes next; how many bytes it was, which are fewer where the body ends."""
        end = 0
        while end < len(place) and (self._left or await self._receive()):
            taken = self._left[: len(place) - end]
            place[end : end + len(taken)] = taken
            self._left = self._left[len(taken) :]
            end += len(taken)
        return end

    async def rest(self) -> bytes:
        """All that is left; raises as `read` does."""
        pieces = list[memoryview]()
        while self._left or await self._receive():
            pieces.append(self._left)
            self._left = memoryview(b"")
        return b"".join(pieces)

    async def _receive(self) -> bool:
        async for chunk in self._chunks:
            self._received += len(chunk)
            if self._received > self._limit:
                raise TooLarge(f"The body is larger than the {self._limit} bytes allowed here.")
            if chunk:
                self._left = memoryview(chunk)
                return True
        return False


def room(size: int) -> memoryview:
    """A place for so many bytes, which takes memory only as it is filled: a caller who names a size may send nothing."""
    return np.empty(size, np.uint8).data


async def only(chunk: bytes) -> AsyncIterator[bytes]:
    """A body that came in one."""
    yield chunk
