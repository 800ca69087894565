"""Tensors as rows of cells, which a model's encoder takes some at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import Fault, pointer_part
from common.features.categories import CategoryColumn
from common.features.columns import Column
from common.features.numbers import MISSING_REFUSED, Wrong
from common.features.records import MAX_FAULTS, refusal
from service import problems
from service.batches import Rows
from service.inference_protocol.datatypes import DATATYPES, NUMBERS, datatypes_for, held_by
from service.inference_protocol.request import InputTensor
from service.inference_protocol.tensors import Tensor, Texts, faults_of_form, read_tensors

MATRIX = "instances"
"""What the tensor is called that holds all columns."""
_NAMES_SHOWN = 20
_NOT_FINITE: Wrong = ("non_finite_number", "must be a finite number; NaN is a missing one")
_NO_BOOLEAN: Wrong = ("wrong_type", "must be 0 or 1; NaN is a missing one")


class MatrixRows(Rows):
    """Some rows of one tensor of all columns, in the order of the inputs.

    Args:
        numbers: shape (rows, columns).
        columns: of the model.
        pointer: where the tensor stands in the request.
        first: how many rows of it stand before.

    """

    def __init__(self, numbers: NDArray[Any], columns: Sequence[Column], pointer: str, first: int = 0) -> None:
        self.count = len(numbers)
        self._numbers = numbers
        self._pointer = pointer
        self._first = first
        self._refusing = np.array([column.refuses_missing for column in columns])
        self._places = {column.name: place for place, column in enumerate(columns)}

    def cells(self, start: int, stop: int) -> NDArray[Any]:
        """A view."""
        cells = self._numbers[start:stop]
        if cells.dtype.kind == "f" and not np.isfinite(cells).all():
            self._check(cells, start)
        return cells

    def _check(self, cells: NDArray[Any], start: int) -> None:
        wrong = ((np.isinf(cells), _NOT_FINITE), (np.isnan(cells) & self._refusing, MISSING_REFUSED))
        faults = [
            Fault(self._place(start + row, column), *why)
            for found, why in wrong
            for row, column in np.argwhere(found)[:MAX_FAULTS].tolist()
        ]
        if faults:
            raise refusal(faults)

    def place(self, row: int, name: str) -> str:
        """By the row and the place of the column."""
        return self._place(row, self._places[name])

    def place_of_row(self, row: int) -> str:
        """Where it begins."""
        return self._place(row, 0)

    def _place(self, row: int, column: int) -> str:
        return f"{self._pointer}/data/{(self._first + row) * self._numbers.shape[1] + column}"


class ColumnRows(Rows):
    """A tensor for each column; what is wrong with their values is added to `faults`."""

    def __init__(self, tensors: Mapping[str, Tensor], columns: Sequence[Column], faults: list[Fault]) -> None:
        self.count = tensors[columns[0].name].rows
        self._tensors = tensors
        self._first = columns[0].name
        self._columns = [_cells_of(column, tensors[column.name], faults) for column in columns]

    def cells(self, start: int, stop: int) -> NDArray[Any]:
        """As float64."""
        block = np.empty((len(self._columns), stop - start), np.float64)
        for row, column in zip(block, self._columns, strict=True):
            row[:] = column[start:stop]
        return block.T

    def place(self, row: int, name: str) -> str:
        """By the tensor of the column."""
        return self._tensors[name].place(row)

    def place_of_row(self, row: int) -> str:
        """In the tensor of the first column."""
        return self.place(row, self._first)


def faults_of_inputs(inputs: Sequence[InputTensor], columns: Sequence[Column]) -> Iterator[Fault]:
    """What keeps tensors from being the rows of a model with these columns, as far as their form tells."""
    yield from faults_of_form(inputs)
    yield from (
        _faults_of_matrix(inputs[0], columns) if is_matrix(inputs, columns) else _faults_of_columns(inputs, columns)
    )
    if len({tensor.rows for tensor in inputs}) > 1:
        yield Fault("/inputs", "wrong_shape", "all must have the same number of rows")
    elif inputs[0].rows == 0:
        yield Fault("/inputs/0/shape/0", "empty", "must hold at least one row")


def read_rows(inputs: Sequence[InputTensor], binary: memoryview, columns: Sequence[Column]) -> Rows:
    """The rows of tensors whose form is right.

    Raises:
        Invalid: their values do not fit; every fault is named.

    """
    faults = list[Fault]()
    tensors = read_tensors(inputs, binary, faults)
    if faults:
        raise problems.invalid(faults)
    if is_matrix(inputs, columns):
        (tensor,) = tensors
        assert isinstance(tensor.values, np.ndarray)
        return MatrixRows(tensor.values.reshape(tensor.rows, tensor.width), columns, tensor.pointer)
    rows = ColumnRows({tensor.name: tensor for tensor in tensors}, columns, faults)
    if faults:
        raise problems.invalid(faults)
    return rows


def is_matrix(inputs: Sequence[InputTensor], columns: Sequence[Column]) -> bool:
    """Whether one tensor is all columns."""
    all_numbers = all(column.kind == "numeric" for column in columns)
    return len(inputs) == 1 and inputs[0].name == MATRIX and all_numbers and [c.name for c in columns] != [MATRIX]


def _faults_of_matrix(given: InputTensor, columns: Sequence[Column]) -> Iterator[Fault]:
    if given.datatype not in NUMBERS:
        yield Fault("/inputs/0/datatype", "wrong_type", f"must be one of: {', '.join(NUMBERS)}")
    if len(given.shape) != 2 or given.shape[1] != len(columns):
        yield Fault("/inputs/0/shape", "wrong_shape", f"must be [rows, {len(columns)}], a number for each input")


def _faults_of_columns(inputs: Sequence[InputTensor], columns: Sequence[Column]) -> Iterator[Fault]:
    by_name = {column.name: column for column in columns}
    given = {tensor.name for tensor in inputs}
    names = list(by_name)
    shown = ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
    for name in names:
        if name not in given:
            message = f"there is no tensor for the input {pointer_part(name)}; expected: {shown}"
            yield Fault("/inputs", "missing_column", message)
    for index, tensor in enumerate(inputs):
        column = by_name.get(tensor.name)
        if column is None:
            yield Fault(f"/inputs/{index}/name", "unknown_column", f"is none of the inputs: {shown}")
            continue
        allowed = datatypes_for(column)
        if tensor.datatype in DATATYPES and tensor.datatype not in allowed:
            yield Fault(f"/inputs/{index}/datatype", "wrong_type", f"must be one of: {', '.join(allowed)}")
        if tensor.shape[1:] not in ((), (1,)):
            yield Fault(f"/inputs/{index}/shape", "wrong_shape", "must be [rows, 1] or [rows]")


def _cells_of(column: Column, tensor: Tensor, faults: list[Fault]) -> NDArray[Any]:
    """The cells of one column, shape (rows,), of any kind of number."""
    values = tensor.values
    if isinstance(values, list):
        return _cells_of_texts(column, tensor, values, faults)
    if values.dtype.kind == "f":
        missing = np.isnan(values)
        if held_by(column) == "boolean":
            wrong, why = ~missing & (values != 0) & (values != 1), _NO_BOOLEAN
        else:
            wrong, why = np.isinf(values), _NOT_FINITE
        faults += [Fault(tensor.place(row), *why) for row in np.flatnonzero(wrong)[:MAX_FAULTS].tolist()]
        if column.refuses_missing:
            places = np.flatnonzero(missing)[:MAX_FAULTS].tolist()
            faults += [Fault(tensor.place(row), *MISSING_REFUSED) for row in places]
    return column.cells(values.astype(np.float64)) if isinstance(column, CategoryColumn) else values


def _cells_of_texts(column: Column, tensor: Tensor, texts: Texts, faults: list[Fault]) -> NDArray[np.float64]:
    """Each different text is read once."""
    known: dict[str | None, float | Wrong] = {text: column.cell(text) for text in set(texts)}
    cells = [known[text] for text in texts]
    wrong = [(row, cell) for row, cell in enumerate(cells) if isinstance(cell, tuple)][:MAX_FAULTS]
    faults += [Fault(tensor.place(row), *why) for row, why in wrong]
    return np.empty(0) if wrong else np.array(cells, np.float64)
