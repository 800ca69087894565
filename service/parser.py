"""Reads one uploaded file: `python -m service.parser '{"source": …}'`, a process that may die without harm.

The task is one JSON argument, the answer one JSON document on standard output; a result that is not whole
never stands at its destination.

CSV is UTF-8 after RFC 4180, with LF or CRLF. Python's csv module first walks through the file, because it
tells of every unequal row and stray quote; Polars then reads all cells as text, and each column gets its kind
from all of its rows. Spaces around a cell do not count, neither for its kind nor as a part of a category.
Blank lines at the end are skipped; in a file of one column a blank line is a missing value. A quoted cell
that spans lines is one row. Numbers are written as in 12, -0.5 or 1e-3; 007 is 7.

Rows are counted from 1, the first row of data. Neither faults nor warnings repeat what a cell holds.
"""

from __future__ import annotations

import csv
import re
import resource
import signal
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import polars as pl

from common import processes
from common.errors import Fault, Invalid, StorageFull, TooLarge
from common.features.moments import mean_and_std
from common.schemas.datasets import Column, ColumnKind, Frequent
from service.ingest import Parsed, ParseLimits, ParseOptions, ParseTask, Refusal, Refused, partial_path

MAX_CELL: Final = 1_000_000
MAX_LINE: Final = 64 << 20
MAX_NAME: Final = 1000
MAX_FAULTS: Final = 20
MAX_CATEGORIES: Final = 1000
ALWAYS_CATEGORIES: Final = 20
MAX_CATEGORY_BYTES: Final = 1000
MAX_ROW_GROUPS: Final = 10_000
MAX_FOOTER: Final = 256 << 20
MOSTLY_NUMBERS: Final = 0.9
TOP: Final = 20
NAMES_SHOWN: Final = 5

_POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)


def parse(source: Path, destination: Path, options: ParseOptions, limits: ParseLimits) -> Parsed:
    """Read `source` and write it to `destination`; raises what `service.ingest.parse_in_child` does."""
    if options.format == "csv":
        frame, warnings = _read_csv(source, options, limits)
    else:
        frame, warnings = _read_parquet(source, limits), []
    columns = tuple(describe(column) for column in frame.iter_columns())
    _write(frame, destination)
    return Parsed(rows=frame.height, columns=columns, warnings=(*warnings, *_column_warnings(columns)))


def refuse(faults: Sequence[Fault], message: str = "the file can't be used as it is") -> Invalid:
    """The error for a file that is wrong."""
    return Invalid(message, faults, code="invalid_data")


# CSV: structure


