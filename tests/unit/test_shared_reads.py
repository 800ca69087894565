"""Readings of the store that are shared by all who ask for the same at the same time."""

from __future__ import annotations

import asyncio
import threading

import pytest

from common.errors import NotFound
from service.shared_reads import SharedReads


class Counter:
    """Something to be read that changes with every reading, which waits for permission."""

    def __init__(self) -> None:
        self.count = 0
        self.may_end = threading.Event()
        self.began = threading.Event()

    def look(self) -> int:
        self.count += 1
        count = self.count
        self.began.set()
        assert self.may_end.wait(30)
        return count


def test_who_asks_at_the_same_time_shares_one_reading_and_who_asks_during_it_the_next() -> None:
    async def scenario() -> list[int]:
        reads, counter = SharedReads(), Counter()
        first = [asyncio.create_task(reads.read("k", counter.look)) for _ in range(50)]
        await asyncio.to_thread(counter.began.wait)
        later = [asyncio.create_task(reads.read("k", counter.look)) for _ in range(50)]
        other = asyncio.create_task(reads.read("another", lambda: 7))
        assert await other == 7
        counter.may_end.set()
        return await asyncio.gather(*first, *later)

    assert asyncio.run(scenario()) == [1] * 50 + [2] * 50


def test_who_goes_away_takes_the_answer_from_nobody() -> None:
    async def scenario() -> int:
        reads, counter = SharedReads(), Counter()
        gone, stays = (asyncio.create_task(reads.read("k", counter.look)) for _ in range(2))
        await asyncio.to_thread(counter.began.wait)
        gone.cancel()
        counter.may_end.set()
        return await stays

    assert asyncio.run(scenario()) == 1


def test_an_error_is_told_to_all_and_the_next_reading_is_a_new_one() -> None:
    def fail() -> int:
        raise NotFound("none")

    async def scenario() -> int:
        reads = SharedReads()
        failed = await asyncio.gather(*(reads.read("k", fail) for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in failed] == [NotFound] * 3
        with pytest.raises(NotFound):
            await reads.read("k", fail)
        return await reads.read("k", lambda: 5)

    assert asyncio.run(scenario()) == 5
