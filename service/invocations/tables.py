"""Rows as CSV, with or without a line of names, and predictions as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence

from common.features.columns import Column
from common.features.numbers import number_of
from common.features.target import name_of
from common.schemas.models import Label
from service.inference_protocol.datatypes import held_by
from service.ingest import DEFAULT_NULLS, ParseLimits, ParseOptions
from service.invocations.records import Records
from service.parsing.csv_structure import CsvStructure

_WORDS = {"true": True, "false": False}


def read_csv(body: bytes, columns: Sequence[Column], most_rows: int) -> Records:
    """The rows in a CSV file: by name if its first line holds the name of every input, else in the order of the inputs.

    Raises:
        Invalid: it is no CSV as data sets are uploaded in (`invalid_data`); every fault is named.
        TooLarge: there are more rows than `most_rows`.

    """
    has_names = {column.name for column in columns} <= set(_first_line(body))
    limits = ParseLimits(max_rows=most_rows)
    structure = CsvStructure(io.BytesIO(body), ParseOptions(header=has_names), limits)
    cells = [line for block in structure.blocks() for line in _lines(block.data)]
    if has_names:
        by_name = {column.name: column for column in columns}
        order = [by_name.get(name) for name in structure.names]
        rows: list[object] = [dict(zip(structure.names, _values(line, order), strict=True)) for line in cells]
    else:  # a line of another length is refused by who reads the rows
        rows = [_values(line, columns) if len(line) == len(columns) else line for line in cells]
    return Records(rows, "row 1", lambda row: f"row {row + 1}", lambda row, name: f"row {row + 1}, column {name}")


def write_csv(labels: Sequence[Label | float]) -> str:
    """A line for each prediction."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerows([name_of(label) if isinstance(label, bool) else label] for label in labels)
    return text.getvalue()


def _first_line(body: bytes) -> list[str]:
    """Its cells, whatever they are: what is wrong with them is told by who reads the whole."""
    text = body[: body.find(b"\n") % (len(body) + 1)].decode("utf-8-sig", "replace")
    try:
        return [cell.strip() for cell in next(csv.reader([text]), [])]
    except csv.Error:
        return []


def _lines(block: bytes) -> Iterator[list[str]]:
    for line in csv.reader(io.StringIO(block.decode("utf-8"), newline="")):
        yield line or [""]  # a blank line is a row where there is one column


def _values(line: Sequence[str], columns: Sequence[Column | None]) -> list[object]:
    return [_value(cell.strip(), column) for cell, column in zip(line, columns, strict=True)]


def _value(cell: str, column: Column | None) -> object:
    """What JSON would say; a cell that is not what its column holds stays a text, which is then refused."""
    if cell in DEFAULT_NULLS:
        return None
    if column is None or held_by(column) == "text":
        return cell
    if held_by(column) == "boolean":
        return _WORDS.get(cell.lower(), cell)
    number = number_of(cell)
    return cell if math.isnan(number) else number
