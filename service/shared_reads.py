"""One reading of the store for all who ask for the same at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from fastapi.concurrency import run_in_threadpool

Answer = TypeVar("Answer")


class SharedReads:
    """Readings in which all have part who asked before they began; for use in the event loop.

    Nobody is told what was so before the question: who asks while a reading is under way has part in the next one.
    """

    def __init__(self) -> None:
        self._under_way: dict[Hashable, asyncio.Task[Any]] = {}
        self._next: dict[Hashable, asyncio.Task[Any]] = {}

    async def read(self, key: Hashable, look: Callable[[], Answer]) -> Answer:
        """What `look` finds; `key` says what is looked for, `look` runs in a thread."""
        if key not in self._next:
            self._next[key] = asyncio.create_task(self._look(key, look))
        answer: Answer = await asyncio.shield(self._next[key])  # others wait for it when the caller does no longer
        return answer

    async def _look(self, key: Hashable, look: Callable[[], Answer]) -> Answer:
        before = self._under_way.get(key)
        if before is not None:
            await asyncio.wait([before])
        mine = self._under_way[key] = self._next.pop(key)
        try:
            return await run_in_threadpool(look)
        finally:
            if self._under_way[key] is mine:
                del self._under_way[key]
