"""Metrics as sums over rows, so that shards are measured apart and added up."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.network.parameters import Floats
from common.schemas.models import Task


@dataclass(frozen=True, slots=True)
class MetricSums:
    """What is known of the rows seen so far: sums, in float64, of all that the metrics need.

    Targets of a regression are standardized here (training mean 0, training deviation 1). That keeps the sums
    behind r2 well conditioned wherever the target's own zero lies.
    """

    rows: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    squared_error: float = 0.0
    absolute_error: float = 0.0
    target_sum: float = 0.0
    target_square_sum: float = 0.0

    def merge(self, other: MetricSums) -> MetricSums:
        """The sums over the rows of both."""
        return MetricSums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def loss(self) -> float:
        """The mean loss of a row. Raises ValueError without rows."""
        return self.loss_sum / self._some_rows()

    def metrics(self, task: Task, scale: float = 1.0) -> dict[str, float]:
        """`accuracy` and `log_loss` (nats), or `rmse`, `mae` (in the target's units) and `r2`.

        `scale` is how much of the target's own unit a standardized 1 is. When all targets are the same, r2 is
        1 for a perfect prediction and else 0, as in scikit-learn. Raises ValueError without rows.
        """
        rows = self._some_rows()
        if task == "classification":
            return {"accuracy": self.correct / rows, "log_loss": self.loss}
        spread = self.target_square_sum - self.target_sum**2 / rows
        # Equal targets leave a rounding error of either sign instead of 0.
        if spread <= 1e-13 * self.target_square_sum:
            r2 = 1.0 if self.squared_error == 0 else 0.0
        else:
            r2 = 1 - self.squared_error / spread
        return {
            "rmse": scale * math.sqrt(self.squared_error / rows),
            "mae": scale * self.absolute_error / rows,
            "r2": r2,
        }

    def _some_rows(self) -> int:
        if not self.rows:
            raise ValueError("metrics need at least one row")
        return self.rows


def classification_sums(outputs: Floats, targets: NDArray[Any], loss_sum: float) -> MetricSums:
    """The sums for outputs, shape (rows, classes), and class numbers, shape (rows,).

    `loss_sum` is that of the loss over these rows. A row is correct when its class has the largest output.
    """
    correct = np.count_nonzero(outputs.argmax(axis=1) == targets)
    return MetricSums(rows=len(targets), loss_sum=loss_sum, correct=int(correct))


def regression_sums(outputs: Floats, targets: NDArray[Any], loss_sum: float) -> MetricSums:
    """The sums for outputs and standardized targets, both of shape (rows, 1).

    `loss_sum` is that of the loss over these rows. Raises ValueError for other shapes.
    """
    if targets.shape != (len(targets), 1) or outputs.shape != targets.shape:
        raise ValueError(f"outputs and targets of shape (rows, 1) are needed, not {outputs.shape} and {targets.shape}")
    wanted = targets.astype(np.float64)
    error = outputs.astype(np.float64) - wanted
    return MetricSums(
        rows=len(targets),
        loss_sum=loss_sum,
        squared_error=float(np.square(error).sum()),
        absolute_error=float(np.abs(error).sum()),
        target_sum=float(wanted.sum()),
        target_square_sum=float(np.square(wanted).sum()),
    )
