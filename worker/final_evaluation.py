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
            weights = None if data.validation_weights is None else data.validation_weights[rows]
            tally.add(predictions, data.validation_targets[rows], weights)
        else:
            assert isinstance(target, NumberTarget)
            assert numbers is not None
            with np.errstate(over="ignore"):
                values = target.decode(predictions)
            tally.add(values, numbers[rows])
    return tally.result()
