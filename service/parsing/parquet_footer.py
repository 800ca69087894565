"""The footer of a Parquet file, as far as it tells how much the file holds before anything of it is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.errors import Fault
from service.parsing.faults import not_readable, refuse, refuse_compressed

MAX_FOOTER: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Footer:
    """The counts in the footer of a Parquet file."""

    columns: int
    rows: int
    row_groups: int


def read_footer(source: Path) -> Footer:
    """Read the counts without decoding anything else; raises `Invalid` where there is no such footer."""
    size = source.stat().st_size
    with source.open("rb") as file:
        head = file.read(4)
        refuse_compressed(head)
        if head == b"PARE":
            raise refuse([Fault("file", "encrypted", "the Parquet file is encrypted")])
        if size < 12 or head != b"PAR1":
            raise not_readable("Parquet")
        file.seek(size - 8)
        length = int.from_bytes(file.read(4), "little")
        if file.read(4) != b"PAR1" or length > min(size - 12, MAX_FOOTER):
            raise not_readable("Parquet")
        file.seek(size - 8 - length)
        footer = file.read(length)
    try:
        return _Thrift(footer).file_metadata()
    except (IndexError, ValueError, RecursionError):
        raise not_readable("Parquet") from None


class _Thrift:
    """As much of Thrift's compact protocol as leads to the counts of Parquet's FileMetaData."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def file_metadata(self) -> Footer:
        """Fields 2 (schema, whose first element is the root), 3 (rows) and the length of 4 (row groups)."""
        columns = rows = None
        for field, kind in self._fields():
            if field == 4:
                if columns is None or rows is None:
                    break
                return Footer(columns, rows, self._list()[0])
            if field == 2:
                length, inner = self._list()
                columns = length - 1
                for _ in range(length):
                    self._skip(inner)
            elif field == 3:
                rows = self._signed()
            else:
                self._skip(kind)
        raise ValueError("no schema, rows or row groups")

    def _fields(self) -> Iterator[tuple[int, int]]:
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._signed()
            yield field, head & 15

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128 or shift > 63:
                return value

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)

    def _list(self) -> tuple[int, int]:
        head = self._byte()
        length = self._unsigned() if head >> 4 == 15 else head >> 4
        if length > len(self._data) - self._at:  # an element takes a byte at least
            raise ValueError("a list longer than the file")
        return length, head & 15

    def _skip(self, kind: int) -> None:
        """Step over a value: 1, 2 boolean; 3 byte; 4-6 integer; 7 double; 8 bytes; 9, 10 list; 12 struct."""
        if kind == 3:
            self._at += 1
        elif kind in (4, 5, 6):
            self._unsigned()
        elif kind == 7:
            self._at += 8
        elif kind == 8:
            length = self._unsigned()
            self._at += length
        elif kind in (9, 10):
            length, inner = self._list()
            for _ in range(length):
                self._skip(inner if inner > 2 else 3)
        elif kind == 12:
            for _, inner in self._fields():
                self._skip(inner)
        elif kind not in (1, 2):
            raise ValueError("unexpected type")
