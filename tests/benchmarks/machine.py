"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.environments import ROOT
from tests.benchmarks.measurement import Measurement
from tests.benchmarks.report import Sheet

OURS = ("numpy", "ray")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_CORETYPE")


def describe(measurements: Sequence[Measurement]) -> dict[str, Any]:
    """The machine, the versions, and what contenders say of their libraries."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in OURS}}
    blas: dict[str, str] = {}
    for measurement in measurements:
        figures = measurement.figures or {}
        versions |= figures.get("versions", {})
        if figures.get("blas"):
            blas[measurement.contender] = figures["blas"]
    loads = [measurement.load for measurement in measurements]
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "versions": versions,
        "blas": blas,
        "environment": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        "highest_load_before_a_measurement": max(loads, default=0.0),
    }


def sheet(machine: dict[str, Any]) -> Sheet:
    """The same as a table."""
    lines = [(name.replace("_", " "), _text(value)) for name, value in machine.items() if value]
    return Sheet("Machine", ("", "value"), lines)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
