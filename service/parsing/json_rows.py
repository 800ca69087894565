"""Rows as JSON objects: NDJSON, one in a line, or a document `{"name": …, "rows": [{…}]}`.

JSON is strict, as everywhere in this API. Its types stay: a column is of numbers, booleans or texts, and texts
are kept to the last space; where they are mixed it becomes one of texts, of which a warning tells. The columns
are the keys of all rows, in the order of their appearance; a key that a row lacks is a missing value, as null is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import polars as pl
from pydantic_core import PydanticCustomError

from common.errors import Fault, Invalid, TooLarge, Unreadable, pointer_part
from common.schemas.datasets import ColumnKind
from common.schemas.training import clean_name
from service import strict_json
from service.ingest import ParseLimits, ParseOptions
from service.parsing.canonical import sink_all
from service.parsing.faults import (
    MAX_CELL,
    MAX_FAULTS,
    MAX_LINE,
    name_faults,
    no_rows,
    not_finite,
    refuse,
    refuse_compressed,
    too_many,
    too_many_columns,
)
from service.parsing.kinds import ROUNDED

BATCH_BYTES: Final = 8 << 20
BATCH_ROWS: Final = 20_000
MAX_TITLE: Final = 200
ROWS_SHOWN: Final = 3
_LARGEST: Final = 2**63

Kind = Literal["integer", "float", "boolean", "text", "mixed"]
Row = dict[str, object]

_KINDS: Final[dict[type, Kind]] = {bool: "boolean", int: "integer", float: "float", str: "text"}
_WORDS: Final[dict[Kind, str]] = {"integer": "numbers", "float": "numbers", "boolean": "booleans", "text": "texts"}
_STORED: Final[dict[Kind, pl.DataType]] = {
    "integer": pl.Int64(),
    "float": pl.Float64(),
    "boolean": pl.Boolean(),
    "text": pl.String(),
    "mixed": pl.String(),
}


@dataclass(slots=True)
class _Column:
    """What is known of a key so far."""

    name: str
    kind: Kind | None = None
    first: str = ""
    """What its first value was, in a word."""
    others: dict[str, None] = field(default_factory=dict)
    """What else there was, in the order of appearance."""
    rows: list[int] = field(default_factory=list)
    """The first rows of something else."""
    infinite: int = 0
    present: int = 0
    rounded: int = 0
    first_rounded: int = 0

    def begin(self) -> None:
        """Counts from the first row again; the kind stays."""
        self.others, self.rows = {}, []
        self.infinite = self.present = self.rounded = self.first_rounded = 0

    def learn(self, values: Sequence[object], row: int) -> None:
        """More values, `row` of them known already."""
        types = set(map(type, values)) - {type(None)}
        if int in types and any(type(value) is int and not -_LARGEST <= value < _LARGEST for value in values):
            types = (types - {int}) | {float}
        words = {_WORDS[_KINDS[kind]] for kind in types}
        if not words:
            return
        if not self.first:
            self.first = _word(next(value for value in values if value is not None))
        if words != {self.first}:
            self.kind = "mixed"
        if self.kind == "mixed":
            self._note(values, row)
        elif types != {int}:
            self.kind = _KINDS[float if float in types else next(iter(types))]
        else:
            self.kind = self.kind or "integer"

    def _note(self, values: Sequence[object], row: int) -> None:
        for place, value in enumerate(values, start=row + 1):
            if value is not None and (word := _word(value)) != self.first:
                self.others[word] = None
                if len(self.rows) < ROWS_SHOWN:
                    self.rows.append(place)

    def typed(self, values: Sequence[object], row: int) -> pl.Series:
        """Values as they are stored."""
        made: Sequence[object] = values
        if self.kind == "mixed":
            made = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
        elif self.kind == "float":
            made = [None if value is None else _float(value) for value in values]
            for place, (value, kept) in enumerate(zip(values, made, strict=True), row + 1):
                self.present += value is not None
                if type(value) is int and value != kept:
                    self.rounded += 1
                    self.first_rounded = self.first_rounded or place
            if not self.infinite:
                self.infinite = next((n for n, v in enumerate(made, row + 1) if v is not None and math.isinf(v)), 0)  # type: ignore[arg-type]
        return pl.Series(self.name, made, _STORED[self.kind or "float"], strict=True)

    def warnings(self, kind: ColumnKind) -> list[str]:
        """Whether values of several types had to become texts; `kind` is what these were found to be."""
        if self.kind == "float" and self.rounded:
            return [
                f"column {self.name}: {self.rounded:,} of {self.present:,} values {ROUNDED} (first at row {self.first_rounded})"
            ]
        if self.kind != "mixed":
            return []
        rows = ", ".join(f"{row:,}" for row in self.rows)
        return [
            f"column {self.name}: mixed types, {self.first} and {' and '.join(self.others)} (first at row{'s' * (len(self.rows) > 1)} "
            f"{rows}); all are taken as texts and the column is treated as {kind}"
        ]


def _word(value: object) -> str:
    return _WORDS[_KINDS[type(value)]]


def _float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return math.inf


class _Rows:
    """The columns that rows of JSON make, a batch at a time."""

    def __init__(self, limits: ParseLimits) -> None:
        self._limits = limits
        self._columns: dict[str, _Column] = {}
        self.count = 0

    def frames(self, batches: Iterator[list[Row]]) -> Iterator[pl.DataFrame]:
        """The rows in columns; a column that is not known yet is one more from its first row on."""
        self.count = 0
        for column in self._columns.values():
            column.begin()
        for rows in batches:
            yield self._frame(rows)
            self.count += len(rows)
        if self.count == 0:
            raise no_rows("there is no row")
        if not self._columns:
            raise refuse([Fault("row 1", "empty_name", "no row has a key")])
        faults = [not_finite(column.infinite, column.name) for column in self._columns.values() if column.infinite]
        if faults:
            raise refuse(faults)

    def _frame(self, rows: list[Row]) -> pl.DataFrame:
        faults: list[Fault] = []
        for number, row in enumerate(rows, start=self.count + 1):
            for name, value in row.items():
                if name not in self._columns:
                    self._add(name, number)
                if isinstance(value, dict | list):
                    message = "an object or an array; a value is a number, a boolean, a text or null"
                    faults.append(Fault(f"row {number}, column {name}", "nested_value", message))
                elif isinstance(value, str) and len(value) > MAX_CELL:
                    message = f"a text of more than {MAX_CELL:,} characters"
                    faults.append(Fault(f"row {number}, column {name}", "cell_too_long", message))
            if len(faults) >= MAX_FAULTS:
                break
        if faults:
            raise refuse(faults)
        total = self.count + len(rows)
        if total > self._limits.max_rows or total * len(self._columns) > self._limits.max_cells:
            raise TooLarge(too_many(self._limits))
        series = []
        for name, column in self._columns.items():
            values = [row.get(name) for row in rows]
            column.learn(values, self.count)
            series.append(column.typed(values, self.count))
        return pl.DataFrame(series) if series else pl.DataFrame(height=len(rows))

    def _add(self, name: str, row: int) -> None:
        if faults := name_faults([name]):
            raise refuse([Fault(f"row {row}", fault.code, fault.message) for fault in faults])
        if len(self._columns) >= self._limits.max_columns:
            raise too_many_columns(f"row {row}", len(self._columns) + 1, self._limits)
        self._columns[name] = _Column(name)

    def warnings(self, kinds: Mapping[str, ColumnKind]) -> list[str]:
        """Columns of mixed types."""
        return [warning for name, column in self._columns.items() for warning in column.warnings(kinds[name])]


class NdjsonTable:
    """A file of one JSON object in each line; blank lines at its end do not count."""

    def __init__(self, source: Path, _: ParseOptions, limits: ParseLimits) -> None:
        self.name: str | None = None
        self._source = source
        self._rows = _Rows(limits)

    def write(self, partial: Path) -> int:
        """Writes its rows as canonical Parquet, and answers how many."""
        sink_all(lambda: self._rows.frames(self._batches()), partial)
        return self._rows.count

    def warnings(self, kinds: dict[str, ColumnKind]) -> list[str]:
        """Columns of mixed types."""
        return self._rows.warnings(kinds)

    def _batches(self) -> Iterator[list[Row]]:
        faults: list[Fault] = []
        batch: list[Row] = []
        size = 0
        for number, line in self._lines():
            try:
                batch.append(_row(strict_json.parse(line), number))
            except Unreadable as error:
                faults.append(Fault(f"row {number}", error.stable_code, without_place(error.message)))
            except Invalid as error:
                faults += error.faults
            if len(faults) >= MAX_FAULTS:
                break
            size += len(line)
            if not faults and (len(batch) >= BATCH_ROWS or size >= BATCH_BYTES):
                yield batch
                batch, size = [], 0
        if faults:
            raise refuse(faults)
        if batch:
            yield batch

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """The lines with their numbers."""
        with self._source.open("rb") as file:
            check_start(file.read(4))
            file.seek(0)
            number = blank = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise refuse([Fault(f"row {number}", "line_too_long", f"a line of more than {MAX_LINE:,} bytes")])
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if not line.strip():
                    blank = blank or number
                    continue
                if blank:
                    raise refuse([Fault(f"row {blank}", "ragged_row", "a blank line")])
                yield number, line


class JsonTable:
    """A JSON document with rows, read at once: it costs several times its size in memory."""

    def __init__(self, source: Path, _: ParseOptions, limits: ParseLimits) -> None:
        self.name: str | None = None
        self._source = source
        self._rows = _Rows(limits)

    def write(self, partial: Path) -> int:
        """Writes its rows as canonical Parquet, and answers how many."""
        content = self._source.read_bytes()
        check_start(content[:4])
        rows = self._read(strict_json.parse(content))
        del content
        sink_all(lambda: self._rows.frames(_slices(rows)), partial)
        return self._rows.count

    def warnings(self, kinds: dict[str, ColumnKind]) -> list[str]:
        """Columns of mixed types."""
        return self._rows.warnings(kinds)

    def _read(self, document: object) -> list[Any]:
        if not isinstance(document, dict):
            raise Invalid("The request has a fault.", [Fault("", "wrong_type", "must be an object")])
        faults = [
            Fault(f"/{pointer_part(key)}", "unknown_field", "there is no such field; there are: name, rows")
            for key in document
            if key not in ("name", "rows")
        ]
        name, rows = document.get("name"), document.get("rows")
        if not isinstance(rows, list):
            code = "wrong_type" if "rows" in document else "missing"
            faults.append(Fault("/rows", code, "must be an array of objects; or else there must be a `uri`"))
        if "name" in document:
            faults += _title_faults(name)
        if faults:
            raise Invalid("The request has a fault.", faults[:MAX_FAULTS])
        self.name = name
        assert isinstance(rows, list)
        return rows


def _title_faults(name: object) -> list[Fault]:
    if not isinstance(name, str):
        return [Fault("/name", "wrong_type", "must be a text")]
    if not 1 <= len(name) <= MAX_TITLE:
        return [Fault("/name", "out_of_range", f"must have 1 to {MAX_TITLE} characters")]
    try:
        clean_name(name)
    except PydanticCustomError as error:
        return [Fault("/name", "invalid_name", error.message())]
    return []


def _slices(rows: list[Any]) -> Iterator[list[Row]]:
    for start in range(0, len(rows), BATCH_ROWS):
        yield [_row(row, number) for number, row in enumerate(rows[start : start + BATCH_ROWS], start=start + 1)]


def _row(value: object, number: int) -> Row:
    if not isinstance(value, dict):
        raise refuse([Fault(f"row {number}", "no_object", "must be an object: {…}")])
    return value


def check_start(head: bytes) -> None:
    """Refuses what is clearly something else."""
    refuse_compressed(head)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise refuse([Fault("row 1", "not_utf8", "the file is UTF-16; save it as UTF-8")])


def without_place(message: str) -> str:
    """The message for a line, of which the line number within it says nothing."""
    return message.replace("The body", "the line").replace(" at line 1,", " at")
