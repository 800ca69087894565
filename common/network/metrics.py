"""Metrics as sums over rows, so that shards are measured apart and added up."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.network.parameters import Floats
from common.schemas.models import Task


@dataclass(frozen=True, slots=True)
class MetricSums:
    """What is known of the rows seen so far: sums, in float64, of all that the metrics need.

    `loss_sum` and `log_loss_sum` are weighted, and `weight` is the sum of the rows' weights; all else counts each row once. Targets
    of a regression are standardized here (training mean 0, training deviation 1). That keeps the sums behind r2
    well conditioned wherever the target's own zero lies.
    """

    rows: int = 0
    weight: float = 0.0
    loss_sum: float = 0.0
    log_loss_sum: float = 0.0
    correct: int = 0
    squared_error: float = 0.0
    absolute_error: float = 0.0
    target_sum: float = 0.0
    target_square_sum: float = 0.0

    @classmethod
    def total(cls, parts: Iterable[MetricSums]) -> MetricSums:
        """The sums over the rows of all parts, correctly rounded: the same for any order of the parts."""
        parts = tuple(parts)
        sums: dict[str, Any] = {}
        for field in fields(cls):
            add = sum if isinstance(field.default, int) else _float_sum
            sums[field.name] = add([getattr(part, field.name) for part in parts])
        return cls(**sums)

    @property
    def loss(self) -> float:
        """The weighted mean of the rows' losses. Raises ValueError without weight."""
        if not self.weight:
            raise ValueError("a mean loss needs at least one row, and some weight")
        return self.loss_sum / self.weight

    def metrics(self, task: Task, scale: float = 1.0) -> dict[str, float]:
        """`accuracy` and `log_loss` (nats), or `rmse`, `mae` (in the target's units) and `r2`.

        `scale` is how much of the target's own unit a standardized 1 is. When all targets are the same, r2 is
        1 for a perfect prediction and else 0, as in scikit-learn. Only `log_loss` is weighted. Raises ValueError
        without rows or, for a classification, without weight.
        """
        rows = self._some_rows()
        if task == "classification":
            if not self.weight:
                raise ValueError("a mean loss needs some weight")
            return {"accuracy": self.correct / rows, "log_loss": self.log_loss_sum / self.weight}
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


def _float_sum(numbers: list[float]) -> float:
    try:
        return math.fsum(numbers)
    except OverflowError:  # on the way: scaled down, only the result can be too large
        return math.fsum(number / 2**64 for number in numbers) * 2**64
    except ValueError:  # infinities of both signs
        return math.nan


def classification_sums(
    outputs: Floats, targets: NDArray[Any], loss_sum: float, log_loss_sum: float, weight: float
) -> MetricSums:
    """The sums for outputs, shape (rows, classes), and class numbers, shape (rows,).

    `loss_sum` and `log_loss_sum` are those over these rows, `weight` that of their weights. A row is correct when its
    class has the largest output.
    """
    correct = int(np.count_nonzero(outputs.argmax(axis=1) == targets))
    return MetricSums(len(targets), weight, loss_sum, log_loss_sum, correct=correct)


def regression_sums(values: Floats, targets: NDArray[Any], loss_sum: float, weight: float) -> MetricSums:
    """The sums for predicted values and standardized targets, both of shape (rows, 1).

    `loss_sum` is that of the loss over these rows, `weight` that of their weights. Raises ValueError for other shapes.
    """
    rows = len(targets)
    if targets.shape != (rows, 1) or values.shape != targets.shape:
        raise ValueError(f"values and targets of shape (rows, 1) are needed, not {values.shape} and {targets.shape}")
    wanted = targets.astype(np.float64)
    error = values.astype(np.float64) - wanted
    return MetricSums(
        rows,
        weight,
        loss_sum,
        squared_error=float(np.square(error).sum()),
        absolute_error=float(np.abs(error).sum()),
        target_sum=float(wanted.sum()),
        target_square_sum=float(np.square(wanted).sum()),
    )
