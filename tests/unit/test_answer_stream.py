"""Answers that begin while their request is still coming, message by message of ASGI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from common.errors import Fault, Invalid
from service.bulk.incoming import Incoming
from service.routes import answer_stream
from service.routes.answer_stream import AnswerStream

BODY = [b"a" * 10] * 20
PIECE = b"b" * 200_000


class Caller:
    """Sends a body, and takes the answer: at once, or only when it has sent all."""

    def __init__(self, *, reads_at_once: bool = True) -> None:
        self._body = list(BODY)
        self._reads = asyncio.Event()
        if reads_at_once:
            self._reads.set()
        self.goes = asyncio.Event()
        self.taken: list[bytes] = []
        self.ended = False

    async def receive(self) -> dict[str, Any]:
        if not self._body:
            await self.goes.wait()
            return {"type": "http.disconnect"}
        data = self._body.pop(0)
        if not self._body:
            self._reads.set()
        return {"type": "http.request", "body": data, "more_body": bool(self._body)}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            await self._reads.wait()
            self.taken.append(bytes(message["body"]))
            self.ended = not message["more_body"]


async def answer(
    caller: Caller, folder: Path, *, limit: int = 1 << 30, error: Exception | None = None, others: int = 0
) -> tuple[int, list[str]]:
    """Answers each 10 bytes with a piece, and with `others` at the end; how many files were made, and how it ended."""
    scope = {"type": "http", "path": "/", "headers": [], "request_id": "req_1"}
    request = Request(scope, caller.receive, caller.send)
    incoming = Incoming(request)
    places: list[Path] = []
    ends: list[str] = []

    async def pieces() -> AsyncGenerator[bytes]:
        try:
            async for data, _ in incoming.parts(10):
                if data:
                    yield PIECE
            if error is not None:
                raise error
            for _ in range(others):
                await asyncio.sleep(0)
                yield PIECE
            ends.append("whole")
        finally:
            ends.append("closed")

    def place() -> Path:
        places.append(folder / f"answer{len(places)}")
        return places[-1]

    stream = AnswerStream(
        request,
        incoming,
        pieces(),
        lambda problem: b"!" + problem,
        place=place,
        limit=limit,
        media_type="text/csv",
        headers={},
    )
    await stream(scope, caller.receive, caller.send)
    assert list(folder.iterdir()) == []
    return len(places), ends


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_stream, "_SENDING_SECONDS", 0.05)


def test_who_reads_while_sending_is_answered_without_a_file(tmp_path: Path) -> None:
    caller = Caller()
    assert asyncio.run(answer(caller, tmp_path)) == (0, ["whole", "closed"])
    assert (b"".join(caller.taken), caller.ended) == (PIECE * len(BODY), True)


def test_who_reads_only_afterwards_gets_the_same_by_way_of_a_file(tmp_path: Path) -> None:
    caller = Caller(reads_at_once=False)
    assert asyncio.run(answer(caller, tmp_path)) == (1, ["whole", "closed"])
    assert (b"".join(caller.taken), caller.ended) == (PIECE * len(BODY), True)


@pytest.mark.parametrize("reads_at_once", [True, False])
def test_a_failure_is_told_behind_what_was_answered_and_the_answer_has_no_end(
    tmp_path: Path, reads_at_once: bool
) -> None:
    caller = Caller(reads_at_once=reads_at_once)
    error = Invalid("It is wrong.", [Fault("row 7", "ragged_row", "a blank line")])
    _, ends = asyncio.run(answer(caller, tmp_path, error=error))
    assert ends == ["closed"]
    *pieces, last = caller.taken
    assert (b"".join(pieces), caller.ended) == (PIECE * len(BODY), False)
    problem = json.loads(last.removeprefix(b"!"))
    assert (problem["status"], problem["detail"], problem["errors"][0]["pointer"]) == (422, "It is wrong.", "row 7")


def test_no_more_than_is_allowed_is_kept_on_disk(tmp_path: Path) -> None:
    caller = Caller(reads_at_once=False)
    assert asyncio.run(answer(caller, tmp_path, limit=5 * len(PIECE))) == (1, ["closed"])
    assert not caller.ended
    assert sum(map(len, caller.taken)) < 8 * len(PIECE)
    assert json.loads(caller.taken[-1].removeprefix(b"!"))["code"] == "too_large"


def test_nothing_more_is_made_for_who_has_gone(tmp_path: Path) -> None:
    async def scene() -> tuple[int, list[str]]:
        caller = Caller()
        caller.goes.set()
        return await answer(caller, tmp_path, others=10**9)

    assert asyncio.run(scene()) == (0, ["closed"])
