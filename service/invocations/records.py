"""Rows as Python values, whatever is wrong with them told where their form has it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import Fault, Invalid, TooLarge, pointer_part
from common.features.columns import Column
from common.features.records import RecordReader
from service import problems
from service.batches import Rows

_OWN_PLACE = re.compile(r"/instances(?:/(?P<row>\d+)(?:/(?P<column>.*))?)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Records:
    """Rows as `RecordReader` takes them, and how to say where they stand."""

    rows: Sequence[object]
    whole: str
    """Where they stand together."""
    of_row: Callable[[int], str]
    of_cell: Callable[[int, str], str]
    """By row, and the name of a column as a part of a pointer."""

    def read(self, columns: Sequence[Column], most_rows: int) -> RecordRows:
        """The rows for a model with these columns.

        Raises:
            Invalid: with every fault, 100 at most.
            TooLarge: there are more than `most_rows`.

        """
        if len(self.rows) > most_rows:
            raise TooLarge(f"At most {most_rows} rows are predicted at once.")
        try:
            return RecordRows(self, RecordReader(columns).read(self.rows))
        except Invalid as error:
            raise problems.invalid([self._moved(fault) for fault in error.faults]) from None

    def _moved(self, fault: Fault) -> Fault:
        found = _OWN_PLACE.fullmatch(fault.pointer)
        if found is None or found["row"] is None:
            return Fault(self.whole, fault.code, fault.message)
        row, column = int(found["row"]), found["column"]
        pointer = self.of_row(row) if column is None else self.of_cell(row, column)
        return Fault(pointer, fault.code, fault.message)


class RecordRows(Rows):
    """Records that were read."""

    def __init__(self, records: Records, cells: NDArray[np.float64]) -> None:
        self.count = len(cells)
        self._records = records
        self._cells = cells

    def cells(self, start: int, stop: int) -> NDArray[Any]:
        """A view."""
        return self._cells[start:stop]

    def place(self, row: int, name: str) -> str:
        """As the form of the request has it."""
        return self._records.of_cell(row, pointer_part(name))

    def place_of_row(self, row: int) -> str:
        """The same."""
        return self._records.of_row(row)


def records_at(pointer: str, rows: Sequence[object]) -> Records:
    """Rows that stand in an array there, each an object or an array in the order of the inputs."""
    return Records(rows, pointer, lambda row: f"{pointer}/{row}", lambda row, column: f"{pointer}/{row}/{column}")
