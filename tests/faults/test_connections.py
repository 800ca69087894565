"""Slow, stalled and vanished callers in thousands, and an API process with few file descriptors: others are served."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from common.store.stores import Stores
from service.client import ApiClient, Unreachable
from tests.conftest import start_api
from tests.contract import submit
from tests.faults.breaking import connection, eventually

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CALLERS = 2000
THREADS = 45
"""Of the API, each with a connection to the store that it keeps, and some for the threads of the event loop."""


@dataclass
class Api:
    """An API process alone, over the Redis of the tests."""

    process: psutil.Process
    url: str

    def answers(self) -> bool:
        """Whether a new caller is answered, and not cut off among those who make room."""
        try:
            with closing(ApiClient(self.url)) as client:
                return bool(client.call("GET", "/healthz") == {"status": "ok"})
        except Unreachable:
            return False


@contextmanager
def api_with(descriptors: int, redis_url: str, folder: Path) -> Iterator[Api]:
    """An API process with a limit on its file descriptors."""
    limit = ["sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh"]
    with start_api(folder / "api.log", redis_url, within=limit, CHAINRULE_DATA_URL=str(folder / "data")) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline().split()
            yield Api(psutil.Process(process.pid), said[-1])
        finally:
            process.terminate()
            assert process.wait(30) == -signal.SIGTERM


@pytest.fixture(autouse=True)
def _many_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 2 * CALLERS), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


STALLS: dict[str, Callable[[str], bytes]] = {
    "says nothing": lambda _: b"",
    "half a head": lambda _: b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n",
    "half a body": lambda _: (
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\nContent-Type: application/json\r\n\r\n{"
    ),
    "half an upload": lambda _: (
        b"POST /v1/datasets?name=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n"
        b"Content-Type: text/csv\r\n\r\na,b\n"
    ),
    "watches": lambda job: (
        f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode()
    ),
    "waits": lambda job: f"GET /v1/jobs/{job}?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
}


@pytest.mark.parametrize("descriptors", [256, 2 * CALLERS + 200])
@pytest.mark.parametrize("kind", STALLS)
def test_thousands_of_callers_that_keep_the_api_waiting_keep_nobody_out(
    stores: Stores, redis_url: str, tmp_path: Path, kind: str, descriptors: int
) -> None:
    job_id = submit(stores)
    with api_with(descriptors, redis_url, tmp_path) as api, ExitStack() as callers:
        assert api.answers()
        opened, memory = api.process.num_fds(), api.process.memory_info().rss
        for _ in range(CALLERS):
            caller = callers.enter_context(connection(api.url))
            with suppress(ConnectionError):  # it has had to make room already
                caller.sendall(STALLS[kind](job_id))
        eventually(api.answers)
        with closing(ApiClient(api.url)) as client:
            assert client.job(job_id)["state"] == "queued"
        assert api.process.memory_info().rss - memory < CALLERS * 100_000
        callers.close()
        eventually(lambda: api.process.num_fds() <= opened + THREADS)
    assert not list((tmp_path / "data" / "uploads").iterdir())


@pytest.mark.usefixtures("stores")
def test_whoever_does_not_finish_the_head_of_a_request_is_cut_off(redis_url: str, tmp_path: Path) -> None:
    with api_with(256, redis_url, tmp_path) as api, connection(api.url) as silent, connection(api.url) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert silent.recv(1) == b""
        with suppress(ConnectionResetError):
            assert slow.recv(1) == b""
