"""A contender that is a script in an environment of its own, started anew for every measurement."""

from __future__ import annotations

import json
import secrets
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import processes
from common.settings import STACK_VARIABLE
from tests.benchmarks.contender import Contender, Failed, Figures, NotAvailable, Say
from tests.benchmarks.environments import ROOT, Environment, python_of
from tests.benchmarks.peers.task import Goal, Task
from tests.benchmarks.shapes import Race, Rows

START_SECONDS = 180.0
"""For everything beside the measurement: start, reading, warm-up."""
WARM_UP_SECONDS = 10.0
"""Of a race: as long as a measurement of throughput warms up for."""


@dataclass(frozen=True, kw_only=True)
class Peer(Contender):
    """A script, run anew for every measurement.

    Attributes:
        module: the script, below `tests.benchmarks.peers`.
        environment: None is the project's own.
        threads_each: BLAS threads of each process.
        say: tells the person at the terminal.
        alone: called before a measurement; ends what else runs.
        patience: longest duration of a measurement, in those that it should last.
        variables: of its environment.

    """

    module: str
    environment: Environment | None
    threads_each: int
    say: Say
    alone: Callable[[], None]
    patience: float = 10.0
    variables: Mapping[str, str] = field(default_factory=dict)

    def install(self) -> None:
        """Makes its environment, which takes long, before anything is measured."""
        with suppress(NotAvailable):  # it says so again when it is to be measured
            python_of(self.environment, self.say)

    def throughput(self, rows: Rows, seed: int) -> Figures:
        shape = rows.shape
        return self._run(rows.folder, shape.sizes, shape.batch, seed, shape.seconds, shape.seconds * self.patience)

    def race(self, race: Race, seed: int) -> Figures:
        goal = Goal(race.accuracy, race.epochs, race.seconds, race.dropout)
        return self._run(race.folder, race.sizes, race.batch, seed, WARM_UP_SECONDS, 2 * race.seconds, goal)

    def _run(
        self,
        folder: Path,
        sizes: tuple[int, ...],
        batch: int,
        seed: int,
        seconds: float,
        limit: float,
        goal: Goal | None = None,
    ) -> Figures:
        python = python_of(self.environment, self.say)
        self.alone()
        # A short path: Ray makes sockets below it.
        with tempfile.TemporaryDirectory(prefix="b", dir="/tmp", ignore_cleanup_errors=True) as scratch:
            task = Task(str(folder), scratch, sizes, batch, seed, self.threads_each, seconds, goal)
            command = [str(python), "-P", "-m", f"tests.benchmarks.peers.{self.module}", task.to_json()]
            return run_script(command, Path(scratch), self._variables(), START_SECONDS + limit)

    def _variables(self) -> dict[str, str]:
        libraries = ("OMP", "OPENBLAS", "MKL")
        return {
            "PYTHONPATH": str(ROOT),
            **{f"{library}_NUM_THREADS": str(self.threads_each) for library in libraries},
            **self.variables,
        }


def run_script(command: list[str], scratch: Path, variables: Mapping[str, str], seconds: float) -> dict[str, Any]:
    """Runs a script to its end, and ends whatever it started; the JSON of its last line.

    Raises:
        Failed: it took too long, or failed; says the last line of its error output.

    """
    mark = secrets.token_hex(8)
    log = scratch / "errors.log"
    process = processes.start(
        command, log=log, environment={**variables, STACK_VARIABLE: mark}, folder=scratch, piped=True
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise Failed(f"took over {seconds:.0f} s") from None
    finally:
        if process.poll() is None:
            processes.kill_group(process)
        process.wait()
        processes.sweep(mark, scratch)
    if process.returncode:
        said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise Failed(said[-1] if said else f"ended with status {process.returncode}")
    try:
        return dict(json.loads(output.splitlines()[-1]))
    except (IndexError, ValueError):
        raise Failed("its last line is not the expected JSON") from None
