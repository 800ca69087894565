"""What a process of a run wrote before it died, for the operator: Ray says only that it did."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from common.processes import is_there, last_lines

log = logging.getLogger("chainrule.run")

_LINES = 30


class Witness:
    """Knows where processes of this machine write to, so that it can be read when they are gone.

    Args:
        pids: theirs.

    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._logs: dict[psutil.Process, Path] = {}
        for pid in pids:
            with suppress(psutil.NoSuchProcess, OSError):  # it has died already
                self._logs[psutil.Process(pid)] = Path(f"/proc/{pid}/fd/2").readlink()

    def tell(self) -> None:
        """Logs the end of what those wrote that have died."""
        for process, path in self._logs.items():
            if not is_there(process):
                log.warning("process %d has died; the end of its log:\n%s", process.pid, last_lines(path, _LINES))
