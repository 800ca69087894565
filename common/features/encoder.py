"""Columns to a float32 matrix, the same way in training (whole columns) and in prediction (a few records)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from common.errors import BadData, CorruptRecord, Fault, Invalid, pointer_part
from common.features.bounds import Bounds, Strangers
from common.features.categories import CategoryColumn, Embedded, fit_categories
from common.features.columns import Column, EncoderDocument
from common.features.feature import Feature
from common.features.moments import Standardizer
from common.features.numbers import Cells, Scaled, fit_number, signed_log
from common.features.pixels import Pixels
from common.features.records import RecordReader, refusal
from common.features.table import Table
from common.features.times import fit_times
from common.network.embedding import Embedding
from common.schemas.models import ModelInput

Matrix = NDArray[np.float32]

_CHUNK_CELLS = 1 << 19  # float64 cells that are scaled at a time: 4 MiB
_LARGEST = float(np.finfo(np.float32).max)
_TOO_FAR = "the number is too far from those of training"
_MISSING = "the value is missing, which the model refuses"
_FAULTS = 100


def _pointer(row: int, name: str) -> str:
    return f"/instances/{row}/{pointer_part(name)}"


class FeatureEncoder:
    """What was learned from the training rows about turning columns into numbers.

    What becomes of a column is told in `numbers`, `times` and `categories`; columns that look like pixels are scaled
    together (see `pixels`), and `joint_columns` names them.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        if not columns:
            raise BadData("there is no column to learn from")
        if len({column.name for column in columns}) < len(columns):
            raise BadData("a column is named twice among the features")
        self._columns = tuple(columns)
        starts: list[int] = np.cumsum([0] + [column.width for column in columns]).tolist()
        self.width = starts[-1]
        """How many numbers a row becomes."""
        placed = list(zip(starts, columns, strict=False))
        scaled = [(start, column) for start, column in placed if isinstance(column, Scaled)]
        self._scaled = [column for _, column in scaled]
        self._scaled_cells = _slots([place for place, column in enumerate(columns) if isinstance(column, Scaled)])
        self._slots = _slots([start for start, _ in scaled])
        self._standardize = Standardizer(
            np.array([[column.mean] for column in self._scaled], np.float64),
            np.array([[column.scale] for column in self._scaled], np.float64),
        )
        self._fills = np.array([[column.filled] for column in self._scaled], np.float64)
        self._logarithms = np.array([place for place, column in enumerate(self._scaled) if column.logarithm], np.intp)
        self._indicators = [(start + 1, place) for place, (start, column) in enumerate(scaled) if column.indicator]
        self._others = [
            (place, start, column) for place, (start, column) in enumerate(placed) if not isinstance(column, Scaled)
        ]
        self._embedded = [(start, column) for start, column in placed if isinstance(column, Embedded)]

    @classmethod
    def fit(cls, table: Table, features: Sequence[Feature], rows: NDArray[np.intp]) -> FeatureEncoder:
        """Learn from the training `rows`, shape (n,), of the columns of `features`, in the order of the inputs.

        Raises `BadData` without rows or columns, or when a column's values don't fit what is wanted of it.
        """
        if len(rows) == 0:
            raise BadData("there is no training row")
        fitted: list[Column] = []
        pixels = Pixels()
        for place, feature in enumerate(features):
            values = table[feature.name]
            if feature.kind == "categorical":
                fitted.append(fit_categories(feature, values, rows))
            elif feature.kind == "datetime":
                fitted.append(fit_times(feature, values, rows))
            else:
                column = fit_number(feature, values, rows)
                fitted.append(column)
                if isinstance(column, Scaled):
                    pixels.look_at(place, feature, column, column.cells(values)[rows])
        return cls(pixels.scaled_together(fitted))

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """The columns that a prediction needs, in the order of arrays."""
        return tuple(
            ModelInput(name=c.name, kind=c.kind, categories=c.categories if isinstance(c, CategoryColumn) else None)
            for c in self._columns
        )

    @property
    def columns(self) -> tuple[Column, ...]:
        """What was learned about each."""
        return self._columns

    @property
    def placed(self) -> Iterator[tuple[int, Column]]:
        """Each column, and the first of its places in a row of the matrix."""
        place = 0
        for column in self._columns:
            yield place, column
            place += column.width

    @property
    def embeddings(self) -> tuple[Embedding, ...]:
        """What the network is to learn of embedded columns."""
        return tuple(Embedding(start, c.unknown_place + 1, c.vector) for start, c in self._embedded)

    @property
    def owners(self) -> NDArray[np.intp]:
        """The place of the column that each number comes from, once embedded columns are vectors: see `EmbeddedInputs`."""
        plain = [0 if isinstance(column, Embedded) else column.width for column in self._columns]
        vectors = [column.vector if isinstance(column, Embedded) else 0 for column in self._columns]
        places = np.arange(len(self._columns))
        return np.concatenate([places.repeat(plain), places.repeat(vectors)])

    @property
    def joint_columns(self) -> tuple[str, ...]:
        """The columns that were scaled together, as pixels are."""
        return tuple(column.name for column in self._scaled if column.joint)

    def parts(self, numbers: int) -> Iterator[tuple[slice, tuple[str, ...], FeatureEncoder]]:
        """The encoder in parts of columns that stand side by side: their places in a row, names, and encoder.

        Each is at most so many `numbers` wide, or a single column.
        """
        first, start, width = 0, 0, 0
        for index, column in enumerate(self._columns):
            if width and width + column.width > numbers:
                yield self._part(first, index, start)
                first, start, width = index, start + width, 0
            width += column.width
        yield self._part(first, len(self._columns), start)

    def _part(self, first: int, stop: int, start: int) -> tuple[slice, tuple[str, ...], FeatureEncoder]:
        part = FeatureEncoder(self._columns[first:stop])
        return slice(start, start + part.width), tuple(column.name for column in part._columns), part

    @property
    def widest(self) -> int:
        """How many numbers the widest column becomes."""
        return max(column.width for column in self._columns)

    def encode(self, table: Table, out: Matrix | None = None, first_row: int = 0) -> Matrix:
        """The matrix of whole columns, float32, C-contiguous, shape (rows, width); in `out` where given.

        Beside the result it needs some 10 MiB and a few copies of one column, whatever the number of rows. Raises
        `Invalid` (`invalid_data`) when a number is so far from those of training that float32 can't hold it, or a value
        is missing that must not be, and `BadData` when a column doesn't fit. `first_row` is the number of the table's
        first row, which the error tells.
        """
        count = len(table[self._columns[0].name])
        out = np.empty((count, self.width), np.float32) if out is None else out
        if out.shape != (count, self.width) or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise ValueError(f"out must be float32, C-contiguous and of shape ({count}, {self.width})")
        numbers = [column.cells(table[column.name]) for column in self._scaled]
        for column, cells in zip(self._scaled, numbers, strict=True):
            _refuse_missing(column, cells, first_row)
        step = max(1, _CHUNK_CELLS // max(1, len(numbers)))
        for start in range(0, count, step):
            block = np.array([values[start : start + step] for values in numbers], np.float64)
            too_far = self._write_scaled(block, out[start : start + step])
            if too_far:
                raise _unusable(first_row + start, too_far, "number_too_large", _TOO_FAR)
        for _, start, other in self._others:
            cells = other.cells(table[other.name])
            _refuse_missing(other, cells, first_row)
            other.write(cells, out[:, start : start + other.width])
        return out

    def encode_records(self, instances: Sequence[object]) -> Matrix:
        """The matrix of `instances`, float32, C-contiguous, shape (len(instances), width).

        An instance is a mapping by column name, or a sequence in the order of `inputs`; None is a missing
        value. Raises `Invalid` with every fault, 100 at most, at pointers such as `/instances/3/age`.
        """
        return self.encode_cells(self.cells(instances))

    def cells(self, instances: Sequence[object]) -> Cells:
        """What the columns make of `instances`, shape (instances, columns): numbers, seconds, places of categories.

        Raises `Invalid` as `encode_records` does.
        """
        return self._reader.read(instances)

    def strangers(self, cells: Cells) -> Strangers:
        """Those among `cells`, shape (rows, columns), that are unlike what training rows had."""
        return self._bounds.strangers(cells)

    def encode_cells(self, cells: NDArray[Any], place: Callable[[int, str], str] = _pointer) -> Matrix:
        """The matrix of rows whose values are cells already, float32, C-contiguous, shape (rows, width).

        `cells`, shape (rows, columns), are numbers of any dtype as the `cell` of each column makes them; NaN is missing.
        Raises `Invalid` when a number is so far from those of training that float32 can't hold it; `place` names a cell
        by its row and column.
        """
        out = np.empty((len(cells), self.width), np.float32)
        if too_far := self._write_scaled(cells[:, self._scaled_cells].T, out):
            raise refusal([Fault(place(row, name), "number_too_large", _TOO_FAR) for row, name in too_far[:_FAULTS]])
        for cell, start, other in self._others:
            values = cells[:, cell].astype(np.float64, copy=False)
            other.write(values, out[:, start : start + other.width])
        return out

    @cached_property
    def all_missing(self) -> Matrix:
        """A row whose every value is missing, shape (1, width), also of columns that refuse missing values."""
        columns = [column.model_copy(update={"refuses_missing": False}) for column in self._columns]
        return FeatureEncoder(columns).encode_records([[None] * len(columns)])

    def to_document(self) -> dict[str, object]:
        """The encoder as JSON can say it; `from_document` gives back the same, to the last bit."""
        return EncoderDocument(columns=self._columns).model_dump(mode="json")

    @classmethod
    def from_document(cls, document: Mapping[str, object]) -> FeatureEncoder:
        """The encoder that was saved; raises `CorruptRecord` for anything else."""
        try:
            return cls(EncoderDocument.model_validate(document).columns)
        except (ValidationError, BadData) as error:
            raise CorruptRecord("the saved feature encoder can't be read") from error

    @cached_property
    def _reader(self) -> RecordReader:
        return RecordReader(self._columns)

    @cached_property
    def _bounds(self) -> Bounds:
        return Bounds(self._columns)

    def _write_scaled(self, block: NDArray[Any], out: Matrix) -> list[tuple[int, str]]:
        """Scale `block`, shape (columns, rows), into `out`; the (row, column) float32 can't hold."""
        if not self._scaled:
            return []
        for place, column in self._indicators:
            out[:, place] = np.isnan(block[column])
        if self._logarithms.size:
            block = block.astype(np.float64)
            for column in self._logarithms:
                block[column] = signed_log(block[column])
        with np.errstate(over="ignore"):
            block = self._standardize(block)
        if not _fits(block):
            np.copyto(block, self._fills, where=np.isnan(block))
        if not _fits(block):
            return [(int(row), self._scaled[column].name) for row, column in np.argwhere(np.abs(block.T) > _LARGEST)]
        out[:, self._slots] = block.T
        return []


def _fits(block: NDArray[np.float64]) -> bool:
    """Whether float32 can hold it all, and nothing is missing; with a NaN, both ends are NaN."""
    return bool(block.min() >= -_LARGEST and block.max() <= _LARGEST)


def _refuse_missing(column: Column, cells: Cells, first_row: int) -> None:
    if column.refuses_missing and (missing := np.flatnonzero(np.isnan(cells))).size:
        raise _unusable(first_row, [(int(row), column.name) for row in missing[:_FAULTS]], "missing_value", _MISSING)


def _unusable(first_row: int, cells: Sequence[tuple[int, str]], code: str, message: str) -> Invalid:
    """The error for cells, by row and column, that a model can't take."""
    faults = [Fault(f"row {first_row + row + 1}, column {name}", code, message) for row, name in cells[:_FAULTS]]
    return Invalid(f"column {cells[0][1]}: {message}", faults, code="invalid_data")


def _slots(starts: Sequence[int]) -> slice | NDArray[np.intp]:
    """Where scaled columns stand in the matrix; a slice, which is quicker, when they stand side by side."""
    if starts and starts[-1] - starts[0] + 1 == len(starts):
        return slice(starts[0], starts[-1] + 1)
    return np.array(starts, np.intp)
