"""The JSON documents that clients of MLflow, SageMaker and TensorFlow Serving send."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any

from common.errors import Fault, pointer_part
from service import problems
from service.invocations.records import Records, records_at

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_FORMS = ", ".join(FORMS)


def without_nan(body: bytes) -> bytes:
    """JSON as Python's encoder writes the gaps of a DataFrame: NaN outside of texts becomes null."""
    return (
        body
        if b"NaN" not in body
        else _TEXT_OR_NAN.sub(lambda found: b"null" if found[0] == b"NaN" else found[0], body)
    )


_TEXT_OR_NAN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|NaN', re.DOTALL)
"""A text that is not closed goes on to the end, so that no byte is looked at twice."""


def read_document(document: object, names: Sequence[str]) -> Records:
    """The rows in a document, for a model whose inputs have these names.

    Raises:
        Invalid: it has none of the forms; every fault is named.

    """
    if isinstance(document, list):  # as SageMaker's JSONSerializer writes arrays
        return records_at("", document)
    if not isinstance(document, dict):
        raise _refused("", "wrong_type", f"must be an array of rows, or an object with one of: {_FORMS}")
    given = [form for form in FORMS if form in document]
    _refuse(_faults_of_fields(document, given))
    form, rows = given[0], document[given[0]]
    if form == "dataframe_split":
        return _split(rows, names)
    if form == "inputs" and isinstance(rows, dict):
        return _columns(rows, names)
    if not isinstance(rows, list):
        raise _refused(f"/{form}", "wrong_type", "must be an array of rows")
    return records_at(f"/{form}", rows)


def _split(frame: object, names: Sequence[str]) -> Records:
    """Columns and rows apart, as `DataFrame.to_dict(orient="split")` writes them; its index does not matter."""
    here = "/dataframe_split"
    if not isinstance(frame, dict):
        raise _refused(here, "wrong_type", "must be an object of columns and data")
    _refuse(_faults_of_split(frame, names, here))
    columns, data = frame["columns"], frame["data"]
    _refuse(_faults_of_rows(data, len(columns), f"{here}/data"))
    places = {name: place for place, name in enumerate(columns)}
    order = [places[name] for name in names]
    rows = [[cells[place] for place in order] for cells in data]
    parts = {pointer_part(name): place for name, place in places.items()}
    return Records(
        rows,
        f"{here}/data",
        lambda row: f"{here}/data/{row}",
        lambda row, column: f"{here}/data/{row}/{parts[column]}",
    )


def _columns(columns: Mapping[str, Any], names: Sequence[str]) -> Records:
    """An array for each column."""
    _refuse(_faults_of_columns(columns, names))
    rows = list(zip(*(columns[name] for name in names), strict=True))
    return Records(rows, "/inputs", lambda _: "/inputs", lambda row, column: f"/inputs/{column}/{row}")


def _faults_of_fields(document: Mapping[str, object], given: Sequence[str]) -> Iterator[Fault]:
    for name in document:
        if name not in (*FORMS, "params"):
            message = f"there is no such field; the rows stand in one of: {_FORMS}"
            yield Fault(f"/{pointer_part(name)}", "unknown_field", message)
    if not given:
        yield Fault("", "missing", f"must have one of: {_FORMS}")
    if len(given) > 1:
        yield Fault("", "conflicting_options", f"must have only one of: {_FORMS}")
    if document.get("params"):
        yield Fault("/params", "not_supported_yet", "a model here has no parameters")


def _faults_of_split(frame: Mapping[str, object], names: Sequence[str], pointer: str) -> Iterator[Fault]:
    for name in frame:
        if name not in ("columns", "data", "index"):
            yield Fault(f"{pointer}/{pointer_part(name)}", "unknown_field", "may hold columns, data and index only")
    columns = frame.get("columns")
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        yield Fault(f"{pointer}/columns", "wrong_type", "must be an array of the names of the inputs")
    else:
        places = (f"{pointer}/columns/{place}" for place in count())
        yield from _faults_of_names(columns, names, f"{pointer}/columns", places)
    if not isinstance(frame.get("data"), list):
        yield Fault(f"{pointer}/data", "wrong_type", "must be an array of rows")


def _faults_of_rows(data: Sequence[object], width: int, pointer: str) -> Iterator[Fault]:
    for row, cells in enumerate(data):
        if not isinstance(cells, list) or len(cells) != width:
            message = f"must be an array of {width} values, one for each column"
            yield Fault(f"{pointer}/{row}", "wrong_length", message)


def _faults_of_columns(columns: Mapping[str, object], names: Sequence[str]) -> Iterator[Fault]:
    places = (f"/inputs/{pointer_part(name)}" for name in columns)
    yield from _faults_of_names(list(columns), names, "/inputs", places)
    lengths = set[int]()
    for name, values in columns.items():
        if isinstance(values, list):
            lengths.add(len(values))
        else:
            yield Fault(f"/inputs/{pointer_part(name)}", "wrong_type", "must be an array of values")
    if len(lengths) > 1:
        yield Fault("/inputs", "wrong_length", "all columns must have the same number of values")


def _faults_of_names(
    columns: Sequence[str], names: Sequence[str], whole: str, places: Iterator[str]
) -> Iterator[Fault]:
    """What keeps columns from being the inputs, each once."""
    given, known, seen = set(columns), set(names), set[str]()
    for name in names:
        if name not in given:
            yield Fault(whole, "missing_column", f"the input {pointer_part(name)} is missing")
    for name, place in zip(columns, places, strict=False):
        if name not in known:
            yield Fault(place, "unknown_column", "is none of the inputs")
        elif name in seen:
            yield Fault(place, "duplicate_name", "an earlier column has the same name")
        seen.add(name)


def _refuse(faults: Iterator[Fault]) -> None:
    if found := list(islice(faults, problems.MAX_FAULTS)):
        raise problems.invalid(found)


def _refused(pointer: str, code: str, message: str) -> Exception:
    return problems.invalid([Fault(pointer, code, message)])
