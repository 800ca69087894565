"""The evaluation of a regression."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.exact_sum import ExactSum, exact_squares
from common.schemas.models import Evaluation, QuantileEvaluation


class NumberTally:
    """What is known of the rows seen so far, each counted once, in exact sums: how they come changes nothing.

    Args:
        quantiles: what the predicted numbers are quantiles for, rising; none: there is one number, the value.
        middle: which of the predicted numbers is the value.

    """

    def __init__(self, quantiles: Sequence[float] = (), middle: int = 0) -> None:
        self._quantiles, self._middle = tuple(quantiles), middle
        self._rows = self._zeros = self._inside = 0
        self._squares, self._distances, self._shares = ExactSum(), ExactSum(), ExactSum()
        self._targets, self._target_squares = ExactSum(), ExactSum()
        self._smallest, self._largest = math.inf, -math.inf
        self._losses = [ExactSum() for _ in quantiles]
        self._below = np.zeros(len(self._quantiles), np.int64)

    def add(self, values: NDArray[np.float64], targets: NDArray[np.float64]) -> None:
        """Takes in rows: predicted numbers, shape (rows, 1) or (rows, quantiles), and targets, shape (rows,)."""
        self._rows += len(targets)
        self._smallest = min(self._smallest, float(targets.min(initial=math.inf)))
        self._largest = max(self._largest, float(targets.max(initial=-math.inf)))
        with np.errstate(over="ignore", invalid="ignore"):
            error = values[:, self._middle] - targets
            distance, is_zero = np.abs(error), targets == 0
            self._squares.add(np.square(error))
            self._distances.add(distance)
            self._shares.add(distance[~is_zero] / np.abs(targets[~is_zero]))
            self._targets.add(targets)
            self._target_squares.add(np.concatenate(exact_squares(targets)))
            self._zeros += int(is_zero.sum())
            for quantile, losses, column in zip(self._quantiles, self._losses, values.T, strict=False):
                above = targets - column
                losses.add(np.maximum(quantile * above, (quantile - 1) * above))
        if self._quantiles:
            self._below += (targets[:, None] <= values).sum(axis=0)
            self._inside += int(((values[:, 0] <= targets) & (targets <= values[:, -1])).sum())

    def result(self) -> tuple[dict[str, float], Evaluation]:
        """The metrics, in the target's units, and what they are made of. Raises ValueError without rows.

        When all targets are the same, r2 is 1 for a perfect prediction and else 0.
        """
        rows, warnings = self._rows, list[str]()
        if not rows:
            raise ValueError("metrics need at least one row")
        metrics = {"rmse": math.sqrt(self._squares.value / rows), "mae": self._distances.value / rows, "r2": self._r2()}
        if self._zeros < rows:
            metrics["mape"] = self._shares.value / (rows - self._zeros)
        if self._zeros:
            left = "is left out:" if self._zeros == rows else "leaves out"
            warnings.append(f"mape {left} {self._zeros} rows whose target is 0.")
        losses = [losses.value / rows for losses in self._losses]
        if losses:
            metrics["quantile_loss"] = math.fsum(losses) / len(losses)
        if len(losses) > 1:
            metrics["coverage"] = self._inside / rows
        if too_large := [name for name, value in metrics.items() if not math.isfinite(value)]:
            warnings.append(f"Left out, for they are too large to be told: {', '.join(too_large)}.")
        quantiles = None
        if losses and all(map(math.isfinite, losses)):
            below = (self._below / rows).tolist()
            quantiles = tuple(
                QuantileEvaluation(quantile=quantile, loss=loss, below=share)
                for quantile, loss, share in zip(self._quantiles, losses, below, strict=True)
            )
        told = {name: value for name, value in metrics.items() if math.isfinite(value)}
        return told, Evaluation(rows=rows, quantiles=quantiles, warnings=tuple(warnings))

    def _r2(self) -> float:
        squares = self._squares.value
        if self._smallest == self._largest:
            return 1.0 if squares == 0 else 0.0
        total, targets = self._target_squares.exact, self._targets.exact
        if total is None or targets is None or not math.isfinite(squares):
            return math.nan
        spread = float(total - targets * targets / self._rows)  # exact until here: nothing cancels
        return 1 - squares / spread if spread > 0 else math.nan
