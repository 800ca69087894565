"""The structure of a CSV file, checked block by block: RFC 4180 in UTF-8, with LF or CRLF.

Almost all blocks are plain, which a few passes of NumPy over their bytes tell. Any other is walked through with
Python's csv module, which tells of every unequal row and stray quote.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from common.errors import Fault, TooLarge
from service.ingest import ParseLimits, ParseOptions
from service.parsing.faults import (
    MAX_CELL,
    MAX_FAULTS,
    MAX_LINE,
    name_faults,
    no_rows,
    refuse,
    refuse_compressed,
    too_many,
    too_many_columns,
)

BLOCK: Final = 8 << 20
BLOCK_PER_COLUMN: Final = 4 << 10
"""A block of a wide file is larger, since each of its columns costs some time."""
_LINE_FEED, _RETURN, _QUOTE, _ZERO = b'\n\r"0'


@dataclass(frozen=True, slots=True)
class Block:
    """Whole records, as bytes."""

    data: bytes
    rows: int
    plain: bool
    """Any reader of CSV will read it in the same way."""
    quoted: bool
    """There are quotes in it."""
    zeros: bool
    """There may be numbers that begin with a zero and another digit."""


class CsvStructure:
    """One pass over a CSV file, in constant memory.

    Attributes:
        names: of the columns, from the first record on.
        rows: counted so far.

    """

    def __init__(self, file: BinaryIO, options: ParseOptions, limits: ParseLimits) -> None:
        self.names: list[str] = []
        self.rows = 0
        self._file = file
        self._has_header = options.header
        self._delimiter = options.delimiter
        self._limits = limits
        self._proper = _proper_record(options.delimiter)
        self._faults: list[Fault] = []
        self._blank = 0  # lines since the last row
        self._at = 0

    def blocks(self) -> Iterator[Block]:
        """All rows but blank lines at the end.

        Raises:
            Invalid: with its faults, for what a reader would mend in silence or read in another way.
            TooLarge: there are too many rows or cells.

        """
        yield from self._begin()
        size = max(BLOCK, BLOCK_PER_COLUMN * len(self.names))
        while True:
            self._file.seek(self._at)
            data = self._file.read(size)
            if not data:
                break
            yield from self._next(data, at_end=len(data) < size)
        if self._faults:
            raise refuse(self._faults)
        if self.rows == 0:
            raise no_rows("there is no row of data")

    def _begin(self) -> Iterator[Block]:
        """The first record, which is a row where there is no header."""
        csv.field_size_limit(MAX_CELL)
        head = self._file.read(3)
        if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise refuse([Fault("row 1", "not_utf8", "the file is UTF-16; save it as UTF-8")])
        refuse_compressed(head)
        self._at = 3 if head == b"\xef\xbb\xbf" else 0
        yield from self._walk(self._at, self._at + 1)

    def _next(self, data: bytes, *, at_end: bool) -> Iterator[Block]:
        text = data + b"\n" if at_end and not data.endswith(b"\n") else data
        end, rows, zeros = _layout(text, ord(self._delimiter), len(self.names), at_end=at_end)
        if rows and not self._blank and not self._faults:
            self._grow(rows)
            block = text[:end]
            yield Block(block, rows, plain=True, quoted=b'"' in block, zeros=zeros)
            self._at += min(end, len(data))
        else:
            yield from self._walk(self._at, self._at + min(end or len(data), len(data)))

    def _walk(self, start: int, end: int) -> Iterator[Block]:
        """Goes from record to record until one ends at `end` or behind it."""
        lines = _Lines(self._file, start)
        records = csv.reader(lines, delimiter=self._delimiter, strict=True)
        counted, pending, last = self.rows, self._blank, start
        try:
            while lines.offset < end:
                cells = next(records, None)
                if not self.names:
                    is_row = self._first_record(cells, lines)
                elif cells is None:
                    break
                else:
                    self._check_text(cells, lines)
                    is_row = self._count(cells)
                if is_row:
                    last = lines.offset
                if len(self._faults) >= MAX_FAULTS:
                    break
        except csv.Error as error:
            raise refuse([*self._faults, Fault(self._where, *_explain(str(error)))]) from None
        if len(self._faults) >= MAX_FAULTS:
            raise refuse(self._faults)
        self._at = lines.offset
        if self.rows > counted and not self._faults:
            self._file.seek(start)
            data = b"\n" * pending + self._file.read(last - start)
            yield Block(data, self.rows - counted, plain=False, quoted=True, zeros=True)

    @property
    def _where(self) -> str:
        """The record that is being read."""
        return f"row {self.rows + self._blank + 1}" if self.names or not self._has_header else "header"

    def _first_record(self, first: list[str] | None, lines: _Lines) -> bool:
        """Takes the names from it, or makes some; whether it is a row."""
        if first is None:
            raise refuse([Fault(self._where, "empty_file", "the file is empty")])
        if len(first) > self._limits.max_columns:
            raise too_many_columns(self._where, len(first), self._limits)
        self._check_text(first, lines)
        if not self._has_header:
            self.names = [f"c{place}" for place in range(max(1, len(first)))]
            return self._count(first)
        names = [name.strip() for name in first] or [""]
        if faults := self._faults or name_faults(names):
            raise refuse(faults)
        self.names = names
        return False

    def _count(self, cells: list[str]) -> bool:
        """Counts a record; whether it is a row, as a blank line may be none."""
        if not cells:
            self._blank += 1
            return False
        width = len(self.names)
        if self._blank and width > 1:
            self._faults.append(Fault(f"row {self.rows + 1}", "ragged_row", "a blank line"))
        if len(cells) != width:
            message = f"{len(cells):,} cells where there are {width:,} columns"
            self._faults.append(Fault(self._where, "ragged_row", message))
        self._grow(self._blank + 1)
        self._blank = 0
        return True

    def _grow(self, rows: int) -> None:
        self.rows += rows
        if self.rows > self._limits.max_rows or self.rows * len(self.names) > self._limits.max_cells:
            raise TooLarge(too_many(self._limits))

    def _check_text(self, cells: list[str], lines: _Lines) -> None:
        """Check the characters of a record that was just read, and how its quotes stand."""
        if lines.unusual:
            self._faults += self._bad_characters(cells)
            if any('"' in cell for cell in cells) and not self._proper.fullmatch("".join(lines.record)):
                message = 'a quote inside an unquoted cell; put the cell in quotes and write the quote as ""'
                self._faults.append(Fault(self._where, "stray_quote", message))
            lines.unusual = False
        lines.record.clear()

    def _bad_characters(self, cells: list[str]) -> list[Fault]:
        for place, cell in enumerate(cells):
            where = f"{self._where}, column {self.names[place] if place < len(self.names) else place + 1}"
            if "\0" in cell:
                return [Fault(where, "nul_character", "a NUL character; is this a text file in UTF-8?")]
            if not _is_utf8(cell):
                return [Fault(where, "not_utf8", "bytes that are not UTF-8; save the file as UTF-8")]
        return []


class _Lines(Iterator[str]):
    """The lines of a file from `offset` on as text; what is no UTF-8 becomes lone surrogates."""

    def __init__(self, file: BinaryIO, offset: int) -> None:
        file.seek(offset)
        self._file = file
        self.offset = offset
        """Where the next line begins."""
        self.record: list[str] = []
        """The lines of the record that is being read; who reads clears it."""
        self.unusual = False
        """Whether one of them holds a quote, a NUL, or bytes that are no UTF-8; who reads clears it."""

    def __next__(self) -> str:
        raw = self._file.readline(MAX_LINE + 1)
        if not raw:
            raise StopIteration
        if len(raw) > MAX_LINE:
            raise csv.Error("line too long")
        self.offset += len(raw)
        line = raw.decode("utf-8", "surrogateescape")
        if '"' in line or "\0" in line or not _is_utf8(line):
            self.unusual = True
        self.record.append(line)
        return line


def _layout(data: bytes, delimiter: int, width: int, *, at_end: bool) -> tuple[int, int, bool]:
    """Where the last whole record of a block ends, how many rows there are, and whether a cell begins as 007 does.

    No rows where they must be walked through.
    """
    codes = np.frombuffer(data, np.uint8)
    line_ends, delimiters = codes == _LINE_FEED, codes == delimiter
    if quoted := b'"' in data:
        outside = np.add.accumulate(codes == _QUOTE, dtype=np.uint8) & 1 == 0
        line_ends &= outside
        delimiters &= outside
    ends = np.flatnonzero(line_ends)
    end = int(ends[-1]) + 1 if ends.size else 0
    if at_end and end < len(data):
        return len(data), 0, True  # a quote is not closed
    block = data[:end]
    if not end or b"\0" in block or block.count(b"\r") != block.count(b"\r\n") or not _is_utf8_bytes(block):
        return end, 0, True
    starts = np.concatenate(([-1], ends[:-1]))
    places = np.flatnonzero(delimiters[:end])
    lengths = ends - starts
    if lengths.max() > MAX_CELL or places.size != ends.size * (width - 1):
        return end, 0, True
    if width > 1:
        inner = places.reshape(ends.size, width - 1)
        even = bool((inner[:, 0] > starts).all() and (inner[:, -1] < ends).all())
    else:
        even = not ((lengths == 1) | (lengths == 2) & (codes[ends - 1] == _RETURN)).any()
    if not even or (quoted and not _is_well_quoted(codes[:end], delimiter)):
        return end, 0, True
    return end, ends.size, b'"0' in block or _has_leading_zeros(codes[:end], starts, places)


def _has_leading_zeros(codes: NDArray[np.uint8], *before: NDArray[np.int64]) -> bool:
    """Whether a zero and another digit follow on one of these places."""
    for places in before:
        zeros = places[codes[places + 1] == _ZERO] + 2
        following = codes[zeros[zeros < codes.size]]
        if ((following >= _ZERO) & (following < _ZERO + 10)).any():
            return True
    return False


def _is_well_quoted(codes: NDArray[np.uint8], delimiter: int) -> bool:
    """Whether every quote opens or closes a cell, or stands doubled inside of one; lines end in line feeds."""
    quotes = np.flatnonzero(codes == _QUOTE)
    opening, closing = quotes[0::2], quotes[1::2]
    before = codes[opening[opening > 0] - 1]
    after = codes[closing + 1]
    may_open = (before == delimiter) | (before == _LINE_FEED) | (before == _QUOTE)
    may_close = (after == delimiter) | (after == _LINE_FEED) | (after == _RETURN) | (after == _QUOTE)
    return bool(may_open.all() and may_close.all())


def _is_utf8(text: str) -> bool:
    return text.isascii() or not re.search("[\ud800-\udfff]", text)


def _is_utf8_bytes(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _proper_record(delimiter: str) -> re.Pattern[str]:
    """A record whose cells hold quotes only as RFC 4180 has them."""
    mark = re.escape(delimiter)
    cell = rf'(?:"[^"]*(?:""[^"]*)*"|[^"{mark}\r\n]*)'
    return re.compile(rf"{cell}(?:{mark}{cell})*[\r\n]*")


def _explain(problem: str) -> tuple[str, str]:
    """The stable code and the message for an error of the csv module."""
    if "unexpected end of data" in problem:
        return "unclosed_quote", "a quote that is opened and never closed"
    if "field larger" in problem:
        return "cell_too_long", f"a cell of more than {MAX_CELL:,} characters; is a quote not closed?"
    if "expected after" in problem:
        return "stray_quote", 'text after a closing quote; inside a quoted cell a quote is written as ""'
    if "new-line" in problem:
        return "stray_carriage_return", "a lone carriage return; lines end in LF or CRLF"
    if "line too long" in problem:
        return "line_too_long", f"a line of more than {MAX_LINE:,} bytes"
    return "malformed_csv", "this row is not CSV"
