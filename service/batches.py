"""Many rows through a network, some at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import Any

from numpy.typing import NDArray

from common.learned import LearnedNetwork, refuse_infinite
from common.network.parameters import Floats

_CELLS = 1 << 19
"""Most that are encoded at a time, so that they stay in the processor's cache on their way through the network."""
_ROWS = 1024
"""Most that are predicted at a time: a layer may be much wider than the inputs."""


class Rows(ABC):
    """Rows to predict, as cells, and where they stand in a request."""

    count: int

    @abstractmethod
    def cells(self, start: int, stop: int) -> NDArray[Any]:
        """The rows `start` … `stop` - 1, shape (rows, columns), as `FeatureEncoder.encode_cells` takes them.

        Raises:
            Invalid: with the cells that are wrong.

        """

    @abstractmethod
    def place(self, row: int, name: str) -> str:
        """Where the cell of a column stands."""

    @abstractmethod
    def place_of_row(self, row: int) -> str:
        """Where a row stands."""


def predict(network: LearnedNetwork, rows: Rows) -> Iterator[Floats]:
    """What the network answers to some rows after the other; see `LearnedNetwork.answers`.

    Raises:
        Invalid: a cell cannot be taken, or an answer is no finite number (`non_finite_output`).

    """
    encoder, step = network.encoder, rows_at_once(network)
    for start in range(0, rows.count, step):
        cells = rows.cells(start, min(start + step, rows.count))
        answers = network.answers(encoder.encode_cells(cells, partial(_place, rows, start)))
        refuse_infinite(answers, partial(_place_of_row, rows, start))
        yield answers


def rows_at_once(network: LearnedNetwork) -> int:
    """How many rows are worked off together."""
    return max(1, min(_ROWS, _CELLS // max(network.encoder.width, len(network.encoder.columns))))


def _place_of_row(rows: Rows, start: int, row: int) -> str:
    return rows.place_of_row(start + row)


def _place(rows: Rows, start: int, row: int, name: str) -> str:
    return rows.place(start + row, name)
