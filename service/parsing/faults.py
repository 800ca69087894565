"""What is wrong with a file, in the words that all forms share."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

import polars as pl

from common.errors import Fault, Invalid
from service.ingest import ParseLimits

MAX_CELL: Final = 1_000_000
MAX_LINE: Final = 64 << 20
MAX_NAME: Final = 1000
MAX_FAULTS: Final = 20

POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)


def refuse(faults: Sequence[Fault], message: str = "the file can't be used as it is") -> Invalid:
    """The error for a file that is wrong."""
    return Invalid(message, faults[:MAX_FAULTS], code="invalid_data")


def unreadable(error: BaseException, what: str) -> Invalid:
    """The error for a file that Polars gave up on; raises `MemoryError` where that was why."""
    if re.search("memory|spawn thread", str(error), re.IGNORECASE):  # a thread without room for its stack
        raise MemoryError from error
    return not_readable(what)


def not_readable(what: str) -> Invalid:
    """The error for a file that is not of the format `what`."""
    return refuse(
        [Fault("file", "unreadable", f"damaged, or of another format than {what}")],
        f"the file is not a readable {what} file",
    )


def refuse_compressed(head: bytes) -> None:
    """Refuses a file that begins as those of gzip do."""
    if head.startswith(b"\x1f\x8b"):
        message = "the file is compressed; say so with the header Content-Encoding: gzip"
        raise refuse([Fault("file", "compressed", message)])


def not_finite(row: int, name: str) -> Fault:
    """A number that is infinite, or none; rows count from 1."""
    message = "not a finite number; write a missing value as an empty cell"
    return Fault(f"row {row}, column {name}", "invalid_data", message)


def no_rows(message: str) -> Invalid:
    """The error for a file without data."""
    return refuse([Fault("row 1", "no_rows", message)])


def too_many(limits: ParseLimits) -> str:
    """The message for more rows or cells than are allowed."""
    return f"more than {limits.max_rows:,} rows or {limits.max_cells:,} cells"


def too_many_columns(where: str, columns: int, limits: ParseLimits) -> Invalid:
    """The error for a file that is too wide."""
    message = f"{columns:,} columns; at most {limits.max_columns:,} are allowed"
    return refuse([Fault(where, "too_many_columns", message)])


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
            doubt = "; is the delimiter a tab?" if "\t" in name else ""
            faults.append(Fault(where, "invalid_name", f"a name with control characters or direction overrides{doubt}"))
        elif name in seen:
            faults.append(Fault(where, "duplicate_name", "an earlier column has the same name"))
        seen.add(name)
    return faults[:MAX_FAULTS]
