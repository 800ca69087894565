"""Losses: one number for how far a network's outputs are from their targets, forward beside backward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from common.network.parameters import Floats
from common.schemas import training


class Loss(ABC):
    """A loss over rows, with room for `max_rows` rows of `width` outputs.

    Only `forward_backward` uses that room. The other methods may run in several threads at once.
    """

    def __init__(self, width: int, max_rows: int, dtype: DTypeLike) -> None:
        self.width = width
        self.max_rows = max_rows
        self.dtype: np.dtype[Any] = np.dtype(dtype)

    @abstractmethod
    def forward_backward(self, outputs: Floats, targets: NDArray[Any], gradient_out: Floats) -> float:
        """The sum of the rows' losses; its gradient with respect to `outputs` is written into `gradient_out`.

        Both have shape (rows, width) and lie in one piece; they may be the same array. Raises ValueError when
        the targets do not fit.
        """

    @abstractmethod
    def forward(self, outputs: Floats, targets: NDArray[Any]) -> float:
        """The sum of the rows' losses alone, added up in float64. Leaves `outputs` as they are."""

    @staticmethod
    @abstractmethod
    def predict(outputs: Floats, out: Floats) -> None:
        """Write what `outputs`, shape (rows, width), say of the target into `out`, which may be `outputs`."""


class CrossEntropy(Loss):
    """The negative log-likelihood of the right class under a softmax of the outputs (Bridle, 1990), in nats.

    Targets are the numbers of the classes: int64, shape (rows,), each in 0 ... width - 1. The largest output
    of a row is subtracted from all of them first, which changes nothing but keeps exp from overflowing.
    """

    def __init__(self, width: int, max_rows: int, dtype: DTypeLike) -> None:
        super().__init__(width, max_rows, dtype)
        self._column = np.empty((max_rows, 1), self.dtype)
        self._chosen = np.empty(max_rows, self.dtype)
        self._row_starts = np.arange(max_rows, dtype=np.int64) * width
        self._positions = np.empty(max_rows, np.int64)

    def forward_backward(self, outputs: Floats, targets: NDArray[Any], gradient_out: Floats) -> float:
        """The sum of -log(softmax(outputs)[target]); its gradient is softmax(outputs) - one_hot(target)."""
        rows = len(outputs)
        self._check(outputs, targets)
        if not rows:
            return 0.0
        column, chosen, positions = self._column[:rows], self._chosen[:rows], self._positions[:rows]
        gradient = gradient_out.reshape(-1, copy=False)
        np.add(self._row_starts[:rows], targets, out=positions)

        np.maximum.reduce(outputs, axis=1, keepdims=True, out=column)
        np.subtract(outputs, column, out=gradient_out)
        # "clip" because the default mode goes through a copy; the targets were checked.
        gradient.take(positions, out=chosen, mode="clip")
        loss = -float(np.add.reduce(chosen))
        np.exp(gradient_out, out=gradient_out)
        np.add.reduce(gradient_out, axis=1, keepdims=True, out=column)
        np.divide(gradient_out, column, out=gradient_out)
        np.log(column, out=column)
        loss += float(np.add.reduce(column, axis=None))

        gradient.take(positions, out=chosen, mode="clip")
        np.subtract(chosen, 1, out=chosen)
        gradient.put(positions, chosen)
        return loss

    def forward(self, outputs: Floats, targets: NDArray[Any]) -> float:
        """The sum of -log(softmax(outputs)[target])."""
        self._check(outputs, targets)
        if not len(outputs):
            return 0.0
        shifted = outputs - outputs.max(axis=1, keepdims=True)
        rows = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(outputs)), targets]
        return float(rows.sum(dtype=np.float64))

    @staticmethod
    def predict(outputs: Floats, out: Floats) -> None:
        """The softmax: one probability per class."""
        if not len(outputs):
            return
        np.subtract(outputs, outputs.max(axis=1, keepdims=True), out=out)
        np.exp(out, out=out)
        np.divide(out, out.sum(axis=1, keepdims=True), out=out)

    def _check(self, outputs: Floats, targets: NDArray[Any]) -> None:
        if targets.dtype != np.int64 or targets.shape != outputs.shape[:1]:
            raise ValueError(f"{len(outputs)} int64 targets are needed, not {targets.dtype} of shape {targets.shape}")
        # Read as unsigned, a negative number is a very large one: one pass checks both ends.
        if len(targets) and np.maximum.reduce(targets.view(np.uint64)) >= self.width:
            raise ValueError(f"a target is not one of the classes 0 ... {self.width - 1}")


class MeanSquaredError(Loss):
    """The squared difference between outputs and targets, averaged over the outputs of a row.

    Targets have the outputs' dtype and shape, (rows, width).
    """

    def forward_backward(self, outputs: Floats, targets: NDArray[Any], gradient_out: Floats) -> float:
        """The sum over rows of mean((outputs - targets)^2); its gradient is 2 (outputs - targets) / width."""
        self._check(outputs, targets)
        np.subtract(outputs, targets, out=gradient_out)
        difference = gradient_out.reshape(-1, copy=False)
        loss = float(np.dot(difference, difference)) / self.width
        np.multiply(difference, 2 / self.width, out=difference)
        return loss

    def forward(self, outputs: Floats, targets: NDArray[Any]) -> float:
        """The sum over rows of mean((outputs - targets)^2)."""
        self._check(outputs, targets)
        return float(np.square(outputs - targets).sum(dtype=np.float64)) / self.width

    @staticmethod
    def predict(outputs: Floats, out: Floats) -> None:
        """The outputs themselves."""
        if out is not outputs:
            np.copyto(out, outputs)

    def _check(self, outputs: Floats, targets: NDArray[Any]) -> None:
        if targets.dtype != self.dtype or targets.shape != outputs.shape:
            raise ValueError(
                f"{self.dtype} targets of shape {outputs.shape} are needed, "
                f"not {targets.dtype} of shape {targets.shape}"
            )


LOSSES: dict[str, type[Loss]] = {"cross_entropy": CrossEntropy, "mse": MeanSquaredError}
"""By the `kind` that a training request uses."""


def make_loss(spec: training.Loss, width: int, max_rows: int, dtype: DTypeLike) -> Loss:
    """The loss that a training request asks for, with room for `max_rows` rows of `width` outputs."""
    return LOSSES[spec.kind](width, max_rows, dtype)
