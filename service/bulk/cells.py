"""Cells of files as the columns of a model take them: of the kinds that training saw, never of those a file suggests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from common.errors import Fault
from common.features.categories import CategoryColumn
from common.features.columns import Column
from common.features.table import Coded, TableColumn, table_column
from common.features.times import seconds_of
from service.ingest import DecimalMark
from service.parsing.faults import MAX_FAULTS
from service.parsing.kinds import booleans_in, numbers_in

Holds = Literal["number", "boolean", "time", "text"]
"""What a column's cells hold; a text may stand for a number or a time, or for none, where training has learned so."""

EXPECTED: Final[Mapping[Holds, str]] = {
    "number": "expected a number",
    "boolean": "expected true or false",
    "time": "expected a date or time such as 2024-05-17 or 2024-05-17T08:30:00Z",
    "text": "expected a text",
}
_NOT_FINITE = "the number is infinite or too large"


def held_by(column: Column) -> Holds:
    """What the cells of a model's column hold."""
    if isinstance(column, CategoryColumn):
        kinds: Mapping[str, Holds] = {"text": "text", "number": "number", "boolean": "boolean"}
        return kinds[column.of]
    if column.texts:
        return "text"
    found: Mapping[str, Holds] = {"numeric": "number", "boolean": "boolean", "datetime": "time"}
    return found[column.kind]


def read_texts(
    column: Column, texts: pl.Series, first_row: int, decimal: DecimalMark, faults: list[Fault]
) -> TableColumn:
    """Texts, null where a value is missing, as the encoder takes them; what is wrong with them goes to `faults`."""
    holds = held_by(column)
    if holds == "number":
        return read_numbers(column, texts, numbers_in(texts, pl.Float64(), decimal), first_row, faults)
    if holds == "boolean":
        return _booleans(column, texts, first_row, faults)
    coded = table_column(column.name, texts)
    return times_of(column, coded, first_row, faults) if holds == "time" and isinstance(coded, Coded) else coded


def read_numbers(
    column: Column, cells: pl.Series, values: pl.Series, first_row: int, faults: list[Fault]
) -> NDArray[np.float64]:
    """Numbers that were read from `cells`, NaN where there is none."""
    numbers = (values.fill_null(np.nan) if values.null_count() else values).to_numpy()
    if values.null_count() != cells.null_count():
        wrong = (values.is_null() & cells.is_not_null()).to_numpy()
        _note(column, "wrong_type", EXPECTED["number"], wrong, first_row, faults)
    if not np.isfinite(numbers).all():
        infinite = values.is_finite().not_().fill_null(value=False).to_numpy()
        _note(column, "non_finite_number", _NOT_FINITE, infinite, first_row, faults)
    return numbers


def _booleans(column: Column, texts: pl.Series, first_row: int, faults: list[Fault]) -> NDArray[np.float64]:
    values = booleans_in(texts)
    if values is None:
        wrong = texts.str.to_lowercase().is_in(["true", "false"]).not_().fill_null(value=False).to_numpy()
        _note(column, "wrong_type", EXPECTED["boolean"], wrong, first_row, faults)
        return np.full(len(texts), np.nan)
    return values.cast(pl.Float64).fill_null(np.nan).to_numpy()


def times_of(column: Column, texts: Coded, first_row: int, faults: list[Fault]) -> NDArray[np.float64]:
    """The seconds since 1970 that texts stand for, NaN where there is none."""
    seconds = [seconds_of(str(text)) for text in texts.values]
    wrong = np.array([*(moment is None for moment in seconds), False])[texts.codes]
    _note(column, "wrong_type", EXPECTED["time"], wrong, first_row, faults)
    return np.array([*seconds, None], np.float64)[texts.codes]


def _note(
    column: Column, code: str, message: str, wrong: NDArray[np.bool_], first_row: int, faults: list[Fault]
) -> None:
    rows: list[int] = np.flatnonzero(wrong)[:MAX_FAULTS].tolist()
    faults += [Fault(f"row {first_row + row + 1}, column {column.name}", code, message) for row in rows]
