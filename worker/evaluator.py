"""The evaluation of a network on validation rows, piece by piece, so that who evaluates which changes no sum."""

from __future__ import annotations

import numpy as np

from common.network.health import LayerHealth, unit_health
from common.network.losses import ClassLoss, NumberLoss
from common.network.metrics import MetricSums, classification_sums, regression_sums
from common.network.network import Network
from common.network.parameters import Floats
from common.network.quiet import quiet
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
        self._network = Network(
            task.shape,
            task.inputs,
            task.outputs,
            task.loss,
            max_rows=rows,
            parameters=parameters,
            embeddings=task.embeddings,
        )

    @property
    def middle(self) -> int:
        """Which of the predictions is the value."""
        loss = self._network.loss
        return loss.middle if isinstance(loss, NumberLoss) else 0

    def predict(self, piece: int) -> Floats:
        """What the network says of the targets of a piece's rows, a new array of shape (rows, outputs)."""
        outputs = self._network.outputs(self._data.validation_x[rows_of(piece)])
        predictions = np.empty_like(outputs)
        with quiet():
            self._network.loss.predict(outputs, predictions)
        return predictions

    def evaluate(self, piece: int) -> MetricSums:
        """The metrics' sums over a piece."""
        rows = rows_of(piece)
        x, targets = self._data.validation_x[rows], self._data.validation_targets[rows]
        weights = None if self._data.validation_weights is None else self._data.validation_weights[rows]
        outputs, loss = self._network.outputs(x), self._network.loss
        weight = float(len(outputs)) if weights is None else float(weights.sum(dtype=np.float64))
        loss_sum = loss.forward(outputs, targets, weights)
        if isinstance(loss, ClassLoss):
            log_loss = loss_sum if loss.is_log_loss else loss.log_loss(outputs, targets, weights)
            return classification_sums(outputs, targets, loss_sum, log_loss, weight)
        assert isinstance(loss, NumberLoss)
        values = np.empty_like(outputs)
        with quiet():
            loss.predict(outputs, values)
        return regression_sums(values[:, loss.middle : loss.middle + 1], targets, loss_sum, weight)

    def health(self) -> tuple[LayerHealth, ...]:
        """How alive the units are that the last evaluated piece has met."""
        return unit_health(self._network.last)


def rows_of(piece: int) -> slice:
    """Which of the validation rows are a piece's."""
    return slice(piece * _ROWS, (piece + 1) * _ROWS)


def pieces(data: SharedRows) -> range:
    """The pieces that validation rows are evaluated in, by number."""
    return range(-(-len(data.validation_x) // _ROWS))
