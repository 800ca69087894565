"""A model's predictions for the rows of a stored data set, compared with what the rows say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from common.dataset_inputs import faults_of_inputs, is_empty, read_inputs, shortened
from common.errors import CorruptRecord, Fault, Invalid, NotFound
from common.evaluation.classes import ClassTally
from common.evaluation.numbers import NumberTally
from common.evaluation.tally import make_tally
from common.features.table import MISSING, Coded, StoredTable
from common.features.target import ClassTarget, NumberTarget
from common.learned import LearnedNetwork, refuse_infinite
from common.network.parameters import Floats
from common.schemas.datasets import Column, ColumnKind, Dataset
from common.schemas.models import Evaluation
from service.submission import MAX_CLASSES

_CELLS = 1 << 23
"""Read and encoded at a time: 64 MiB of values and at most 32 MiB of the matrix."""
_STRIPE_ROWS = 1 << 18
"""Most rows that are read at a time: Parquet files come in groups of so many."""
_ROWS = 1024
"""That are predicted at a time."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is to be compared.

    Args:
        network: predicts.
        target: the column it has learned to predict.
        weight_column: weighs the rows in the log loss, where the data set has it.
        dataset: the description of the rows.

    Raises:
        Invalid: the data set has not what the model needs; every fault is named.

    """

    network: LearnedNetwork
    target: str
    weight_column: str | None
    dataset: Dataset

    def __post_init__(self) -> None:
        faults = [*faults_of_inputs(self.network.encoder, self.dataset), *self._faults_of_target()]
        if faults:
            raise Invalid("The data set does not fit the model.", faults)

    def _faults_of_target(self) -> Iterator[Fault]:
        column, name, target = self.dataset.column(self.target), shortened(self.target), self.network.target
        if column is None:
            yield Fault("/dataset_id", "missing_column", f"has no column {name}, the target of the model")
        elif is_empty(column, self.dataset):
            yield Fault("/dataset_id", "too_few_rows", f"no row has a value for the target {name}")
        elif not _is_target(column, target):
            wanted = _kinds_of_classes(target)[1] if isinstance(target, ClassTarget) else "numbers"
            message = f"the column {name} cannot be compared with the model's target: it must hold {wanted}"
            yield Fault("/dataset_id", "unsuitable_target", message)
        elif isinstance(target, ClassTarget) and column.distinct > MAX_CLASSES:
            yield Fault("/dataset_id", "too_many_classes", f"the target {name} has more than {MAX_CLASSES} classes")

    def run(self, path: Path) -> tuple[dict[str, float], Evaluation]:
        """The metrics over the rows at `path` that have a target, and what they are made of.

        Raises:
            Invalid, BadData: a value is too far from those of training.
            NotFound: the rows are gone.
            CorruptRecord: they cannot be read.

        """
        network = self.network
        tally = make_tally(network.target, network.quantiles, network.predictor.middle)
        try:
            table = StoredTable(path, [column.name for column in self.dataset.columns])
            columns = len(network.encoder.inputs) + network.encoder.width
            height = max(1, min(_STRIPE_ROWS, _CELLS // columns))
            for start in range(0, table.rows, height):
                stop = min(start + height, table.rows)
                if isinstance(tally, ClassTally):
                    assert isinstance(network.target, ClassTarget)
                    self._take_classes(table, start, stop, network.target, tally)
                else:
                    self._take_numbers(table, start, stop, tally)
        except FileNotFoundError as error:
            raise NotFound("The rows of this data set are gone.", code="dataset_not_found") from error
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise CorruptRecord("The rows of this data set are damaged.") from error
        metrics, evaluation = tally.result()
        if self.weight_column is not None and isinstance(tally, ClassTally) and self._weights is None:
            message = "log_loss counts every row once: the data set does not have the weights of the training."
            evaluation = evaluation.model_copy(update={"warnings": (*evaluation.warnings, message)})
        return metrics, evaluation

    @property
    def _weights(self) -> str | None:
        """The column of weights, if the data set has it and it can weigh."""
        column = None if self.weight_column is None else self.dataset.column(self.weight_column)
        if column is None or column.kind not in ("numeric", "boolean") or column.missing or (column.min or 0) < 0:
            return None
        return column.name

    def _take_classes(self, table: StoredTable, start: int, stop: int, target: ClassTarget, tally: ClassTally) -> None:
        labels, name = table.labels(self.target, start, stop), self._weights
        weights = None if name is None else table.read([name], start, stop)[name]
        assert not isinstance(weights, Coded)
        kept = np.flatnonzero(labels.codes != MISSING)
        codes = target.encode(labels)
        for rows, probabilities in self._answers(table, start, stop, kept):
            unknown = np.unique(labels.codes[rows[codes[rows] < 0]])
            named = [labels.values[code] for code in unknown]
            tally.add(probabilities, codes[rows], None if weights is None else weights[rows], named)

    def _take_numbers(self, table: StoredTable, start: int, stop: int, tally: NumberTally) -> None:
        numbers = table.read([self.target], start, stop)[self.target]
        assert not isinstance(numbers, Coded)
        for rows, values in self._answers(table, start, stop, np.flatnonzero(~np.isnan(numbers))):
            tally.add(values.astype(np.float64, copy=False), numbers[rows])

    def _answers(
        self, table: StoredTable, start: int, stop: int, kept: NDArray[np.intp]
    ) -> Iterator[tuple[NDArray[np.intp], Floats]]:
        """What the model says of those rows among `start` … `stop` - 1 that are `kept`, some at a time."""
        encoder = self.network.encoder
        x = encoder.encode(read_inputs(encoder, self.dataset, table, start, stop), None, start)
        for first in range(0, len(kept), _ROWS):
            rows = kept[first : first + _ROWS]
            answers = self.network.answers(x[rows])
            refuse_infinite(answers, partial(_place, start, rows))
            yield rows, answers


def _is_target(column: Column, target: ClassTarget | NumberTarget) -> bool:
    if isinstance(target, NumberTarget):
        return column.kind == "numeric"
    kinds, _ = _kinds_of_classes(target)
    return column.kind in kinds and (column.kind != "numeric" or column.integer)


def _kinds_of_classes(target: ClassTarget) -> tuple[tuple[ColumnKind, ...], str]:
    """Of which kinds a column with such classes is, and what it holds; they are all of one type."""
    label = target.classes[0]
    if isinstance(label, bool):
        return ("boolean",), "booleans"
    return (("numeric",), "whole numbers") if isinstance(label, int) else (("categorical", "text"), "texts")


def _place(start: int, rows: NDArray[np.intp], row: int) -> str:
    return f"row {start + int(rows[row]) + 1}"
