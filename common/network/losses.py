"""Losses: one number for how far a network's outputs are from their targets, forward beside backward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from common.network.operations import Operation
from common.network.parameters import Floats
from common.schemas import training


class Loss(ABC):
    """A loss over rows of `width` outputs. It holds no state: any number of threads may share it."""

    def __init__(self, width: int, dtype: DTypeLike) -> None:
        self.width = width
        self.dtype: np.dtype[Any] = np.dtype(dtype)

    @abstractmethod
    def bind(self, outputs: Floats) -> BoundLoss:
        """This loss for outputs that will always lie in the same memory.

        `outputs` has shape (rows, width) and is in Fortran order, one output of all rows after the other: what is
        done to a row's few outputs then runs along many rows at once. Raises ValueError for another order.
        """

    def forward(self, outputs: Floats, targets: NDArray[Any], weights: Floats | None = None) -> float:
        """The sum of the rows' losses, each times its weight (None: 1), added up in float64.

        `outputs` has shape (rows, width) and is left as it is, `weights` has shape (rows,). Raises ValueError for
        arrays that do not fit.
        """
        self.check(len(outputs), targets, weights)
        if not len(outputs):
            return 0.0
        losses = self._losses(outputs, targets)
        return float(losses.sum(dtype=np.float64) if weights is None else np.vdot(losses, weights.astype(np.float64)))

    @staticmethod
    @abstractmethod
    def predict(outputs: Floats, out: Floats) -> None:
        """Write what `outputs`, shape (rows, width), say of the target into `out`, which may be `outputs`."""

    @abstractmethod
    def check(self, rows: int, targets: NDArray[Any], weights: Floats | None = None) -> None:
        """Raise ValueError for targets or weights that do not fit so many rows.

        A training step looks at shapes and dtypes only: whoever trains calls this once for all rows.
        """

    @abstractmethod
    def _losses(self, outputs: Floats, targets: NDArray[Any]) -> Floats:
        """The loss of each row, shape (rows,)."""


class BoundLoss(ABC):
    """A loss over one number of rows, whose outputs it turns into their gradient: all its memory is allocated here.

    `factor` is what the gradient of a row is multiplied by besides its weight.
    """

    def __init__(self, loss: Loss, outputs: Floats, targets: tuple[tuple[int, ...], DTypeLike], factor: float) -> None:
        self._loss = loss
        self._rows = len(outputs)
        self._by_output = outputs.T
        self._flat = self._by_output.reshape(-1, copy=False)
        self._targets_shape, self._targets_dtype = targets[0], np.dtype(targets[1])
        self._factor = np.array(factor, loss.dtype)
        self._row_factors = np.full(self._rows, self._factor)
        self._weighted = False

    def forward_backward(self, targets: NDArray[Any], weights: Floats | None = None) -> float:
        """The sum of the rows' losses, each times its weight (None: 1); its gradient overwrites the outputs.

        `weights` has shape (rows,). Raises ValueError for shapes or dtypes that do not fit.
        """
        if targets.shape != self._targets_shape or targets.dtype != self._targets_dtype:
            self._loss.check(self._rows, targets)
        if weights is not None:
            _check_weights(self._rows, weights, self._loss.dtype)
            np.multiply(weights, self._factor, self._row_factors)
            self._weighted = True
        elif self._weighted:
            self._row_factors.fill(self._factor)
            self._weighted = False
        return self._run(targets)

    @abstractmethod
    def _run(self, targets: NDArray[Any]) -> float:
        """`forward_backward`, once targets and weights are checked and each row has its factor."""


def _check_weights(rows: int, weights: Floats, dtype: np.dtype[Any]) -> None:
    if weights.shape != (rows,) or weights.dtype != dtype:
        raise ValueError(f"{rows} {dtype} weights are needed, not {weights.dtype} of shape {weights.shape}")


class CrossEntropy(Loss):
    """The negative log-likelihood of the right class under a softmax of the outputs (Bridle, 1990), in nats.

    Targets are the numbers of the classes: int64, shape (rows,), each in 0 ... width - 1. The largest output
    of a row is subtracted from all of them first, which changes nothing but keeps exp from overflowing.
    """

    def bind(self, outputs: Floats) -> BoundLoss:
        """The sum of -log(softmax(outputs)[target]); its gradient is softmax(outputs) - one_hot(target)."""
        return _BoundCrossEntropy(self, outputs)

    def _losses(self, outputs: Floats, targets: NDArray[Any]) -> Floats:
        """-log(softmax(outputs)[target])."""
        shifted = outputs - outputs.max(axis=1, keepdims=True)
        losses: Floats = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(outputs)), targets]
        return losses

    @staticmethod
    def predict(outputs: Floats, out: Floats) -> None:
        """The softmax: one probability per class."""
        if not len(outputs):
            return
        np.subtract(outputs, outputs.max(axis=1, keepdims=True), out=out)
        np.exp(out, out=out)
        np.divide(out, out.sum(axis=1, keepdims=True), out=out)

    def check(self, rows: int, targets: NDArray[Any], weights: Floats | None = None) -> None:
        """Raise ValueError for targets or weights that do not fit."""
        if weights is not None:
            _check_weights(rows, weights, self.dtype)
        if targets.dtype != np.int64 or targets.shape != (rows,):
            raise ValueError(f"{rows} int64 targets are needed, not {targets.dtype} of shape {targets.shape}")
        if rows and (targets.min() < 0 or targets.max() >= self.width):
            raise ValueError(f"a target is not one of the classes 0 ... {self.width - 1}")


class _BoundCrossEntropy(BoundLoss):
    def __init__(self, loss: Loss, outputs: Floats) -> None:
        super().__init__(loss, outputs, targets=((len(outputs),), np.int64), factor=1.0)
        rows, flat, by_class = self._rows, self._flat, self._by_output
        largest, chosen, total = np.empty((3, rows), outputs.dtype)
        self._positions = np.empty(rows, np.int64)
        """Of each row's target in `flat`."""
        self._stride = np.array(rows)
        self._row_numbers = np.arange(rows)
        self._losses = total
        self._operations: list[Operation] = [
            partial(np.maximum.reduce, by_class, 0, None, largest),
            partial(np.subtract, by_class, largest, by_class),
            # "clip" because the default mode goes through a copy.
            partial(flat.take, self._positions, None, chosen, "clip"),
            partial(np.exp, by_class, by_class),
            partial(np.ones(len(by_class), outputs.dtype).dot, by_class, total),
            # Here begins the gradient, factor x (softmax - one_hot), between the last steps of the loss.
            partial(np.divide, self._row_factors, total, largest),
            partial(np.multiply, by_class, largest, by_class),
            partial(np.log, total, total),
            partial(np.subtract, total, chosen, total),
            partial(flat.take, self._positions, None, chosen, "clip"),
            partial(np.subtract, chosen, self._row_factors, chosen),
            partial(flat.put, self._positions, chosen),
        ]

    def _run(self, targets: NDArray[Any]) -> float:
        np.multiply(targets, self._stride, self._positions)
        np.add(self._positions, self._row_numbers, self._positions)
        for operation in self._operations:
            operation()
        return float(self._losses.dot(self._row_factors))


