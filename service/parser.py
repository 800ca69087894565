"""Reads one uploaded file: `python -m service.parser '{"source": …}'`, a process that may die without harm.

The task is one JSON argument, the answer one JSON document on standard output; a result that is not whole
never stands at its destination. `service.parsing` has a module for each form of data: all of them read in
batches, so that the memory in use does not grow with the file, and decide on the type of a column by all of
its rows.

Rows are counted from 1, the first row of data. Neither faults nor warnings repeat what a cell holds.
"""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from common import processes
from common.errors import Invalid, StorageFull, TooLarge, Unreadable
from common.schemas.datasets import DataFormat
from service.describing.description import describe
from service.ingest import Parsed, ParseLimits, ParseOptions, ParseTask, Refusal, Refused
from service.parsing.canonical import Table, whole_file
from service.parsing.csv_values import CsvTable
from service.parsing.json_rows import JsonTable, NdjsonTable
from service.parsing.parquet import ParquetTable

_FORMS: Final[dict[DataFormat, Callable[[Path, ParseOptions, ParseLimits], Table]]] = {
    "csv": CsvTable,
    "parquet": ParquetTable,
    "ndjson": NdjsonTable,
    "rows": JsonTable,
}


def parse(
    source: Path, destination: Path, options: ParseOptions, limits: ParseLimits, *, wants_description: bool = True
) -> Parsed:
    """Read `source` and write it to `destination`; raises what `service.ingest.parse_in_child` does."""
    table = _FORMS[options.format](source, options, limits)
    with whole_file(destination) as partial:
        rows = table.write(partial)
        if not wants_description:
            return Parsed(rows=rows, columns=(), warnings=())
        described = describe(partial)
    warnings = table.warnings({column.name: column.kind for column in described.columns})
    return Parsed(rows=rows, columns=described.columns, warnings=(*warnings, *described.warnings), name=table.name)


# The process


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
        answer = parse(Path(task.source), Path(task.destination), task, task.limits, wants_description=task.described)
    except (Invalid, TooLarge, StorageFull, Unreadable) as error:
        answer = Refused(error=_refusal(error))
    sys.stdout.buffer.write(answer.model_dump_json().encode())


def _refusal(error: Invalid | TooLarge | StorageFull | Unreadable) -> Refusal:
    if isinstance(error, Invalid):
        return Refusal(kind="invalid", code=error.stable_code, message=error.message, faults=error.faults)
    kind: Literal["too_large", "storage_full", "unreadable"] = "storage_full"
    if not isinstance(error, StorageFull):
        kind = "too_large" if isinstance(error, TooLarge) else "unreadable"
    return Refusal(kind=kind, code=error.stable_code, message=error.message)


if __name__ == "__main__":
    main(sys.argv[1])