class _Lines(Iterator[str]):
    """The lines of a file as text, without byte order mark; what is no UTF-8 becomes lone surrogates."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._first = True
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
        if self._first:
            raw, self._first = raw.removeprefix(b"\xef\xbb\xbf"), False
        line = raw.decode("utf-8", "surrogateescape")
        if '"' in line or "\0" in line or not _is_utf8(line):
            self.unusual = True
        self.record.append(line)
        return line


def _is_utf8(text: str) -> bool:
    return text.isascii() or not re.search("[\ud800-\udfff]", text)


@dataclass(slots=True)
class _Structure:
    """What a walk through a CSV file found."""

    names: list[str]
    rows: int = 0
    blank_at_end: int = 0


def _check_csv(source: Path, options: ParseOptions, limits: ParseLimits) -> _Structure:
    """Walk through the file in constant memory.

    Raises `Invalid` for what Polars would mend in silence or read in another way, and `TooLarge`.
    """
    csv.field_size_limit(MAX_CELL)
    with source.open("rb") as file:
        if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise refuse([Fault("row 1", "not_utf8", "the file is UTF-16; save it as UTF-8")])
        file.seek(0)
        return _CsvWalk(_Lines(file), options, limits).run()


class _CsvWalk:
    """One pass over the records of a CSV file."""

    def __init__(self, lines: _Lines, options: ParseOptions, limits: ParseLimits) -> None:
        self._lines = lines
        self._has_header = options.header
        self._limits = limits
        self._records = csv.reader(lines, delimiter=options.delimiter, strict=True)
        self._proper = _proper_record(options.delimiter)
        self._faults: list[Fault] = []
        self._names: list[str] = []
        self._rows = 0
        self._blank = 0  # lines since the last row

    def run(self) -> _Structure:
        """Walk to the end, or until there are enough faults."""
        try:
            self._first_record()
            self._other_records()
        except csv.Error as error:
            self._faults.append(Fault(self._where, *_explain(str(error))))
        if self._faults:
            raise refuse(self._faults)
        if self._rows == 0:
            raise refuse([Fault("row 1", "no_rows", "there is no row of data")])
        return _Structure(self._names, self._rows, self._blank)

    @property
    def _where(self) -> str:
        """The record that is being read."""
        return f"row {self._rows + self._blank + 1}" if self._names or not self._has_header else "header"

    def _first_record(self) -> None:
        first = next(self._records, None)
        if first is None:
            raise refuse([Fault(self._where, "empty_file", "the file is empty")])
        if len(first) > self._limits.max_columns:
            message = f"{len(first):,} columns; at most {self._limits.max_columns:,} are allowed"
            raise refuse([Fault(self._where, "too_many_columns", message)])
        self._check_text(first)
        if not self._has_header:
            self._names = [f"c{place}" for place in range(max(1, len(first)))]
            self._count(first)
            return
        names = [name.strip() for name in first] or [""]
        if faults := self._faults or name_faults(names):
            raise refuse(faults)
        self._names = names

    def _other_records(self) -> None:
        for cells in self._records:
            self._check_text(cells)
            self._count(cells)
            if len(self._faults) >= MAX_FAULTS:
                break

    def _count(self, cells: list[str]) -> None:
        if not cells:
            self._blank += 1
            return
        width = len(self._names)
        if self._blank and width > 1:
            self._faults.append(Fault(f"row {self._rows + 1}", "ragged_row", "a blank line"))
        if len(cells) != width:
            message = f"{len(cells):,} cells where there are {width:,} columns"
            self._faults.append(Fault(self._where, "ragged_row", message))
        self._rows += self._blank + 1
        self._blank = 0
        if self._rows > self._limits.max_rows or self._rows * width > self._limits.max_cells:
            raise TooLarge(_too_many(self._limits))

    def _check_text(self, cells: list[str]) -> None:
        """Check the characters of a record that was just read, and how its quotes stand."""
        if self._lines.unusual:
            self._faults += self._bad_characters(cells)
            if any('"' in cell for cell in cells) and not self._proper.fullmatch("".join(self._lines.record)):
                message = 'a quote inside an unquoted cell; put the cell in quotes and write the quote as ""'
                self._faults.append(Fault(self._where, "stray_quote", message))
            self._lines.unusual = False
        self._lines.record.clear()

    def _bad_characters(self, cells: list[str]) -> list[Fault]:
        for place, cell in enumerate(cells):
            where = f"{self._where}, column {self._names[place] if place < len(self._names) else place + 1}"
            if "\0" in cell:
                return [Fault(where, "nul_character", "a NUL character; is this a text file in UTF-8?")]
            if not _is_utf8(cell):
                return [Fault(where, "not_utf8", "bytes that are not UTF-8; save the file as UTF-8")]
        return []


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


def name_faults(names: Sequence[str]) -> list[Fault]:
    """What is wrong with the names of columns."""
    faults, seen = [], set[str]()
    for place, name in enumerate(names, start=1):
        where = f"header, column {place}"
        if not name:
            faults.append(Fault(where, "empty_name", "this column has no name"))
        elif len(name) > MAX_NAME:
            faults.append(Fault(where, "invalid_name", f"a name of more than {MAX_NAME:,} characters"))
        elif any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c != "\u200d" for c in name):
            faults.append(Fault(where, "invalid_name", "a name with control characters or direction overrides"))
        elif name in seen:
            faults.append(Fault(where, "duplicate_name", "an earlier column has the same name"))
        seen.add(name)
    return faults[:MAX_FAULTS]


# CSV: values


def _read_csv(source: Path, options: ParseOptions, limits: ParseLimits) -> tuple[pl.DataFrame, list[str]]:
    structure = _check_csv(source, options, limits)
    try:
        frame = pl.read_csv(
            source,
            has_header=options.header,
            separator=options.delimiter,
            infer_schema=False,
            empty_string_is_null=False,
            glob=False,
        )
    except _POLARS_ERRORS as error:
        raise _unreadable(error, "CSV") from None
    extra = frame.height - structure.rows
    if not 0 <= extra <= structure.blank_at_end or frame.width != len(structure.names):
        raise refuse([], "the file can be read in more than one way; is every quote closed?")
    frame = frame.head(structure.rows)
    typed, faults, warnings = [], list[Fault](), list[str]()
    for raw, name in zip(frame.columns, structure.names, strict=True):
        texts = frame.drop_in_place(raw).rename("value").str.strip_chars()  # Polars takes some names for patterns
        texts = texts.set(texts.is_in(list(options.null)), None)
        column = _typed(texts)
        typed.append(column.alias(name))
        faults += _infinite(column, name)
        if column.dtype == pl.String:
            warnings += _almost_numbers(column, name)
    if faults:
        raise refuse(faults[:MAX_FAULTS])
    return pl.DataFrame(typed), warnings


def _typed(texts: pl.Series) -> pl.Series:
    """The column as Int64, Float64, Boolean or a date where all values allow it, else as it is; Float64 if empty."""
    for kind in (pl.Int64, pl.Float64):
        numbers = texts.cast(kind, strict=False)
        if numbers.null_count() == texts.null_count() < len(texts):
            return numbers
    if texts.null_count() == len(texts):
        return texts.cast(pl.Float64)
    words = texts.str.to_lowercase()
    if words.drop_nulls().is_in(["true", "false"]).all():
        return words == "true"
    return _dated(texts)


_DAY = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?$"
_DATE_FORMS = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M")
_ZONED_FORMS = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z")


def _dated(texts: pl.Series) -> pl.Series:
    """The column as dates or times where all values are those of ISO 8601, else as it is."""
    if not texts.drop_nulls().str.contains(_DAY).all():
        return texts
    tries: list[Callable[[], pl.Series]] = [partial(texts.str.to_date, "%Y-%m-%d", strict=False)]
    moments = texts.str.replace(" ", "T", literal=True).str.replace("Z$", "+00:00")
    tries += [partial(moments.str.to_datetime, form, strict=False) for form in _DATE_FORMS]
    tries += [partial(moments.str.to_datetime, form, strict=False, time_zone="UTC") for form in _ZONED_FORMS]
    for attempt in tries:
        dates = attempt()
        if dates.null_count() == texts.null_count():
            return dates
    return texts


def _almost_numbers(texts: pl.Series, name: str) -> list[str]:
    odd = texts.is_not_null() & texts.cast(pl.Float64, strict=False).is_null()
    count, present = int(odd.sum()), len(texts) - texts.null_count()
    if present - count < MOSTLY_NUMBERS * present:
        return []
    kind, first = _kind(texts), odd.arg_max()
    assert first is not None
    return [
        f"column {name}: {count:,} of {present:,} values are not numbers (first at row {first + 1}); "
        f"the column is treated as {kind}"
    ]


def _infinite(column: pl.Series, name: str) -> list[Fault]:
    """The first value of a column of floats that is infinite, or no number."""
    if column.dtype != pl.Float64:
        return []
    bad = column.is_finite().not_()
    if not bad.any():
        return []
    first = bad.fill_null(value=False).arg_max()
    assert first is not None
    message = "not a finite number; write a missing value as an empty cell"
    return [Fault(f"row {first + 1}, column {name}", "invalid_data", message)]


# Parquet


def _read_parquet(source: Path, limits: ParseLimits) -> pl.DataFrame:
    footer = _read_footer(source)
    if footer.row_groups > MAX_ROW_GROUPS:
        message = f"{footer.row_groups:,} row groups; at most {MAX_ROW_GROUPS:,} are allowed"
        raise refuse([Fault("file", "too_many_row_groups", message)])
    if footer.columns > limits.max_columns:
        message = f"{footer.columns:,} columns; at most {limits.max_columns:,} are allowed"
        raise refuse([Fault("file", "too_many_columns", message)])
    try:
        scan = pl.scan_parquet(source, glob=False, hive_partitioning=False)
        schema = scan.collect_schema()
        rows = max(footer.rows, scan.select(pl.len()).collect().item())
    except _POLARS_ERRORS as error:
        raise _unreadable(error, "Parquet") from None
    if rows > limits.max_rows or rows * len(schema) > limits.max_cells:
        raise TooLarge(_too_many(limits))
    if faults := name_faults(schema.names()) or _type_faults(schema):
        raise refuse(faults)
    if rows == 0:
        raise refuse([Fault("row 1", "no_rows", "the file holds no row")])
    try:
        frame = scan.collect()
        columns = [_canonical(column) for column in frame.iter_columns()]
    except _POLARS_ERRORS as error:
        raise _unreadable(error, "Parquet") from None
    if faults := [fault for column in columns for fault in _infinite(column.alias("value"), column.name)]:
        raise refuse(faults[:MAX_FAULTS])
    return pl.DataFrame(columns)


def _type_faults(schema: pl.Schema) -> list[Fault]:
    plain = (pl.Boolean, pl.String, pl.Categorical, pl.Enum, pl.Null, pl.Date, pl.Datetime, pl.Decimal)
    message = "a column of type {}; numbers, booleans, texts and dates can be used"
    return [
        Fault(f"column {name}", "unsupported_type", message.format(type(dtype).__name__))
        for name, dtype in schema.items()
        if not (dtype.base_type() in plain or dtype.is_float() or dtype.is_integer())
        or dtype in (pl.Int128, pl.UInt128)
    ][:MAX_FAULTS]


def _canonical(column: pl.Series) -> pl.Series:
    """The column in one of the types that are stored: integers, Float64, Boolean, String, dates."""
    dtype = column.dtype
    if dtype.is_float():
        return column.cast(pl.Float64).fill_nan(None)
    if dtype in (pl.Decimal, pl.Null):
        return column.cast(pl.Float64)
    if dtype == pl.UInt64:
        whole = column.cast(pl.Int64, strict=False)
        return whole if whole.null_count() == column.null_count() else column.cast(pl.Float64)
    return column.cast(pl.String) if dtype in (pl.Categorical, pl.Enum) else column


@dataclass(frozen=True, slots=True)
class _Footer:
    """The counts in the footer of a Parquet file."""

    columns: int
    rows: int
    row_groups: int


def _read_footer(source: Path) -> _Footer:
    """Read the counts without decoding anything else; raises `Invalid` where there is no such footer."""
    size = source.stat().st_size
    with source.open("rb") as file:
        head = file.read(4)
        if head == b"PARE":
            raise refuse([Fault("file", "encrypted", "the Parquet file is encrypted")])
        if size < 12 or head != b"PAR1":
            raise _not_readable("Parquet")
        file.seek(size - 8)
        length = int.from_bytes(file.read(4), "little")
        if file.read(4) != b"PAR1" or length > min(size - 12, MAX_FOOTER):
            raise _not_readable("Parquet")
        file.seek(size - 8 - length)
        footer = file.read(length)
    try:
        return _Thrift(footer).file_metadata()
    except (IndexError, ValueError, RecursionError):
        raise _not_readable("Parquet") from None


class _Thrift:
    """As much of Thrift's compact protocol as leads to the counts of Parquet's FileMetaData."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def file_metadata(self) -> _Footer:
        """Fields 2 (schema, whose first element is the root), 3 (rows) and the length of 4 (row groups)."""
        columns = rows = None
        for field, kind in self._fields():
            if field == 4:
                if columns is None or rows is None:
                    break
                return _Footer(columns, rows, self._list()[0])
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


