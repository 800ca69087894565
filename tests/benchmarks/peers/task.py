"""What a peer's script is told, and how it answers. Runs in every peer's environment: the standard library only.

A script is given its task as JSON in its only argument, and ends with one line of JSON on its output.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Goal:
    """Train until the test rows are known that well, at most so long."""

    accuracy: float
    epochs: int
    seconds: float
    dropout: float


@dataclass(frozen=True)
class Task:
    """A measurement: of rows per second, or with a goal, of the time to reach it.

    Attributes:
        folder: holds x.npy (float32) and y.npy (int64); few.csv, the first of these rows with the class first;
            with a goal also test_x.npy and test_y.npy.
        scratch: a folder of this measurement's own, with a short path.
        sizes: inputs, hidden layers' units, classes.
        batch: rows of a step, over all processes.
        threads: of each process.
        seconds: how long to measure, after a warm-up.

    """

    folder: str
    scratch: str
    sizes: tuple[int, ...]
    batch: int
    seed: int
    threads: int
    seconds: float
    goal: Goal | None = None

    def to_json(self) -> str:
        """As a script reads it."""
        return json.dumps(asdict(self))

    def file(self, name: str) -> Path:
        """A file of the rows."""
        return Path(self.folder) / name


def task_from_json(text: str) -> Task:
    """The opposite of `Task.to_json`."""
    fields = json.loads(text)
    goal = fields.pop("goal")
    fields["sizes"] = tuple(fields["sizes"])
    return Task(**fields, goal=Goal(**goal) if goal else None)


def read_task() -> Task:
    """The task in the script's argument."""
    return task_from_json(sys.argv[1])


def answer(figures: dict[str, Any]) -> None:
    """Prints the result."""
    sys.stdout.write(f"\n{json.dumps(figures)}\n")
    sys.stdout.flush()
