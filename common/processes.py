"""Child processes that end with their parent, and the sweep of what an earlier life left running."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

from common.settings import STACK_VARIABLE

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def start(
    command: Sequence[str],
    *,
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    pass_fds: Sequence[int] = (),
    piped: bool = False,
    niceness: int = 0,
) -> subprocess.Popen[str]:
    """Starts a child in a process group of its own, which gets SIGTERM when the calling process dies (on Linux).

    Its error output goes to `log`, its output too unless `piped`, when input and output are text pipes.
    Call it from the main thread: the kernel counts the end of the calling thread as the parent's death.
    """
    sink: IO[bytes] | int = log.open("ab") if log else subprocess.DEVNULL
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else sink,
            stderr=sink,
            env={**os.environ, **(environment or {})},
            cwd=folder,
            pass_fds=pass_fds,
            text=True,
            bufsize=1,
            start_new_session=True,
            preexec_fn=_tie_to(os.getpid(), niceness),
        )
    finally:
        if not isinstance(sink, int):
            sink.close()


def _tie_to(parent: int, niceness: int) -> Callable[[], None]:
    def prepare() -> None:  # between fork and exec: system calls only
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it died before the call above
                os._exit(1)
        if niceness:
            os.nice(niceness)

    return prepare


def stop(process: subprocess.Popen[str], seconds: float = 10.0) -> None:
    """Ends a child: SIGTERM, and SIGKILL to its whole group if it is still there after `seconds`."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            kill_group(process)
    process.wait()


def kill_group(process: subprocess.Popen[str]) -> None:
    """SIGKILL to a child and whatever it started in its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def sweep(stack: str) -> int:
    """Kills every process that carries this stack's mark in its environment, but for the caller; answers how many."""
    found = [process for process in psutil.process_iter() if process.pid != os.getpid() and _mark(process) == stack]
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(found, timeout=10)
    return len(found)


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(STACK_VARIABLE)
    except (psutil.Error, OSError):  # another user's, or gone
        return None


def last_lines(log: Path, count: int = 5) -> str:
    """The end of a log, for a message about why something did not start."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
    except OSError:
        return ""