# Description


def describe(column: pl.Series) -> Column:
    """What a column of a stored type holds."""
    name, column = column.name, column.alias("value")
    kind, missing = _kind(column), column.null_count()
    distinct = column.n_unique() - (missing > 0)
    integer = column.dtype.is_integer() or (column.dtype.is_float() and _holds_whole_numbers(column))
    mean = std = low = high = None
    if kind in ("numeric", "boolean") and missing < len(column):
        values = column.drop_nulls().cast(pl.Float64).to_numpy()
        mean, std = mean_and_std(values)
        low, high = float(np.min(values)), float(np.max(values))
    counted = kind in ("categorical", "boolean") or (integer and distinct <= MAX_CATEGORIES)
    numeric = kind == "numeric"
    return Column(
        name=name,
        kind=kind,
        missing=missing,
        distinct=distinct,
        integer=integer,
        mean=mean,
        std=std if numeric else None,
        min=low if numeric else None,
        max=high if numeric else None,
        top=_most_frequent(column) if counted else (),
    )


def _holds_whole_numbers(column: pl.Series) -> bool:
    """Whether floats are whole numbers in disguise: a table with a gap among its integers often has them so."""
    values = column.drop_nulls()
    return len(values) > 0 and bool(((values == values.floor()) & (values.abs() < 2.0**53)).all())


