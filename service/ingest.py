"""Uploaded files are read in a child process: a hostile one can end that child, and nothing else."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from common.errors import ChainruleError, Fault, Invalid, StorageFull, TooLarge, Unreadable
from common.schemas.datasets import Column, DataFormat
from common.schemas.record import Listed, Record

DEFAULT_NULLS = ("", "?", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "-")

DELIMITER = r"^[\t !#-~]$"
DecimalMark = Literal[".", ","]

_log = logging.getLogger(__name__)
_SOURCE_ROOT = Path(__file__).resolve().parent.parent


class ParseOptions(Record):
    """What the sender says about the file; all but `format` matter for CSV only."""

    format: DataFormat = "csv"
    header: bool = True
    """Without one, columns are called c0, c1, …"""
    delimiter: Annotated[str, Field(pattern=DELIMITER)] = ","
    """A tab, or any printable ASCII character but the quote."""
    decimal: DecimalMark = "."
    """What stands before the fraction of a number."""
    null: Listed[str] = DEFAULT_NULLS
    """Cells that mean a missing value, compared after surrounding spaces are gone."""


class ParseLimits(Record):
    """What a file may cost."""

    max_rows: Annotated[int, Field(gt=0)] = 100_000_000
    max_columns: Annotated[int, Field(gt=0)] = 10_000
    max_cells: Annotated[int, Field(gt=0)] = 1_000_000_000
    memory_bytes: Annotated[int, Field(gt=0)] = 4 << 30
    """Of address space, which is more than the memory in use."""
    cpu_seconds: Annotated[int, Field(gt=0)] = 3600
    wall_seconds: Annotated[int, Field(gt=0)] = 1800


class ParseTask(ParseOptions):
    """What the child is told."""

    source: str
    destination: str
    limits: ParseLimits = ParseLimits()
    described: bool = True


class Parsed(Record):
    """What was understood of a file."""

    rows: int
    columns: Listed[Column]
    warnings: Listed[str]
    name: str | None = None
    """Of the data set, where the file itself tells it."""


class Refusal(Record):
    """Why a file was not taken."""

    kind: Literal["invalid", "too_large", "storage_full", "unreadable"]
    code: str
    message: str
    faults: Listed[Fault] = ()


class Refused(Record):
    """The answer of a child that did not take the file; else it answers with `Parsed`."""

    error: Refusal


_ANSWER: TypeAdapter[Parsed | Refused] = TypeAdapter(Parsed | Refused)


def parse_in_child(
    source: Path,
    destination: Path,
    options: ParseOptions,
    limits: ParseLimits | None = None,
    *,
    described: bool = True,
) -> Parsed:
    """Read `source`, write it as canonical Parquet to `destination`, and say what it holds. Blocks meanwhile.

    What it holds is not looked at unless it is to be `described`.

    Raises `Invalid` (`invalid_data`, with faults at `row 7, column age`; rows count from 1, the first below
    the header) for a file that is wrong, `Invalid` (`parser_failed`) when the child ran out of memory or time
    or crashed, `TooLarge` above a limit, `Unreadable` for a document that is no JSON, and `StorageFull` without room for the result. After an error there
    is no file at `destination`.
    """
    source, destination = source.resolve(), destination.resolve()
    task = ParseTask(
        source=str(source),
        destination=str(destination),
        limits=limits or ParseLimits(),
        described=described,
        **dict(options),
    )
    try:
        return _run_child(task, destination.parent)
    except BaseException:
        partial_path(destination).unlink(missing_ok=True)
        destination.unlink(missing_ok=True)
        raise


def partial_path(destination: Path) -> Path:
    """Where the result lies until it is whole."""
    return destination.with_name(destination.name + ".part")


def _run_child(task: ParseTask, folder: Path) -> Parsed:
    command = [sys.executable, "-m", "service.parser", task.model_dump_json()]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=task.limits.wall_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _parser_failed(f"took longer than {task.limits.wall_seconds} seconds") from None
    if done.returncode != 0:
        _log.warning("parser ended with %d: %s", done.returncode, done.stderr[-2000:].decode(errors="replace"))
        raise _parser_failed("ran out of memory or time, or crashed")
    try:
        answer = _ANSWER.validate_json(done.stdout)
    except ValidationError:
        raise _parser_failed("gave no answer") from None
    if isinstance(answer, Refused):
        raise _error(answer.error)
    return answer


def _environment() -> dict[str, str]:
    """What the child needs and no more: it gets no secrets, and imports nothing from where it runs."""
    names = ("PATH", "LANG", "LD_LIBRARY_PATH", "TMPDIR")
    return {name: os.environ[name] for name in names if name in os.environ} | {
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": str(_SOURCE_ROOT),
        "POLARS_MAX_THREADS": "2",
    }


def _error(refusal: Refusal) -> ChainruleError:
    if refusal.kind == "too_large":
        return TooLarge(refusal.message)
    if refusal.kind == "storage_full":
        return StorageFull(refusal.message)
    if refusal.kind == "unreadable":
        return Unreadable(refusal.message, code=refusal.code)
    return Invalid(refusal.message, refusal.faults, code=refusal.code)


def _parser_failed(reason: str) -> Invalid:
    hint = "is it damaged, or larger than fits here?"
    return Invalid(f"the file could not be read: its parser {reason}; {hint}", code="parser_failed")
