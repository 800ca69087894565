"""What the readers of all forms have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from common.errors import Fault, Invalid
from common.features.encoder import Matrix
from service.parsing.faults import refuse

_NAMES_SHOWN = 20
_LONGEST_NAME = 100


class Encoded(NamedTuple):
    """Some rows, as the network takes them."""

    first_row: int
    """How many rows there were before."""
    matrix: Matrix


PART: Final = 4 << 20
"""How many bytes are best given to a reader at once."""


class Reader(Protocol):
    """Reads a file that comes in parts, in memory that does not grow with it."""

    def take(self, data: bytes, *, at_end: bool) -> Iterator[Encoded]:
        """The rows that end in what has come so far.

        Raises:
            Invalid: with faults at `row 7, column age`.
            TooLarge: there are too many of them.

        """


def missing_columns(wanted: Sequence[str], found: Sequence[str], doubt: str = "") -> Invalid | None:
    """The error for a file that lacks columns; what else it has is passed over. `doubt`: what may be the cause."""
    there = set(found)
    message = f"is missing; the model needs {_listed(wanted)}; the file has {_listed(found)}{doubt}"
    faults = [Fault(f"column {_short(name)}", "missing_column", message) for name in wanted if name not in there]
    return refuse(faults) if faults else None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(_short, names[:_NAMES_SHOWN])) + (", …" if len(names) > _NAMES_SHOWN else "")


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"
