"""The evaluation of a network on validation rows, piece by piece, so that who evaluates which changes no sum."""

from __future__ import annotations

import numpy as np

from common.network.metrics import MetricSums, classification_sums, regression_sums
from common.network.network import Network
from worker.channel import Vector
from worker.shared_rows import SharedRows
from worker.task import TrainingTask

_ROWS = 512
"""Of a piece."""


class Evaluator:
    """Evaluates parameters, as they are at the time, on validation rows.

    Args:
        task: what is trained.
        data: the rows.
        parameters: the whole vector; may change between calls.

    """

    def __init__(self, task: TrainingTask, data: SharedRows, parameters: Vector) -> None:
        self._task = task
        self._data = data
        rows = min(_ROWS, len(data.validation_x))
        self._network = Network(task.shape, task.inputs, task.outputs, task.loss, max_rows=rows, parameters=parameters)

    def evaluate(self, piece: int) -> MetricSums:
        """The metrics' sums over a piece."""
        rows = slice(piece * _ROWS, (piece + 1) * _ROWS)
        x, targets = self._data.validation_x[rows], self._data.validation_targets[rows]
        weights = None if self._data.validation_weights is None else self._data.validation_weights[rows]
        outputs = self._network.outputs(x)
        loss = self._network.loss.forward(outputs, targets, weights)
        measure = classification_sums if self._task.task == "classification" else regression_sums
        weight = None if weights is None else float(weights.sum(dtype=np.float64))
        return measure(outputs, targets, loss, weight)


def pieces(data: SharedRows) -> range:
    """The pieces that validation rows are evaluated in, by number."""
    return range(-(-len(data.validation_x) // _ROWS))
