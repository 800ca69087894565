"""The whole evaluation of what was learned: once, of the best weights, when a training has ended."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.evaluation.classes import ClassTally
from common.evaluation.tally import make_tally
from common.features.target import NumberTarget
from common.schemas.losses import Quantile
from common.schemas.models import Evaluation
from worker.channel import Vector
from worker.evaluator import Evaluator, pieces, rows_of
from worker.task import TrainingTask
from worker.training_data import PreparedData


def evaluate_wholly(
    task: TrainingTask, prepared: PreparedData, parameters: Vector, numbers: NDArray[np.float64] | None = None
) -> tuple[dict[str, float], Evaluation]:
    """Every metric over the validation rows, and what they are made of.

    `numbers`, shape (rows,), are the targets of a regression as they stand in the data set: those that were trained with
    are rounded, and a 0 among them is no 0 any more.
    """
    data, target = prepared.data, prepared.target
    evaluator = Evaluator(task, data, parameters)
    quantiles = task.loss.quantiles if isinstance(task.loss, Quantile) else ()
    tally = make_tally(target, quantiles, evaluator.middle)
    for piece in pieces(data):
        rows, predictions = rows_of(piece), evaluator.predict(piece)
        if isinstance(tally, ClassTally):
            tally.add(predictions, data.validation_targets[rows], _row_weights(prepared, rows))
        else:
            assert isinstance(target, NumberTarget)
            assert numbers is not None
            with np.errstate(over="ignore"):
                values = target.decode(predictions)
            tally.add(values, numbers[rows])
    return tally.result()


def _row_weights(prepared: PreparedData, rows: slice) -> NDArray[np.floating] | None:
    """How much the rows themselves count, without the weights of their classes."""
    weights, of_classes = prepared.data.validation_weights, prepared.class_weights
    if weights is None or of_classes is None:
        return None if weights is None else weights[rows]
    of_rows = of_classes[prepared.data.validation_targets[rows]]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(of_rows > 0, weights[rows] / of_rows, 1.0)
