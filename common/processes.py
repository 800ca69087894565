"""Child processes that end with their parent, and the sweep of what an earlier life left running."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

from common.settings import STACK_VARIABLE

ONE_BLAS_THREAD: Mapping[str, str] = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""For the environment of a process: parallelism comes from several of them, and more threads than processors wait."""
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
    shared_output: bool = False,
    niceness: int = 0,
) -> subprocess.Popen[str]:
    """Starts a child in a process group of its own, which gets SIGTERM when the calling process dies (on Linux).

    Its error output goes to `log`, its output too unless `piped`, when input and output are text pipes; with
    `shared_output` they are those of the caller.
    Call it from the main thread: the kernel counts the end of the calling thread as the parent's death.
    """
    sink: IO[bytes] | int | None = log.open("ab") if log else None if shared_output else subprocess.DEVNULL
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
        if sink is not None and not isinstance(sink, int):
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


def die_with_parent() -> None:
    """Has the kernel kill the calling process when the thread that started it ends (on Linux)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


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


def sweep(stack: str, folder: Path | None) -> int:
    """Kills every process of a stack but the caller, and waits until they are gone; answers how many there were.

    A process belongs to it that carries the stack's mark in its environment or works in its `folder`: some of Ray's
    write their title over their environment.
    """
    found = [
        process for process in psutil.process_iter() if process.pid != os.getpid() and _is_of(process, stack, folder)
    ]
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = time.monotonic() + _GONE_SECONDS
    while any(is_there(process) for process in found) and time.monotonic() < deadline:
        time.sleep(0.01)
    return len(found)


_GONE_SECONDS = 10.0


def _is_of(process: psutil.Process, stack: str, folder: Path | None) -> bool:
    try:
        if process.environ().get(STACK_VARIABLE) == stack:
            return True
        return folder is not None and f"{process.cwd()}/".startswith(f"{folder}/")
    except (psutil.Error, OSError):  # another user's, or gone
        return False


def is_there(process: psutil.Process) -> bool:
    """Whether it still runs; what is dead and waits for its parent to notice does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def last_lines(log: Path, count: int = 5) -> str:
    """The end of a log, for a message about why something did not start."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
    except OSError:
        return ""
