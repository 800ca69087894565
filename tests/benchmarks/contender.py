"""What every contender can do: be measured, or say why not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.shapes import Race, Rows

Say = Callable[[str], None]
"""Tells the person at the terminal."""
Figures = dict[str, Any]
"""What was found. Of a throughput: rows_per_second, and for Chainrule outside_rows_per_second. Of a race: seconds,
epochs, test_accuracy. Of either: note, versions, blas where there is something to say."""


class NotAvailable(Exception):
    """The contender cannot take part; it need not be asked again."""


class Failed(Exception):
    """A measurement went wrong; the next one may not."""


@dataclass(frozen=True, kw_only=True)
class Contender(ABC):
    """Somebody who trains.

    Attributes:
        name: as `--contenders` names it.
        title: as the report names it.
        threads: processes x BLAS threads of each.
        races: whether it takes part in the race to an accuracy.
        rounds: in how many rounds of a throughput it takes part; None: all.

    """

    name: str
    title: str
    threads: str
    races: bool = False
    rounds: int | None = None

    @abstractmethod
    def throughput(self, rows: Rows, seed: int) -> Figures:
        """Rows per second.

        Raises:
            NotAvailable: it cannot take part.
            Failed: this measurement went wrong.

        """

    @abstractmethod
    def race(self, race: Race, seed: int) -> Figures:
        """The seconds until it knows the test rows well enough, or had to give up. Raises as `throughput` does."""
