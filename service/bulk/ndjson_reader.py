"""Rows of NDJSON as a network takes them: each line an instance, as in a JSON body."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NoReturn

from common.errors import Fault, Invalid, TooLarge, Unreadable
from common.learned import LearnedNetwork
from common.prediction_table import table_height
from service import strict_json
from service.bulk.reader import Encoded
from service.ingest import ParseLimits
from service.parsing.faults import MAX_FAULTS, no_rows, refuse, too_many
from service.parsing.json_rows import BATCH_ROWS, check_start, without_place

MAX_LINE: Final = 16 << 20
_POINTER = re.compile(r"/instances/(\d+)(?:/(.*))?", re.DOTALL)


class NdjsonReader:
    """Reads objects by column name, or arrays in the order of the model's inputs, one in a line."""

    def __init__(self, network: LearnedNetwork, limits: ParseLimits) -> None:
        self._encoder = network.encoder
        self._names = [column.name for column in network.encoder.columns]
        self._wanted = set(self._names)
        self._limits = limits
        self._batch = min(BATCH_ROWS, table_height(network))
        self._rest = b""
        self._rows = 0
        self._blank = False
        self._began = False

    def take(self, data: bytes, *, at_end: bool) -> Iterator[Encoded]:
        """The rows that end in what has come so far; see `Reader`."""
        data = self._begin(data)
        data = self._rest + data if self._rest else data
        end = len(data) if at_end else data.rfind(b"\n") + 1
        self._rest = data[end:]
        if len(self._rest) > MAX_LINE:
            self._refuse_long(self._rows + data.count(b"\n"))
        lines = data[:end].split(b"\n")
        if not lines[-1]:
            lines.pop()
        for start in range(0, len(lines), self._batch):
            yield from self._encoded(lines[start : start + self._batch])
        if at_end and self._rows == 0:
            raise no_rows("there is no row")

    def _begin(self, data: bytes) -> bytes:
        """What has come, without a mark at the start of the file."""
        if self._began:
            return data
        self._began = True
        check_start(data[:4])
        return data.removeprefix(b"\xef\xbb\xbf")

    def _encoded(self, lines: list[bytes]) -> Iterator[Encoded]:
        instances, faults = self._instances(lines)
        if instances and not faults:
            try:
                yield Encoded(self._rows, self._encoder.encode_records(instances))
            except Invalid as error:
                faults = [_by_row(fault, self._rows) for fault in error.faults]
        if faults:
            raise refuse(faults)
        self._rows += len(instances)
        if self._rows > self._limits.max_rows or self._rows * len(self._names) > self._limits.max_cells:
            raise TooLarge(too_many(self._limits))

    def _instances(self, lines: list[bytes]) -> tuple[list[object], list[Fault]]:
        """What the lines hold, without columns that are no inputs; blank ones at the end of the file do not count."""
        instances: list[object] = []
        faults: list[Fault] = []
        for line in lines:
            row = self._rows + len(instances) + 1
            if len(line) > MAX_LINE:
                self._refuse_long(row - 1)
            if not line.strip():
                self._blank = True
                continue
            if self._blank:
                raise refuse([*faults, Fault(f"row {row}", "ragged_row", "a blank line")])
            try:
                instances.append(self._instance(strict_json.parse(line)))
            except Unreadable as error:
                instances.append(None)
                faults.append(Fault(f"row {row}", error.stable_code, without_place(error.message)))
            if len(faults) >= MAX_FAULTS:
                break
        return instances, faults

    def _instance(self, document: object) -> object:
        """An object without what is no input."""
        if isinstance(document, dict) and len(document) > len(self._names) and self._wanted <= document.keys():
            return {name: document[name] for name in self._names}
        return document

    def _refuse_long(self, rows: int) -> NoReturn:
        message = f"a line of more than {MAX_LINE:,} bytes"
        raise refuse([Fault(f"row {rows + 1}", "line_too_long", message)])


def _by_row(fault: Fault, rows: int) -> Fault:
    """A fault of an instance, told by row and column."""
    found = _POINTER.fullmatch(fault.pointer)
    if found is None:
        return fault
    index, name = found.groups()
    where = f"row {rows + int(index) + 1}"
    if name:
        where += f", column {name.replace('~1', '/').replace('~0', '~')}"
    return Fault(where, fault.code, fault.message)
