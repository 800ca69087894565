"""Who serves the networks: each as a process of its own, started for a measurement and ended after it, with what it started."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil

from common import processes
from common.settings import STACK_VARIABLE
from tests.benchmarks.contender import Failed, Say
from tests.benchmarks.environments import MLSERVER, RAY_SERVE, ROOT, Environment, python_of
from tests.benchmarks.served import ServedNetwork

START_SECONDS = 120.0
LOOK_SECONDS = 0.1
MOST_BYTES = 256 << 20
"""Of a body, where a whole matrix is sent."""


@dataclass(frozen=True)
class Running:
    """A server that takes requests."""

    url: str
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """That it has used so far, with all that it started."""
        used = 0.0
        for process in (self.process, *self.process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used += times.user + times.system
        return used


@dataclass(frozen=True, kw_only=True)
class Server(ABC):
    """Somebody who serves all of the networks.

    Attributes:
        name, title: as the file and the report name it.
        environment: None is the project's own.
        networks: that it serves.

    """

    name: str
    title: str
    environment: Environment | None
    networks: Sequence[ServedNetwork]

    @property
    @abstractmethod
    def health(self) -> str:
        """The path that answers with 200 once it takes requests."""

    @abstractmethod
    def launch(self, python: Path, port: int, scratch: Path) -> tuple[list[str], Mapping[str, str]]:
        """The command that starts it, and what it needs in its environment."""

    @abstractmethod
    def path(self, network: ServedNetwork) -> str:
        """Where the network predicts."""

    @abstractmethod
    def question(self, instance: list[float]) -> dict[str, Any]:
        """What is asked about an instance."""

    @abstractmethod
    def probabilities(self, answer: Any) -> list[float]:
        """Of the classes, in its answer."""

    @contextmanager
    def running(self, say: Say) -> Iterator[Running]:
        """It, while it runs.

        Raises:
            NotAvailable: it cannot be installed.
            Failed: it does not start.

        """
        python, port, mark = python_of(self.environment, say), _free_port(), secrets.token_hex(8)
        # A short path: Ray makes sockets below it.
        with tempfile.TemporaryDirectory(prefix="b", dir="/tmp", ignore_cleanup_errors=True) as folder:
            scratch = Path(folder)
            command, variables = self.launch(python, port, scratch)
            environment = {**processes.ONE_BLAS_THREAD, **variables, STACK_VARIABLE: mark}
            log = scratch / "log"
            process = processes.start(command, log=log, environment=environment, folder=scratch)
            try:
                url = f"http://127.0.0.1:{port}"
                self._await(process, url, log)
                yield Running(url, psutil.Process(process.pid))
            finally:
                processes.kill_group(process)
                process.wait()
                processes.sweep(mark, scratch)

    def _await(self, process: subprocess.Popen[str], url: str, log: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with suppress(httpx2.TransportError):
                if httpx2.get(url + self.health, timeout=START_SECONDS, trust_env=False).status_code == 200:
                    return
            with suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_SECONDS)
                raise Failed(f"it ended with status {process.returncode}: {processes.last_lines(log, 1)}")
        raise Failed(f"it took over {START_SECONDS:.0f} s to start")


@dataclass(frozen=True, kw_only=True)
class Chainrule(Server):
    """An API process over a real Redis."""

    redis_url: str
    name: str = "chainrule"
    title: str = "Chainrule"
    environment: Environment | None = None

    @property
    def health(self) -> str:
        return "/readyz"

    def launch(self, python: Path, port: int, scratch: Path) -> tuple[list[str], Mapping[str, str]]:
        return [str(python), "-P", "-m", "service"], {
            "CHAINRULE_REDIS_URL": self.redis_url,
            "CHAINRULE_STATE_DIR": str(scratch),
            "CHAINRULE_PORT": str(port),
            "CHAINRULE_MAX_PREDICT_BYTES": str(MOST_BYTES),
        }

    def path(self, network: ServedNetwork) -> str:
        return f"/v1/models/{network.model.record.id}/predict"

    def question(self, instance: list[float]) -> dict[str, Any]:
        return {"instances": [instance]}

    def probabilities(self, answer: Any) -> list[float]:
        return list(answer["predictions"][0]["probabilities"].values())


@dataclass(frozen=True, kw_only=True)
class MLServer(Server):
    """One process, as ours is: no workers beside it. No access log, no metrics, no compression.

    Adaptive batching stays off: with 2 ms and 64 requests it doubled the CPU time of a request that comes alone, and saved
    little when 64 came at once.
    """

    name: str = "mlserver"
    title: str = "MLServer"
    environment: Environment | None = MLSERVER

    @property
    def health(self) -> str:
        return "/v2/health/ready"

    def launch(self, python: Path, port: int, scratch: Path) -> tuple[list[str], Mapping[str, str]]:
        settings = {
            "host": "127.0.0.1",
            "http_port": port,
            "grpc_port": _free_port(),
            "parallel_workers": 0,
            "debug": False,
            "metrics_endpoint": None,
            "gzip_enabled": False,
        }
        (scratch / "settings.json").write_text(json.dumps(settings))
        for network in self.networks:
            folder = scratch / self._model(network)
            folder.mkdir()
            model = {
                "name": self._model(network),
                "implementation": "tests.benchmarks.peers.mlserver_runtime.PlainRuntime",
                "parameters": {"uri": str(network.arrays)},
            }
            (folder / "model-settings.json").write_text(json.dumps(model))
        return [str(python.parent / "mlserver"), "start", str(scratch)], {"PYTHONPATH": str(ROOT)}

    def path(self, network: ServedNetwork) -> str:
        return f"/v2/models/{self._model(network)}/infer"

    def question(self, instance: list[float]) -> dict[str, Any]:
        tensor = {"name": "instances", "shape": [1, len(instance)], "datatype": "FP32", "data": instance}
        return {"inputs": [tensor]}

    def probabilities(self, answer: Any) -> list[float]:
        return list(answer["outputs"][0]["data"])

    def _model(self, network: ServedNetwork) -> str:
        return f"network{network.inputs}"


@dataclass(frozen=True, kw_only=True)
class RayServe(Server):
    """One replica behind Ray Serve's proxy, as it comes."""

    name: str = "ray-serve"
    title: str = "Ray Serve"
    environment: Environment | None = RAY_SERVE

    @property
    def health(self) -> str:
        return "/-/healthz"

    def launch(self, python: Path, port: int, scratch: Path) -> tuple[list[str], Mapping[str, str]]:
        files = [str(network.arrays) for network in self.networks]
        return [str(python), "-P", "-m", "tests.benchmarks.peers.ray_serve", str(scratch), str(port), *files], {
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_METRICS_COLLECTION": "false",
        }

    def path(self, network: ServedNetwork) -> str:
        return f"/{network.inputs}"

    def question(self, instance: list[float]) -> dict[str, Any]:
        return {"instances": [instance]}

    def probabilities(self, answer: Any) -> list[float]:
        return list(answer["probabilities"][0])


@dataclass(frozen=True, kw_only=True)
class DirectRayServe(RayServe):
    """With what Ray calls optimized for throughput; the replica itself is asked, without a proxy in between."""

    name: str = "ray-serve-direct"
    title: str = "Ray Serve, direct"

    def launch(self, python: Path, port: int, scratch: Path) -> tuple[list[str], Mapping[str, str]]:
        command, variables = super().launch(python, _free_port(), scratch)
        return command, {
            **variables,
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(port),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(port + 1),
        }


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
