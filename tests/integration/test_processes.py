"""Several API processes on one port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import httpx2
import psutil
import pytest

from common.store.stores import Stores
from service.client import ApiClient
from tests.contract import publish
from tests.faults.breaking import eventually
from tests.integration.test_api import GOOD

pytestmark = pytest.mark.integration

COUNT = 3


@dataclass
class Served:
    """`chainrule serve --processes`."""

    process: subprocess.Popen[str]
    url: str

    @property
    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@pytest.fixture(scope="module")
def served(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    variables = {"CHAINRULE_REDIS_URL": redis_url, "CHAINRULE_PORT": "0", "CHAINRULE_STATE_DIR": str(folder)}
    command = [sys.executable, "-P", "-m", "service.cli", "serve", "--processes", str(COUNT)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **variables}
        )
    with process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "answers at http://" in line, (line, (folder / "log").read_text())
        yield Served(process, line.split()[-1])
        if process.poll() is None:
            process.kill()


def test_they_answer_alike_and_one_that_dies_is_missed_by_nobody(served: Served, stores: Stores) -> None:
    model = publish(stores)
    first = served.children
    assert len(first) == COUNT

    def ask(_: int) -> object:
        with closing(ApiClient(served.url)) as client:  # a connection of its own, which any process may take
            return client.predict("iris", [GOOD])["model_id"]

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(40))) == {model.id}
        first[0].send_signal(signal.SIGKILL)
        assert "ended unexpectedly and is started again" in served.line()
        assert "is back" in served.line()
        assert set(pool.map(ask, range(40))) == {model.id}
    assert len(served.children) == COUNT
    assert served.children != first


def test_a_model_that_is_deleted_is_forgotten_by_all_of_them(served: Served, stores: Stores) -> None:
    model = publish(stores)

    def status(_: int) -> int:
        path = f"{served.url}/v1/models/{model.id}/predict"
        return int(httpx2.post(path, json={"instances": [GOOD]}).status_code)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(status, range(40))) == {200}
        with closing(ApiClient(served.url)) as client:
            client.call("DELETE", f"/v1/models/{model.id}")
        eventually(lambda: set(pool.map(status, range(40))) == {404})


def test_they_end_together(served: Served) -> None:  # the last one: there is one server for all
    family = served.children
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(30) == 0
    eventually(lambda: not any(process.is_running() for process in family))
