"""Predictions of whole tables as columns: what a file of rows, or a stored data set, is answered with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import polars as pl

from common.features.table import TableColumn
from common.features.target import ClassTarget, name_of
from common.learned import LearnedNetwork, refuse_infinite
from common.network.parameters import Floats

LABEL: Final = "label"
PROBABILITY: Final = "probability_"
"""What the name of a column of probabilities begins with; the class follows."""
VALUE: Final = "value"
QUANTILE: Final = "quantile_"
"""What the name of a column of quantiles begins with; the quantile follows."""

_CELLS: Final = 1 << 23
"""64 MiB of values and at most 32 MiB of the matrix."""
_MOST_ROWS: Final = 1 << 18
_ROWS: Final = 2048
"""That go through the network at a time: their activations stay near the processor."""


def table_height(network: LearnedNetwork) -> int:
    """How many rows are best given to `predicted_columns`, whose matrix of all of them is to fit into memory."""
    encoder, outputs = network.encoder, len(_names(network))
    return max(1, min(_MOST_ROWS, _CELLS // (len(encoder.columns) + encoder.width + outputs)))


def predicted_columns(network: LearnedNetwork, table: Mapping[str, TableColumn], first_row: int = 0) -> pl.DataFrame:
    """What the network says of each row of `table`, in its order.

    The columns are `label`, in the type of the data, and `probability_<class>` for each class (Float32); or `value`, and
    `quantile_<q>` for each quantile of the loss (Float64). `first_row` is the number of the table's first row, counted from
    0, for the errors, which count from 1.

    Raises:
        Invalid: a value is missing that must not be, too far from those of training, or its answer is no finite number
            (`non_finite_output`); faults stand at `row 7` or `row 7, column age`.
        BadData: a column does not hold what the encoder takes.

    """
    return columns_of_matrix(network, network.encoder.encode(table, None, first_row), first_row)


def columns_of_matrix(
    network: LearnedNetwork, x: Floats, first_row: int = 0, threshold: float | None = None
) -> pl.DataFrame:
    """The same for rows that are encoded already, shape (rows, width); labels by the `threshold`, if there is one.

    Raises:
        Invalid: an answer is no finite number (`non_finite_output`).

    """
    parts = [network.answers(x[start : start + _ROWS]) for start in range(0, len(x), _ROWS)]
    answers: Floats = parts[0] if len(parts) == 1 else np.concatenate(parts)
    refuse_infinite(answers, lambda row: f"row {first_row + row + 1}")
    columns = np.ascontiguousarray(answers.T)
    return pl.DataFrame([_first_column(network, answers, threshold), *map(pl.Series, _names(network), columns)])


def _first_column(network: LearnedNetwork, answers: Floats, threshold: float | None) -> pl.Series:
    """The label, or the value."""
    if isinstance(network.target, ClassTarget):
        return pl.Series(LABEL, list(network.target.classes)).gather(network.chosen(answers, threshold))
    return pl.Series(VALUE, answers[:, network.predictor.middle])


def _names(network: LearnedNetwork) -> list[str]:
    """Of all columns but the first."""
    if isinstance(network.target, ClassTarget):
        return [f"{PROBABILITY}{name_of(label)}" for label in network.target.classes]
    return [f"{QUANTILE}{quantile:g}" for quantile in network.quantiles]