class MeanSquaredError(Loss):
    """The squared difference between outputs and targets, averaged over the outputs of a row.

    Targets have the outputs' dtype and shape, (rows, width).
    """

    def bind(self, outputs: Floats) -> BoundLoss:
        """The sum over rows of mean((outputs - targets)^2); its gradient is 2 (outputs - targets) / width."""
        return _BoundMeanSquaredError(self, outputs)

    def _losses(self, outputs: Floats, targets: NDArray[Any]) -> Floats:
        """mean((outputs - targets)^2)."""
        losses: Floats = np.square(outputs - targets).mean(axis=1, dtype=np.float64)
        return losses

    @staticmethod
    def predict(outputs: Floats, out: Floats) -> None:
        """The outputs themselves."""
        if out is not outputs:
            np.copyto(out, outputs)

    def check(self, rows: int, targets: NDArray[Any], weights: Floats | None = None) -> None:
        """Raise ValueError for targets or weights that do not fit."""
        if weights is not None:
            _check_weights(rows, weights, self.dtype)
        if targets.dtype != self.dtype or targets.shape != (rows, self.width):
            raise ValueError(
                f"{self.dtype} targets of shape {(rows, self.width)} are needed, "
                f"not {targets.dtype} of shape {targets.shape}"
            )


class _BoundMeanSquaredError(BoundLoss):
    def __init__(self, loss: Loss, outputs: Floats) -> None:
        super().__init__(loss, outputs, targets=(outputs.shape, loss.dtype), factor=2 / loss.width)
        self._flat_difference = np.empty_like(self._flat)
        self._difference = self._flat_difference.reshape(self._by_output.shape)

    def _run(self, targets: NDArray[Any]) -> float:
        np.subtract(self._by_output, targets.T, self._difference)
        np.multiply(self._difference, self._row_factors, self._by_output)
        return float(self._flat_difference.dot(self._flat)) / 2  # the gradient holds the difference twice


LOSSES: dict[str, type[Loss]] = {"cross_entropy": CrossEntropy, "mse": MeanSquaredError}
"""By the `kind` that a training request uses."""


def make_loss(spec: training.Loss, width: int, dtype: DTypeLike) -> Loss:
    """The loss that a training request asks for, over rows of `width` outputs."""
    return LOSSES[spec.kind](width, dtype)