def _kind(column: pl.Series) -> ColumnKind:
    if column.dtype == pl.Boolean:
        return "boolean"
    if column.dtype.is_numeric():
        return "numeric"
    if column.dtype != pl.String:
        return "datetime"
    distinct = column.n_unique() - (column.null_count() > 0)
    few = distinct <= MAX_CATEGORIES and (distinct <= len(column) / 2 or distinct <= ALWAYS_CATEGORIES)
    few = few and not (column.str.len_bytes() > MAX_CATEGORY_BYTES).any()  # every model holds its categories
    return "categorical" if few else "text"


def _most_frequent(column: pl.Series) -> tuple[Frequent, ...]:
    counts = column.drop_nulls().rename("value").value_counts()
    top = counts.sort(["count", "value"], descending=[True, False]).head(TOP)
    return tuple(Frequent(value=value, count=count) for value, count in top.iter_rows())


def _column_warnings(columns: Sequence[Column]) -> list[str]:
    """One warning for each thing worth knowing, naming the columns it is true of."""
    cases = [
        ([c.name for c in columns if c.distinct == 0], "without any value"),
        ([c.name for c in columns if c.distinct == 1], "with one value only (constant)"),
        (
            [c.name for c in columns if c.kind == "text"],
            "of text, too many different ones; left out of training",
        ),
        ([c.name for c in columns if c.kind == "datetime"], "of dates or times; left out of training"),
    ]
    return [f"{_named(names)} {what}" for names, what in cases if names]


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    if len(names) == 1:
        return f"column {shown}:"
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return f"{len(names):,} columns ({shown}{more}):"


