"""Files that are predicted while they come, by an API process of its own."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx2
import polars as pl
import psutil
import pytest

from common.features.columns import Column
from common.features.numbers import Scaled
from common.schemas.models import Model
from common.store.stores import Stores
from tests.conftest import start_api
from tests.learned import TARGETS, publish_network

pytestmark = pytest.mark.integration

CSV, NDJSON = "text/csv", "application/x-ndjson"
ONE: tuple[Column, ...] = (Scaled(name="x", kind="numeric", mean=0.0, scale=1.0),)
LINE = b"0.123456789012\n"
ROWS = 100_000
BLOCK = LINE * ROWS
"""1.5 MB, whose answer is larger: all that a connection holds is soon full."""
LONG_LINE = b"[%b0.5]\n" % (b" " * 180)


class Server:
    """An API process.

    Attributes:
        process: what the system knows of it.
        url: its address.

    """

    def __init__(self, folder: Path, redis_url: str) -> None:
        settings = {"CHAINRULE_STATE_DIR": str(folder), "CHAINRULE_MAX_UPLOAD_BYTES": str(4 << 30)}
        self._started = start_api(folder / "log", redis_url, **settings)
        assert self._started.stdout is not None
        found = re.search(r"http://\S+", self._started.stdout.readline())
        assert found is not None, (folder / "log").read_text()
        self.url = found[0]
        self.process = psutil.Process(self._started.pid)
        self.uploads = folder / "data" / "uploads"

    def stop(self) -> None:
        with self._started:
            self._started.send_signal(signal.SIGTERM)

    @property
    def most_memory(self) -> int:
        """The most bytes that it ever held."""
        status = Path(f"/proc/{self._started.pid}/status").read_text()
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])


@pytest.fixture(scope="module")
def server(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("api"), redis_url)
    yield running
    running.stop()


class Call:
    """A prediction whose body is sent, and whose answer is read, bit by bit."""

    def __init__(self, server: Server, model: Model, kind: str) -> None:
        host, _, port = server.url.removeprefix("http://").partition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        head = f"POST /v1/models/{model.id}/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
        self._socket.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        self.answer = http.client.HTTPResponse(self._socket, method="POST")

    def send(self, data: bytes) -> None:
        """Sends a part of the body."""
        self._socket.sendall(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        """Sends the end of the body."""
        self._socket.sendall(b"0\r\n\r\n")

    def close(self) -> None:
        """Goes away."""
        self.answer.close()
        self._socket.close()


def test_the_answer_comes_while_the_file_is_still_being_sent(server: Server, stores: Stores) -> None:
    with closing(Call(server, publish_network(stores, ONE, *TARGETS[0]), CSV)) as call:
        call.send(b"x\n" + BLOCK * 3)
        call.answer.begin()
        assert call.answer.status == 200
        lines = [call.answer.readline() for _ in range(ROWS)]
        assert lines[0].startswith(b"label,probability_fig,")
        call.send(BLOCK)
        call.end()
        lines += call.answer.read().splitlines(keepends=True)
        assert len(lines) == 1 + 4 * ROWS
        assert set(lines[1:]) == {lines[1]}


def test_who_reads_slowly_is_read_from_slowly_and_who_goes_away_ends_the_work(server: Server, stores: Stores) -> None:
    before, sent = server.most_memory, 0
    call = Call(server, publish_network(stores, ONE, *TARGETS[0]), CSV)

    def send() -> None:
        nonlocal sent
        with suppress(OSError):
            call.send(b"x\n")
            while True:
                call.send(BLOCK)
                sent += len(BLOCK)

    sending = threading.Thread(target=send)
    sending.start()
    call.answer.begin()
    held = []
    for _ in range(20):  # 64 KiB each twentieth of a second: far slower than it could be answered
        assert call.answer.read(64 << 10)
        held.append(sent)
        time.sleep(0.05)
    assert held[-1] < 40 << 20
    assert server.most_memory < before + (200 << 20)
    call._socket.shutdown(socket.SHUT_RDWR)
    call.close()
    sending.join()
    until = time.monotonic() + 20
    while (busy := server.process.cpu_percent(0.2)) > 10:
        assert time.monotonic() < until, busy
    assert httpx2.get(f"{server.url}/healthz").status_code == 200


def test_who_sends_all_before_it_reads_gets_the_whole_answer(server: Server, stores: Stores) -> None:
    model = publish_network(stores, ONE, *TARGETS[0])
    body, blocks = b"x\n" + BLOCK * 8, 8
    headers = {"Content-Type": CSV}
    answer = httpx2.post(f"{server.url}/v1/models/{model.id}/predict", content=body, headers=headers, timeout=60)
    assert answer.status_code == 200
    assert answer.content.count(b"\n") == 1 + blocks * ROWS
    assert list(server.uploads.iterdir()) == []


@pytest.mark.parametrize("kind", [CSV, NDJSON])
def test_a_fault_far_behind_ends_the_answer_before_its_end(server: Server, stores: Stores, kind: str) -> None:
    model = publish_network(stores, ONE, *TARGETS[0])
    rows, good, bad = (ROWS, BLOCK, b"old\n") if kind == CSV else (8000, LONG_LINE * 8000, b'["old"]\n')
    blocks = 4
    with closing(Call(server, model, kind)) as call:
        call.send((b"x\n" if kind == CSV else b"") + good * blocks)
        call.answer.begin()
        lines = [call.answer.readline()]

        def send() -> None:
            call.send(bad + good)
            call.end()

        sending = threading.Thread(target=send)
        sending.start()
        with pytest.raises(http.client.IncompleteRead) as caught:
            call.answer.read()
        sending.join()
    lines += caught.value.partial.splitlines(keepends=True)
    assert call.answer.status == 200
    assert all(line.endswith(b"\n") for line in lines)
    if kind == NDJSON:
        problem = json.loads(lines.pop())["error"]
        assert (problem["status"], problem["code"]) == (422, "invalid_data")
        faults = [(fault["pointer"], fault["code"]) for fault in problem["errors"]]
        assert faults == [(f"row {blocks * rows + 1}, column x", "wrong_type")]
    assert 0 < len(lines) <= blocks * rows + 1


def test_an_answer_in_parquet_tells_of_a_fault_however_far_behind(server: Server, stores: Stores) -> None:
    model = publish_network(stores, ONE, *TARGETS[0])
    headers = {"Content-Type": CSV, "Accept": "application/vnd.apache.parquet"}
    url = f"{server.url}/v1/models/{model.id}/predict"
    for body, status in ((b"x\n" + BLOCK * 2 + b"old\n", 422), (b"x\n" + BLOCK * 2, 200)):
        answer = httpx2.post(url, content=body, headers=headers, timeout=60)
        assert answer.status_code == status
        if status == 422:
            assert [fault["pointer"] for fault in answer.json()["errors"]] == [f"row {2 * ROWS + 1}, column x"]
        else:
            assert pl.read_parquet(answer.content).height == 2 * ROWS
    assert list(server.uploads.iterdir()) == []


def test_a_fault_near_the_beginning_is_told_before_the_answer_begins(server: Server, stores: Stores) -> None:
    model = publish_network(stores, ONE, *TARGETS[0])
    body = b"x\n" + BLOCK + b"old\n" + BLOCK * 8
    headers = {"Content-Type": CSV}
    answer = httpx2.post(f"{server.url}/v1/models/{model.id}/predict", content=body, headers=headers, timeout=60)
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [f"row {ROWS + 1}, column x"]


TWENTY: tuple[Column, ...] = tuple(Scaled(name=f"x{n}", kind="numeric", mean=0.0, scale=1.0) for n in range(20))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("kind", "size"), [(CSV, 2_000_000_000), (NDJSON, 300_000_000)])
def test_gigabytes_go_through_in_the_memory_of_some_blocks(
    redis_url: str, stores: Stores, tmp_path: Path, kind: str, size: int
) -> None:
    server = Server(tmp_path, redis_url)
    try:
        model = publish_network(stores, TWENTY, *TARGETS[1], units=(64, 32))
        rows = 5_000
        head, block = b"", json.dumps([-0.123456] * 20).encode() + b"\n"
        if kind == CSV:
            head = ",".join(column.name for column in TWENTY).encode() + b"\n"
            block = b",".join([b"-0.123456"] * 20) + b"\n"
        block *= rows
        blocks = size // len(block)
        small = Call(server, model, kind)
        small.send(head + block)
        small.end()
        small.answer.begin()
        small.answer.read()
        small.close()
        before = server.most_memory
        with closing(Call(server, model, kind)) as call:

            def send() -> None:
                call.send(head + block)
                for _ in range(blocks - 1):
                    call.send(block)
                call.end()

            sending = threading.Thread(target=send)
            began = time.monotonic()
            sending.start()
            call.answer.begin()
            lines = 0
            while data := call.answer.read1(1 << 20):
                lines += data.count(b"\n")
            sending.join()
        seconds = time.monotonic() - began
        assert lines == blocks * rows + (kind == CSV)
        print(f"{kind}: {size / seconds / 1e6:.1f} MB/s, {server.most_memory / 1e6:.0f} MB at most")  # noqa: T201
        assert server.most_memory < before + (150 << 20)
        assert server.most_memory < 400 << 20
    finally:
        server.stop()
