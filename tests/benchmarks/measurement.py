"""Measurements: taken in turn, noted with what went wrong, and summed up."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console

from tests.benchmarks.contender import Contender, Figures, NotAvailable


@dataclass(frozen=True)
class Measurement:
    """One contender, once.

    Attributes:
        subject: the shape, or the race.
        round: from 1; the seed, too.
        figures: None if there are none; then `error` says why.
        load: of the machine over the last minute, as it began.

    """

    subject: str
    contender: str
    round: int
    figures: Figures | None
    error: str | None
    load: float

    def to_json(self) -> dict[str, Any]:
        """For the file."""
        return asdict(self)


@dataclass
class Recorder:
    """Takes measurements; a contender that fails does not end the others.

    Attributes:
        console: of the person at the terminal.
        expected: how many measurements there will be at most.
        keep: called after each, with all of them.

    """

    console: Console
    expected: int
    keep: Callable[[], None]
    measurements: list[Measurement] = field(default_factory=list)
    _missing: dict[tuple[str, str], str] = field(default_factory=dict)

    def take(
        self, subject: str, contender: Contender, round_number: int, measure: Callable[[], Figures], tell: str
    ) -> None:
        """Takes one, unless the contender has said that it cannot take part; `tell` formats what was found."""
        if (subject, contender.name) in self._missing:
            self.expected -= 1
            return
        load = os.getloadavg()[0]
        figures: Figures | None = None
        error: str | None = None
        with self.console.status(f"{subject}, round {round_number}: {contender.title} …"):
            try:
                figures = measure()
            except NotAvailable as reason:
                error = self._missing[subject, contender.name] = f"not available: {reason}"
            except Exception as reason:  # whatever it is, the others go on
                error = f"failed: {str(reason).strip().splitlines()[-1] if str(reason).strip() else repr(reason)}"
        self.measurements.append(Measurement(subject, contender.name, round_number, figures, error, load))
        said = tell.format(**figures) if figures is not None else error
        progress = f"{len(self.measurements)}/{self.expected}"
        self.console.print(
            f"[{progress}] {subject}, round {round_number}: {contender.title}: {said}", markup=False, soft_wrap=True
        )
        self.keep()


@dataclass(frozen=True)
class Spread:
    """Figures of several rounds."""

    median: float
    least: float
    most: float
    count: int


def spread(values: Iterable[float]) -> Spread | None:
    """None when there are none."""
    found = list(values)
    return Spread(statistics.median(found), min(found), max(found), len(found)) if found else None


def errors_of(measurements: Sequence[Measurement]) -> str:
    """What went wrong in a contender's measurements, in a line."""
    errors = [measurement.error for measurement in measurements if measurement.error]
    if not errors:
        return ""
    if len(errors) == len(measurements):
        return errors[-1]
    return f"{len(errors)} of {len(measurements)} {errors[-1]}"


def notes_of(measurements: Sequence[Measurement]) -> str:
    """What contenders said about themselves, each thing once."""
    notes = [m.figures["note"] for m in measurements if m.figures and m.figures.get("note")]
    return ", ".join(dict.fromkeys(notes))
