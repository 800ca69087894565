"""The Ray cluster that a supervisor's runs join: a local one of our own, or one that the operator named.

Never one found lying about: every driver is told the address of its cluster.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from common import processes

log = logging.getLogger("chainrule.ray")

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_METRICS_COLLECTION": "false",
    "RAY_DEDUP_LOGS": "0",
    **processes.ONE_BLAS_THREAD,
    "PYTHONSAFEPATH": "1",  # a file in the working folder is never imported
}
"""For every process of Ray: no statistics, no metrics, one BLAS thread, no import from the working folder."""


class RayCluster(Protocol):
    """Where runs find Ray."""

    @property
    def address(self) -> str:
        """What a driver connects to; changes when the cluster was started anew."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What a driver needs in its environment."""

    def keep(self) -> bool:
        """Does what is due to keep it alive; whether it takes connections."""

    def stop(self) -> None:
        """Ends what `keep` started."""


@dataclass(frozen=True, slots=True)
class NamedRay:
    """A cluster that somebody else keeps alive."""

    address: str
    environment: Mapping[str, str] = field(default_factory=lambda: QUIET)

    def keep(self) -> bool:
        return True

    def stop(self) -> None:
        """Nothing was started."""


class LocalRay:
    """A head node on this machine, started anew when it dies.

    Its ports take part only with a token made here; its files lie in a folder of its own.

    Args:
        temporary: where that folder is made; a short path, for it holds sockets.
        log: where Ray's output goes.
        clock: monotonic seconds.

    """

    def __init__(self, temporary: Path, log: Path, clock: Callable[[], float]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="r", dir=temporary))
        self._log = log
        self._clock = clock
        self._process: subprocess.Popen[str] | None = None
        self._start_after = 0.0
        self._is_up = False
        self.address = ""
        self.environment = {**QUIET, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

    def keep(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            log.error("Ray ended with status %s; see %s", self._process.returncode, self._log)
            processes.kill_group(self._process)
            self._process = None
            self._start_after = self._clock() + _PAUSE_SECONDS
        if self._process is None:
            self._is_up = False
            if self._clock() >= self._start_after:
                self._start()
        if not self._is_up:
            self._is_up = self._process is not None and self._answers()
        return self._is_up

    def stop(self) -> None:
        if self._process is not None:
            processes.stop(self._process, seconds=8)
            processes.kill_group(self._process)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        port = _free_port()
        self.address = f"{_own_address()}:{port}"
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"),
            *(f"--node-ip-address={_own_address()}", f"--temp-dir={self._folder}", "--disable-usage-stats"),
            *("--include-dashboard=false", f"--num-cpus={os.cpu_count() or 1}"),
        ]
        self._process = processes.start(command, log=self._log, environment=self.environment, folder=self._folder)

    def _answers(self) -> bool:
        host, port = self.address.rsplit(":", 1)
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            return False
        return True


_PAUSE_SECONDS = 1.0


def _own_address() -> str:
    """The address under which Ray knows this machine: it does not take loopback for one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 1))  # sends nothing: asks the routing table which address it would use
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
