"""Columns to a float32 matrix, the same way in training (whole columns) and in prediction (a few records)."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from common.errors import BadData, CorruptRecord, Fault, Invalid, pointer_part
from common.features.columns import Column, Embedded, EncoderDocument, FeatureKind, OneHot, Scaled
from common.features.moments import mean_and_std, standardize, usable_scale
from common.features.records import RecordReader, refusal
from common.features.table import Coded, Table
from common.network.embedding import Embedding
from common.schemas.models import ModelInput

Matrix = NDArray[np.float32]

MAX_CATEGORIES = 1000
JOINT_COLUMNS = 16
JOINT_MAXIMUM = 255
_CHUNK_CELLS = 1 << 19  # float64 cells that are scaled at a time: 4 MiB
_LARGEST = float(np.finfo(np.float32).max)
_TOO_FAR = "the number is too far from those of training"


class FeatureEncoder:
    """What was learned from the training rows about turning columns into numbers.

    Numbers and booleans are standardized: mean 0 and standard deviation 1 over the training rows that have a
    value; a missing value stands at the mean, and a column that never varied becomes 0. Texts become one-hot
    codes, missing a category of its own where training rows had it; a category that training never saw
    becomes all zeros. An embedded column becomes the number of its category instead, and a category that training
    never saw the last number, whose vector starts at zero.

    Pixels are scaled together. Where at least 16 columns hold only whole numbers from 0 to 255 and at least
    half of them reach the highest value among them, they share one mean and standard deviation: a dim border
    pixel, lit in one image of thousands, would otherwise become a number in the hundreds. `joint_columns`
    names them.
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
        self._scaled = [c for c in columns if isinstance(c, Scaled)]
        self._one_hot = [(start, c) for start, c in zip(starts, columns, strict=False) if isinstance(c, OneHot)]
        self._embedded = [(start, c) for start, c in zip(starts, columns, strict=False) if isinstance(c, Embedded)]
        self._means = np.array([[c.mean] for c in self._scaled], np.float64)
        self._scales = np.array([[c.scale] for c in self._scaled], np.float64)
        self._slots = _slots([start for start, c in zip(starts, columns, strict=False) if isinstance(c, Scaled)])

    @classmethod
    def fit(
        cls,
        table: Table,
        columns: Sequence[tuple[str, FeatureKind]],
        rows: NDArray[np.intp],
        embedded: Mapping[str, int] = MappingProxyType({}),
    ) -> FeatureEncoder:
        """Learn from the training `rows`, shape (n,), of `columns`, (name, kind) in the order of the inputs.

        `embedded` gives the width of the vectors of each column that is to have some. Raises `BadData` without rows or columns, or when a column's values don't fit its kind.
        """
        if len(rows) == 0:
            raise BadData("there is no training row")
        fitted: list[Column] = []
        pixels: dict[int, _Pixels] = {}
        for place, (name, kind) in enumerate(columns):
            if kind == "categorical":
                fitted.append(_fit_categories(name, _texts(table, name), rows, embedded.get(name)))
                continue
            values = _numbers(table, name)[rows]
            values = values[~np.isnan(values)]
            if not np.isfinite(values).all():
                raise BadData(f"column {name} holds an infinite number")
            mean, std = mean_and_std(values)
            fitted.append(Scaled(name=name, kind=kind, mean=mean, scale=usable_scale(std)))
            if kind == "numeric" and _could_be_pixels(values):
                pixels[place] = _Pixels(len(values), mean, std, float(values.max()))
        if _are_pixels(pixels.values()):
            mean, std = _pooled(pixels.values())
            for place in pixels:
                fitted[place] = fitted[place].model_copy(
                    update={"mean": mean, "scale": usable_scale(std), "joint": True}
                )
        return cls(fitted)

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """The columns that a prediction needs, in the order of arrays."""
        return tuple(
            ModelInput(name=c.name, kind=c.kind, categories=None if isinstance(c, Scaled) else c.categories)
            for c in self._columns
        )

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

        Beside the result it needs some 10 MiB, whatever the number of rows. Raises `Invalid` (`invalid_data`)
        when a number is so far from those of training that float32 can't hold it, and `BadData` when a column
        doesn't fit. `first_row` is the number of the table's first row, which the error tells.
        """
        count = len(table[self._columns[0].name])
        out = np.empty((count, self.width), np.float32) if out is None else out
        if out.shape != (count, self.width) or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise ValueError(f"out must be float32, C-contiguous and of shape ({count}, {self.width})")
        numbers = [_numbers(table, column.name) for column in self._scaled]
        step = max(1, _CHUNK_CELLS // max(1, len(numbers)))
        for start in range(0, count, step):
            block = np.array([values[start : start + step] for values in numbers], np.float64)
            faults = [
                Fault(f"row {first_row + start + row + 1}, column {name}", "number_too_large", _TOO_FAR)
                for row, name in self._write_scaled(block, out[start : start + step])
            ]
            if faults:
                raise Invalid(
                    f"column {faults[0].pointer.partition('column ')[2]}: {_TOO_FAR}",
                    faults[:100],
                    code="invalid_data",
                )
        for start, column in self._one_hot:
            _write_one_hot(_places(_texts(table, column.name), column), out[:, start : start + column.width])
        for start, embedded in self._embedded:
            _write_numbers(_places(_texts(table, embedded.name), embedded), embedded, out[:, start])
        return out

    def encode_records(self, instances: Sequence[object]) -> Matrix:
        """The matrix of `instances`, float32, C-contiguous, shape (len(instances), width).

        An instance is a mapping by column name, or a sequence in the order of `inputs`; None is a missing
        value. Raises `Invalid` with every fault, 100 at most, at pointers such as `/instances/3/age`.
        """
        cells = self._reader.read(instances)
        out = np.empty((len(cells), self.width), np.float32)
        is_scaled = [isinstance(column, Scaled) for column in self._columns]
        too_far = self._write_scaled(cells[:, is_scaled].T, out)
        if too_far:
            raise refusal(
                [Fault(f"/instances/{r}/{pointer_part(name)}", "number_too_large", _TOO_FAR) for r, name in too_far]
            )
        for codes, (start, column) in zip(cells.T, self.placed, strict=True):
            if isinstance(column, OneHot):
                _write_one_hot(codes.astype(np.intp), out[:, start : start + column.width])
            elif isinstance(column, Embedded):
                _write_numbers(codes.astype(np.intp), column, out[:, start])
        return out

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

    def _write_scaled(self, block: NDArray[np.float64], out: Matrix) -> list[tuple[int, str]]:
        """Scale `block`, shape (columns, rows), into `out`; the (row, column) float32 can't hold."""
        if not self._scaled:
            return []
        with np.errstate(over="ignore"):
            block = standardize(block, self._means, self._scales)
        block[np.isnan(block)] = 0.0
        if max(block.max(), -block.min()) > _LARGEST:
            return [(int(row), self._scaled[column].name) for row, column in np.argwhere(np.abs(block.T) > _LARGEST)]
        out[:, self._slots] = block.T
        return []


