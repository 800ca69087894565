"""A stored data set as the rows that a model is to predict: whether it has the inputs, and what they hold."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from common.errors import Fault
from common.features.encoder import FeatureEncoder
from common.features.table import StoredTable, TableColumn
from common.schemas.datasets import Column, Dataset

_HOLDS = {
    "numeric": "numbers",
    "boolean": "booleans",
    "categorical": "texts",
    "text": "texts",
    "datetime": "dates or times",
}
_LONGEST_NAME = 100


def faults_of_inputs(encoder: FeatureEncoder, dataset: Dataset) -> Iterator[Fault]:
    """What a data set lacks of a model's inputs."""
    columns = {column.name: column for column in dataset.columns}
    for wanted in encoder.columns:
        column, name = columns.get(wanted.name), shortened(wanted.name)
        if column is None:
            yield Fault("/dataset_id", "missing_column", f"has no column {name}, an input of the model")
        elif column.kind not in wanted.holds and not is_empty(column, dataset):
            message = f"the column {name} holds {_HOLDS[column.kind]}; the model needs {_HOLDS[wanted.holds[0]]}"
            yield Fault("/dataset_id", "unsuitable_column", message)


def read_inputs(
    encoder: FeatureEncoder, dataset: Dataset, table: StoredTable, start: int, stop: int
) -> dict[str, TableColumn]:
    """The inputs in the rows `start` … `stop` - 1 of a data set without such faults.

    A column without any value may be of whatever kind, and comes as numbers, all missing.
    """
    columns = {wanted.name: dataset.column(wanted.name) for wanted in encoder.inputs}
    empty = {name for name, column in columns.items() if column is not None and is_empty(column, dataset)}
    values = table.read([name for name in columns if name not in empty], start, stop)
    return values | dict.fromkeys(empty, np.full(stop - start, np.nan))


def is_empty(column: Column, dataset: Dataset) -> bool:
    """Whether a column of a data set has no value in any row."""
    return column.missing == dataset.rows


def shortened(name: str) -> str:
    """A column's name as a message has room for it."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"
