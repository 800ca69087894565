"""The load generator: wrk, one thread, with as many connections as asked for, each with one request at a time."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.contender import Failed

SCRIPT = Path(__file__).parent / "load.lua"
HOW_TO_INSTALL = "apt-get install wrk"
_MICROSECONDS = 1e6
_SPARE_SECONDS = 30.0
_LATE_SECONDS = 30
"""From here on an answer is an error, and its time is not counted; by itself wrk says 2."""


@dataclass(frozen=True)
class Bodies:
    """What is posted, in turn."""

    content_type: str
    file: Path
    """A body on every line."""


@dataclass(frozen=True)
class Load:
    """What a server did under load.

    Attributes:
        answers: of any status.
        requests_per_second: that were answered, and not with an error.
        p50, p99: seconds until the answer was there, in half of the cases and in 99 of 100.
        errors: answers with a status above 399, connections that broke, answers that came too late.

    """

    answers: int
    requests_per_second: float
    p50: float
    p99: float
    errors: int


def is_installed() -> bool:
    """Whether there is a load generator."""
    return shutil.which("wrk") is not None


def load(url: str, bodies: Bodies | None, connections: int, seconds: int) -> Load:
    """Asks as fast as it is answered; without `bodies`, with GET.

    Raises:
        Failed: it did not work.

    """
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
    command += ["--timeout", f"{_LATE_SECONDS}s", "--script", str(SCRIPT), url]
    if bodies is not None:
        command += ["--", bodies.content_type, str(bodies.file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + _SPARE_SECONDS)
    except subprocess.TimeoutExpired:
        raise Failed("wrk did not end") from None
    if done.returncode:
        raise Failed(f"wrk: {done.stderr.strip() or done.stdout.strip()}")
    return load_from(done.stdout)


def load_from(output: str) -> Load:
    """What wrk, run with the script, says in its last line.

    Raises:
        Failed: it says something else, or that nothing was answered.

    """
    try:
        said = json.loads(output.splitlines()[-1])
        good = said["requests"] - said["refused"]
        rate = good / (said["duration"] / _MICROSECONDS)
        p50, p99 = said["p50"] / _MICROSECONDS, said["p99"] / _MICROSECONDS
        found = Load(said["requests"], rate, p50, p99, said["refused"] + said["broken"])
    except (ArithmeticError, LookupError, TypeError, ValueError):
        raise Failed("wrk did not say what it found") from None
    if not good:
        raise Failed(f"no request was answered well; {found.errors:,} errors")
    return found
