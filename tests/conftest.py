"""What tests share: a real Redis, stores over it, the API, and a whole stack of real processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
from fastapi.testclient import TestClient

from common import processes
from common.settings import Settings
from common.store.client import connect
from common.store.files import DataFolder
from common.store.stores import Stores, open_stores
from service.app import create_app
from service.client import ApiClient
from service.redis_server import start_redis
from service.routes.shared import Services
from tests.object_store import ObjectStore
from tests.shared_app import app_of

# The tests that must always pass see the same examples every time; `make full` looks for new ones.
hypothesis.settings.register_profile("steady", derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("explore", print_blob=True, deadline=None)
hypothesis.settings.load_profile("steady")


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("CHAINRULE_", "AWS_"))]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis of the test run's own."""
    with tempfile.TemporaryDirectory(prefix="cr", dir="/tmp") as folder:
        socket = Path(folder) / "redis.sock"
        process = start_redis(Path(folder) / "redis", socket, Path(folder) / "redis.log", {})
        yield f"unix://{socket}"
        processes.stop(process)


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A server of the test run's own that speaks S3."""
    folder = tmp_path_factory.mktemp("objects") / "buckets"
    folder.mkdir()
    server = ObjectStore(folder)
    yield server
    server.kill()


@pytest.fixture
def bucket(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """`bucket/prefix` with nothing below it, which this process finds by its environment."""
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    return object_store.new_place()


@pytest.fixture
def stores(redis_url: str, tmp_path: Path) -> Iterator[Stores]:
    """Empty stores."""
    client = connect(redis_url, retries=1)
    client.flushall()
    files = DataFolder(tmp_path / "data")
    files.prepare()
    yield open_stores(client, files)
    client.close()


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    """Settings of an API process on this Redis."""
    return Settings(redis_url=redis_url, state_dir=tmp_path)


@pytest.fixture(scope="session")
def one_app(redis_url: str) -> Iterator[TestClient]:
    """An API that all tests share: its first request costs more than most tests."""
    with closing(connect(redis_url, retries=1)) as client:
        app = create_app(Settings(redis_url=redis_url), open_stores(client, DataFolder(Path("unused"))))
        with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as api:
            yield api


@pytest.fixture
def api(one_app: TestClient, settings: Settings, stores: Stores) -> TestClient:
    """The shared API, over stores of this test's own."""
    app_of(one_app).state.services = Services.over(settings, stores)
    return one_app


@dataclass
class RunningStack:
    """`chainrule up` as a process of its own."""

    process: subprocess.Popen[str]
    url: str
    state_dir: Path
    client: ApiClient

    def stop(self) -> int:
        """Ctrl-C; the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.close()

    def kill(self) -> None:
        """SIGKILL to the root process alone."""
        self.process.kill()
        self.close()

    def close(self) -> int:
        """Waits for its end; the exit status."""
        self.client.close()
        with self.process:
            return self.process.wait(60)


def start_stack(state_dir: Path, *, within: Sequence[str] = (), **environment: str) -> RunningStack:
    """Starts `chainrule up` on a free port, by way of the command `within`, and waits for its address."""
    command = [*within, sys.executable, "-P", "-m", "service.cli", "up", "--port", "0", "--state-dir", str(state_dir)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment}
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if found := re.search(r"answers at (http://\S+) ", line):
            return RunningStack(process, found[1], state_dir, ApiClient(found[1]))
    with process:
        process.wait()
    raise AssertionError(f"the stack ended with {process.returncode}: {''.join(said)}")


def start_api(log: Path, redis_url: str, *, within: Sequence[str] = (), **environment: str) -> subprocess.Popen[str]:
    """Starts an API process alone on a free port, by way of the command `within`; its first line names its address."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("CHAINRULE_")}
    variables |= {"CHAINRULE_REDIS_URL": redis_url, "CHAINRULE_PORT": "0", **environment}
    command = [*within, sys.executable, "-P", "-m", "service"]
    with log.open("wb") as errors:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=variables)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A whole stack that tests share."""
    running = start_stack(tmp_path_factory.mktemp("stack"))
    yield running
    assert running.stop() == 0
