"""A server that speaks S3, as a process: it keeps objects as plain files, and can be killed, frozen and started again."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from common import processes

KEY, SECRET = "chainrule", "only-for-tests"
_BUCKET = "objects"


class ObjectStore:
    """A server on a port of its own.

    Args:
        folder: what it serves; the one folder in it is its bucket.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / _BUCKET).mkdir()  # before the start: the server remembers what it has seen of its folder
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which clients find it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Starts it over what an earlier life kept, and waits until it takes connections."""
        command = [
            *(str(Path(sys.executable).with_name("rclone")), "serve", "s3", str(self.folder)),
            *("--addr", f"127.0.0.1:{self._port}", "--auth-key", f"{KEY},{SECRET}", "--config", os.devnull),
            *("--log-level", "ERROR"),
        ]
        self._process = process = processes.start(command, log=self.folder.with_suffix(".log"))
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=5).close()
            except ConnectionRefusedError:
                continue
            return
        raise AssertionError(self.folder.with_suffix(".log").read_text())

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP, until all its threads have stopped."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        threads = Path(f"/proc/{self._process.pid}/task")
        while not all(") T " in (thread / "stat").read_text() for thread in threads.iterdir()):
            os.sched_yield()

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def new_place(self) -> str:
        """`bucket/prefix`, with nothing below it."""
        return f"{_BUCKET}/{secrets.token_hex(6)}"

    def files(self, place: str) -> list[Path]:
        """The objects of a place, as the files they are kept in."""
        return sorted(path for path in (self.folder / place).rglob("*") if path.is_file())
