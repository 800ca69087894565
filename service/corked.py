"""A connection's other end, which is written to in one go where several pieces are there at once."""

from __future__ import annotations

import asyncio
from typing import Any

_MOST_BYTES = 1 << 16
"""That wait to be written."""


class Corked(asyncio.Transport):
    """Writes all that it is given in one turn of the event loop together: the head of an answer and its body.

    A write of its own for each costs a system call here, and wakes the caller for half an answer.

    Args:
        transport: what it writes to.
        loop: whose turns count.

    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes | bytearray | memoryview[Any]] = []
        self._bytes = 0

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Writes it at the end of this turn, or as soon as much waits; drops it where nobody is there any more."""
        if self._transport.is_closing():
            return
        if not self._waiting:
            self._loop.call_soon(self.flush)
        self._waiting.append(data)
        self._bytes += len(data)
        if self._bytes >= _MOST_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes what waits."""
        if self._waiting and not self._transport.is_closing():
            self._transport.write(b"".join(self._waiting))
        self._waiting.clear()
        self._bytes = 0

    def close(self) -> None:
        """Closes it when all is written."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Closes it at once."""
        self._waiting.clear()
        self._bytes = 0
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        """Nothing more is read."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """What comes is read again."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the connection tells of itself."""
        return self._transport.get_extra_info(name, default)