# The process


def _write(frame: pl.DataFrame, destination: Path) -> None:
    """Write canonical Parquet, which stands at `destination` only when it is whole."""
    partial = partial_path(destination)
    try:
        frame.write_parquet(partial, compression="zstd")
        partial.replace(destination)
    except (OSError, *_POLARS_ERRORS) as error:
        partial.unlink(missing_ok=True)
        if re.search(r"os error (28|122)\b|Errno (28|122)\b", str(error)):  # ENOSPC, EDQUOT
            raise StorageFull("there is no room left to store the data set") from None
        raise


def _unreadable(error: BaseException, what: str) -> Invalid:
    if "memory" in str(error).lower():
        raise MemoryError from error
    return _not_readable(what)


def _not_readable(what: str) -> Invalid:
    return refuse(
        [Fault("file", "unreadable", f"damaged, or of another format than {what}")],
        f"the file is not a readable {what} file",
    )


def _too_many(limits: ParseLimits) -> str:
    return f"more than {limits.max_rows:,} rows or {limits.max_cells:,} cells"


def _limit_self(limits: ParseLimits) -> None:
    """Bound memory and time, also for when the parent is gone."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds))
    signal.alarm(limits.wall_seconds + 5)


def main(argument: str) -> None:
    """Do the task and answer; anything else that goes wrong ends the process with exit status 1."""
    task = ParseTask.model_validate_json(argument)
    processes.die_with_parent()
    _limit_self(task.limits)
    answer: Parsed | Refused
    try:
        answer = parse(Path(task.source), Path(task.destination), task, task.limits)
    except (Invalid, TooLarge, StorageFull) as error:
        answer = Refused(error=_refusal(error))
    sys.stdout.buffer.write(answer.model_dump_json().encode())


def _refusal(error: Invalid | TooLarge | StorageFull) -> Refusal:
    if isinstance(error, Invalid):
        return Refusal(kind="invalid", code=error.stable_code, message=error.message, faults=error.faults)
    kind: Final = "too_large" if isinstance(error, TooLarge) else "storage_full"
    return Refusal(kind=kind, code=error.stable_code, message=error.message)


if __name__ == "__main__":
    main(sys.argv[1])
