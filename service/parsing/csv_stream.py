"""CSV that comes piece by piece, as from a caller who is still sending it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Final

import numpy as np

from common.errors import Fault, Invalid
from service.ingest import ParseLimits, ParseOptions
from service.parsing.csv_structure import Block, CsvStructure
from service.parsing.faults import no_rows, refuse

MAX_RECORD: Final = 16 << 20
_LINE_FEED, _QUOTE = b'\n"'


class CsvStream(CsvStructure):
    """The structure of a file of which no more than some blocks are in memory, and none is read twice."""

    def __init__(self, options: ParseOptions, limits: ParseLimits) -> None:
        super().__init__(io.BytesIO(), options, limits)
        self._rest = b""

    def take(self, data: bytes, *, at_end: bool) -> Iterator[Block]:
        """The rows that end in what has come so far; what follows the last of them is kept.

        Raises:
            Invalid, TooLarge: as `blocks` does, as soon as a fault is seen.

        """
        data = self._rest + data if self._rest else data
        end = len(data) if at_end else _end_of_records(data)
        self._rest = data[end:]
        if end:
            yield from self._records(data[:end])
        elif len(data) > MAX_RECORD:
            raise self._too_long(data)
        if at_end and self.rows == 0:
            raise no_rows("there is no row of data")

    def _records(self, data: bytes) -> Iterator[Block]:
        """The rows of whole records."""
        self._file, self._at = io.BytesIO(data), 0
        if not self.names:
            yield from self._begin()
        while self._at < len(data):
            yield from self._next(data[self._at :] if self._at else data, at_end=True)
        if self._faults:
            raise refuse(self._faults)

    def _too_long(self, data: bytes) -> Invalid:
        """What is wrong with a record of which the end has not been seen: mostly it is a quote."""
        where = f"row {self.rows + 1}"
        try:
            for _ in self._records(data):
                pass
        except Invalid as error:
            if found := [fault for fault in error.faults if fault.code != "ragged_row"]:
                return refuse(found[:1])
        return refuse([Fault(where, "line_too_long", f"a row of more than {MAX_RECORD:,} bytes")])


def _end_of_records(data: bytes) -> int:
    """Where the last whole record ends; 0 if none does. `data` begins with a record."""
    if b'"' not in data:
        return data.rfind(b"\n") + 1
    codes = np.frombuffer(data, np.uint8)
    inside = np.add.accumulate(codes == _QUOTE, dtype=np.uint8) & 1
    ends = np.flatnonzero((codes == _LINE_FEED) & (inside == 0))
    return int(ends[-1]) + 1 if ends.size else 0