@dataclass(frozen=True, slots=True)
class _Pixels:
    """A column that looks like the brightness of one pixel."""

    count: int
    mean: float
    std: float
    maximum: float


def _could_be_pixels(values: NDArray[np.float64]) -> bool:
    return bool(
        values.size and values.min() >= 0 and values.max() <= JOINT_MAXIMUM and (values == np.floor(values)).all()
    )


def _are_pixels(columns: Collection[_Pixels]) -> bool:
    brightest = max((column.maximum for column in columns), default=0.0)
    reached = sum(column.maximum == brightest for column in columns)
    return len(columns) >= JOINT_COLUMNS and 2 * reached >= len(columns)


def _pooled(columns: Collection[_Pixels]) -> tuple[float, float]:
    """Mean and standard deviation of all columns' values taken together."""
    count = sum(c.count for c in columns)
    mean = math.fsum(c.count * c.mean for c in columns) / count
    variance = math.fsum(c.count * (c.std**2 + (c.mean - mean) ** 2) for c in columns) / count
    return mean, math.sqrt(variance)


def _fit_categories(name: str, column: Coded, rows: NDArray[np.intp], vector: int | None) -> OneHot | Embedded:
    codes = column.codes[rows]
    counts = np.bincount(codes[codes >= 0], minlength=len(column.values))
    most_frequent = np.argsort(-counts, kind="stable")[:MAX_CATEGORIES]
    seen = tuple(sorted(str(column.values[code]) for code in most_frequent if counts[code]))
    missing = bool((codes < 0).any())
    if vector is None:
        return OneHot(name=name, kind="categorical", categories=seen, missing=missing)
    return Embedded(name=name, kind="categorical", categories=seen, missing=missing, vector=vector)


def _places(texts: Coded, column: OneHot | Embedded) -> NDArray[np.intp]:
    """The place of each row's category among the column's; -1 for one it does not know."""
    places = {text: place for place, text in enumerate(column.categories)}
    lookup = [places.get(str(text), -1) for text in texts.values] + [column.missing_place]
    return np.array(lookup, np.intp)[texts.codes]


def _numbers(table: Table, name: str) -> NDArray[np.float64]:
    column = table[name]
    if isinstance(column, Coded):
        raise BadData(f"column {name} holds text, where numbers are expected")
    return column


def _texts(table: Table, name: str) -> Coded:
    column = table[name]
    if not isinstance(column, Coded):
        raise BadData(f"column {name} holds numbers, where text is expected")
    return column


def _slots(starts: Sequence[int]) -> slice | NDArray[np.intp]:
    """Where scaled columns stand in the matrix; a slice, which is quicker, when they stand side by side."""
    if starts and starts[-1] - starts[0] + 1 == len(starts):
        return slice(starts[0], starts[-1] + 1)
    return np.array(starts, np.intp)


def _write_one_hot(places: NDArray[np.intp], out: Matrix) -> None:
    """A one in each row at its place; a negative place leaves zeros."""
    out[:] = 0.0
    known = np.flatnonzero(places >= 0)
    out[known, places[known]] = 1.0


def _write_numbers(places: NDArray[np.intp], column: Embedded, out: NDArray[np.float32]) -> None:
    """The places themselves, which float32 holds exactly; that of the unknown where one is negative."""
    out[:] = np.where(places < 0, column.unknown_place, places)
