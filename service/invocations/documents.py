"""The JSON documents that clients of MLflow, SageMaker and TensorFlow Serving send."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
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


_TEXT_OR_NAN = re.compile(rb'"(?:[^"\\]|\\.)*+"?|NaN', re.DOTALL)
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
    faults = [
        Fault(f"/{pointer_part(name)}", "unknown_field", f"there is no such field; the rows stand in one of: {_FORMS}")
        for name in document
        if name not in (*FORMS, "params")
    ]
    if not given:
        faults.append(Fault("", "missing", f"must have one of: {_FORMS}"))
    if len(given) > 1:
        faults.append(Fault("", "conflicting_options", f"must have only one of: {_FORMS}"))
    if document.get("params"):
        faults.append(Fault("/params", "not_supported_yet", "a model here has no parameters"))
    if faults:
        raise problems.invalid(faults)
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
    columns: Any = frame.get("columns")
    data: Any = frame.get("data")
    faults = [
        Fault(f"{here}/{pointer_part(name)}", "unknown_field", "may hold columns, data and index only")
        for name in frame
        if name not in ("columns", "data", "index")
    ]
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        faults.append(Fault(f"{here}/columns", "wrong_type", "must be an array of the names of the inputs"))
    else:
        faults += _faults_of_names(columns, names, f"{here}/columns", lambda place: f"{here}/columns/{place}")
    if not isinstance(data, list):
        faults.append(Fault(f"{here}/data", "wrong_type", "must be an array of rows"))
    if not faults:
        faults += islice(_faults_of_rows(data, len(columns), f"{here}/data"), problems.MAX_FAULTS)
    if faults:
        raise problems.invalid(faults)
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


def _faults_of_rows(data: Sequence[object], width: int, pointer: str) -> Iterator[Fault]:
    for row, cells in enumerate(data):
        if not isinstance(cells, list) or len(cells) != width:
            message = f"must be an array of {width} values, one for each column"
            yield Fault(f"{pointer}/{row}", "wrong_length", message)


def _columns(columns: Mapping[str, object], names: Sequence[str]) -> Records:
    """An array for each column."""
    faults = _faults_of_names(
        list(columns), names, "/inputs", lambda place: f"/inputs/{pointer_part(list(columns)[place])}"
    )
    arrays = {name: values for name, values in columns.items() if isinstance(values, list)}
    faults += [
        Fault(f"/inputs/{pointer_part(name)}", "wrong_type", "must be an array of values")
        for name in columns
        if name not in arrays
    ]
    if len(set(map(len, arrays.values()))) > 1:
        faults.append(Fault("/inputs", "wrong_length", "all columns must have the same number of values"))
    if faults:
        raise problems.invalid(faults)
    rows = list(zip(*(arrays[name] for name in names), strict=True))
    return Records(rows, "/inputs", lambda _: "/inputs", lambda row, column: f"/inputs/{column}/{row}")


def _faults_of_names(
    columns: Sequence[str], names: Sequence[str], whole: str, place_of: Callable[[int], str]
) -> list[Fault]:
    """What keeps columns from being the inputs, each once."""
    given, known = set(columns), set(names)
    faults = [
        Fault(whole, "missing_column", f"the input {pointer_part(name)} is missing")
        for name in names
        if name not in given
    ]
    seen = set[str]()
    for place, name in enumerate(columns):
        if name not in known:
            faults.append(Fault(place_of(place), "unknown_column", "is none of the inputs"))
        elif name in seen:
            faults.append(Fault(place_of(place), "duplicate_name", "an earlier column has the same name"))
        seen.add(name)
    return faults


def _refused(pointer: str, code: str, message: str) -> Exception:
    return problems.invalid([Fault(pointer, code, message)])
