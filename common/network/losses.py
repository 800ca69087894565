"""Losses: one number for how far a network's outputs are from their targets, forward beside backward.

A new loss is one class for the numbers, one for a training step, and a line in `make_loss`; docs/network.md shows it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from common.network.operations import Operation
from common.network.parameters import Floats
from common.schemas import losses as schema


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
        return weighted_sum(self._losses(outputs, targets), weights) if len(outputs) else 0.0

    @abstractmethod
    def predict(self, outputs: Floats, out: Floats) -> None:
        """Write what `outputs`, shape (rows, width), say of the target into `out`, which may be `outputs`."""

    @abstractmethod
    def slope(self, outputs: Floats, chosen: NDArray[np.intp]) -> None:
        """Overwrite `outputs` with how one prediction of each row, that of number `chosen`, changes with them.

        That is the gradient of `predict(outputs)[row, chosen[row]]`; `chosen` has shape (rows,).
        """

    def check(self, rows: int, targets: NDArray[Any], weights: Floats | None = None) -> None:
        """Raise ValueError for targets or weights that do not fit so many rows.

        A training step looks at shapes and dtypes only: whoever trains calls this once for all rows.
        """
        if weights is not None:
            _check_weights(rows, weights, self.dtype)
        self._check_targets(rows, targets)

    @abstractmethod
    def _check_targets(self, rows: int, targets: NDArray[Any]) -> None:
        """`check`, of targets."""

    @abstractmethod
    def _losses(self, outputs: Floats, targets: NDArray[Any]) -> Floats:
        """The loss of each row, shape (rows,)."""


def weighted_sum(numbers: Floats, weights: Floats | None = None) -> float:
    """The sum of one number per row, each times its weight (None: 1), in float64."""
    if weights is None:
        return float(numbers.sum(dtype=np.float64))
    return float(np.vdot(numbers, weights.astype(np.float64)))


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

    def _constant(self, number: float) -> Floats:
        return np.array(number, self._loss.dtype)

    def _room(self) -> Floats:
        """An array like the outputs, one output of all rows after the other, shape (width, rows)."""
        return np.empty_like(self._flat).reshape(self._by_output.shape)


def _check_weights(rows: int, weights: Floats, dtype: np.dtype[Any]) -> None:
    if weights.shape != (rows,) or weights.dtype != dtype:
        raise ValueError(f"{rows} {dtype} weights are needed, not {weights.dtype} of shape {weights.shape}")


# Classes: targets are their numbers, int64, shape (rows,), each in 0 ... width - 1


class ClassLoss(Loss):
    """A loss whose targets are classes, and whose predictions are their probabilities."""

    @property
    def is_log_loss(self) -> bool:
        """Whether the loss is its own `log_loss`."""
        return False

    def log_loss(self, outputs: Floats, targets: NDArray[Any], weights: Floats | None = None) -> float:
        """The sum of -log(predicted probability of the right class), nats; finite even where that is 0."""
        if not len(outputs):
            return 0.0
        probabilities = np.empty(outputs.shape)
        self.predict(outputs.astype(np.float64), probabilities)
        chosen = probabilities[np.arange(len(outputs)), targets]
        return weighted_sum(-np.log(np.maximum(chosen, np.finfo(np.float32).tiny)), weights)

    def _check_targets(self, rows: int, targets: NDArray[Any]) -> None:
        if targets.dtype != np.int64 or targets.shape != (rows,):
            raise ValueError(f"{rows} int64 targets are needed, not {targets.dtype} of shape {targets.shape}")
        if rows and (targets.min() < 0 or targets.max() >= self.width):
            raise ValueError(f"a target is not one of the classes 0 ... {self.width - 1}")


class CrossEntropy(ClassLoss):
    """The negative log-likelihood of the right class under a softmax of the outputs (Bridle, 1990), in nats.

    The largest output of a row is subtracted from all of them first, which changes nothing but keeps exp from
    overflowing. With label smoothing the right class counts 1 - smoothing, and all classes share the rest evenly
    (Szegedy et al., CVPR 2016, section 7).
    """

    def __init__(self, width: int, dtype: DTypeLike, smoothing: float = 0.0) -> None:
        super().__init__(width, dtype)
        self.smoothing = smoothing

    def bind(self, outputs: Floats) -> BoundLoss:
        """The sum of -log(softmax(outputs)[target]); its gradient is softmax(outputs) - one_hot(target)."""
        return _BoundCrossEntropy(self, outputs)

    @property
    def is_log_loss(self) -> bool:
        """Without smoothing it is."""
        return not self.smoothing

    def log_loss(self, outputs: Floats, targets: NDArray[Any], weights: Floats | None = None) -> float:
        """The loss itself, without smoothing."""
        plain = CrossEntropy(self.width, self.dtype)
        return plain.forward(outputs, targets, weights)

    def _losses(self, outputs: Floats, targets: NDArray[Any]) -> Floats:
        """-log(softmax(outputs)[target])."""
        shifted = outputs - outputs.max(axis=1, keepdims=True)
        chosen = shifted[np.arange(len(outputs)), targets]
        if self.smoothing:
            chosen = (1 - self.smoothing) * chosen + self.smoothing * shifted.mean(axis=1)
        losses: Floats = np.log(np.exp(shifted).sum(axis=1)) - chosen
        return losses

    def predict(self, outputs: Floats, out: Floats) -> None:
        """The softmax: one probability per class."""
        if not len(outputs):
            return
        np.subtract(outputs, outputs.max(axis=1, keepdims=True), out=out)
        np.exp(out, out=out)
        np.divide(out, out.sum(axis=1, keepdims=True), out=out)

    def slope(self, outputs: Floats, chosen: NDArray[np.intp]) -> None:
        """With p the softmax: p_k (1 - p_k) for the output k itself, -p_k p_j for the others."""
        self.predict(outputs, outputs)
        rows = np.arange(len(outputs))
        share = outputs[rows, chosen]
        outputs *= -share[:, np.newaxis]
        outputs[rows, chosen] += share


class _BoundClassLoss(BoundLoss):
    """What class losses share: the places of the right classes among all outputs."""

    def __init__(self, loss: ClassLoss, outputs: Floats) -> None:
        super().__init__(loss, outputs, targets=((len(outputs),), np.int64), factor=1.0)
        self._positions = np.empty(self._rows, np.int64)
        """Of each row's target in `_flat`."""
        self._stride = np.array(self._rows)
        self._row_numbers = np.arange(self._rows)
        self._ones = np.ones(loss.width, loss.dtype)
        self._operations: list[Operation] = []
        self._losses: Floats = np.empty(self._rows, loss.dtype)

    def _run(self, targets: NDArray[Any]) -> float:
        np.multiply(targets, self._stride, self._positions)
        np.add(self._positions, self._row_numbers, self._positions)
        for operation in self._operations:
            operation()
        return float(self._losses.dot(self._row_factors))

    def _take(self, flat: Floats, out: Floats) -> Operation:
        """Takes the numbers of the right classes; "clip" because the default mode goes through a copy."""
        return partial(flat.take, self._positions, None, out, "clip")


class _BoundCrossEntropy(_BoundClassLoss):
    def __init__(self, loss: CrossEntropy, outputs: Floats) -> None:
        super().__init__(loss, outputs)
        flat, by_class, total = self._flat, self._by_output, self._losses
        largest, chosen = np.empty((2, self._rows), outputs.dtype)
        operations: list[Operation] = [
            partial(np.maximum.reduce, by_class, 0, None, largest),
            partial(np.subtract, by_class, largest, by_class),
            self._take(flat, chosen),
        ]
        if loss.smoothing:
            mean, shares = np.empty(self._rows, outputs.dtype), np.full(loss.width, loss.smoothing / loss.width)
            operations += [
                partial(shares.astype(outputs.dtype).dot, by_class, mean),
                partial(np.multiply, chosen, self._constant(1 - loss.smoothing), chosen),
                partial(np.add, chosen, mean, chosen),
            ]
        operations += [
            partial(np.exp, by_class, by_class),
            partial(self._ones.dot, by_class, total),
            # Here begins the gradient, factor x (softmax - one_hot), between the last steps of the loss.
            partial(np.divide, self._row_factors, total, largest),
            partial(np.multiply, by_class, largest, by_class),
            partial(np.log, total, total),
            partial(np.subtract, total, chosen, total),
        ]
        right: Floats = self._row_factors
        if loss.smoothing:
            right = largest
            operations += [
                partial(np.multiply, self._row_factors, self._constant(loss.smoothing / loss.width), right),
                partial(np.subtract, by_class, right, by_class),
                partial(np.multiply, self._row_factors, self._constant(1 - loss.smoothing), right),
            ]
        self._operations = [
            *operations,
            self._take(flat, chosen),
            partial(np.subtract, chosen, right, chosen),
            partial(flat.put, self._positions, chosen),
        ]


class Quadratic(ClassLoss):
    """Half the squared distance between the sigmoids of the outputs, a, and one_hot(target), y: 1/2 |a - y|^2.

    Nielsen (Neural Networks and Deep Learning, 2015, equation 6).
    """

    def bind(self, outputs: Floats) -> BoundLoss:
        """The sum of 1/2 |a - y|^2; its gradient is (a - y) a (1 - a)."""
        return _BoundQuadratic(self, outputs)

    def _losses(self, outputs: Floats, targets: NDArray[Any]) -> Floats:
        difference = _sigmoid(outputs)
        difference[np.arange(len(outputs)), targets] -= 1
        losses: Floats = np.square(difference).sum(axis=1) / 2
        return losses

    def predict(self, outputs: Floats, out: Floats) -> None:
        """Each class's sigmoid as a share of their sum."""
        if not len(outputs):
            return
        # As logarithms, for all sigmoids of a row may be too small to divide by.
        logarithms = -np.logaddexp(0, -outputs)
        np.exp(logarithms - logarithms.max(axis=1, keepdims=True), out=out)
        np.divide(out, out.sum(axis=1, keepdims=True), out=out)

    def slope(self, outputs: Floats, chosen: NDArray[np.intp]) -> None:
        """That of a softmax of log(a), whose slope is 1 - a, a being the sigmoids."""
        rest = _sigmoid(-outputs)
        self.predict(outputs, outputs)
        rows = np.arange(len(outputs))
        share = outputs[rows, chosen]
        outputs *= -share[:, np.newaxis]
        outputs[rows, chosen] += share
        outputs *= rest


def _sigmoid(z: Floats) -> Floats:
    sigmoid: Floats = np.reciprocal(1 + np.exp(-z))
    return sigmoid


class _BoundQuadratic(_BoundClassLoss):
    def __init__(self, loss: Quadratic, outputs: Floats) -> None:
        super().__init__(loss, outputs)
        a, difference, rest = self._by_output, self._room(), self._room()
        flat, chosen, one = difference.reshape(-1, copy=False), np.empty(self._rows, outputs.dtype), self._constant(1)
        self._operations = [
            partial(np.negative, a, a),
            partial(np.exp, a, a),
            partial(np.add, a, one, a),
            partial(np.reciprocal, a, a),
            partial(np.copyto, difference, a),
            self._take(flat, chosen),
            partial(np.subtract, chosen, one, chosen),
            partial(flat.put, self._positions, chosen),
            partial(np.multiply, difference, difference, rest),
            partial((self._ones / 2).dot, rest, self._losses),
            partial(np.subtract, one, a, rest),
            partial(np.multiply, a, rest, a),
            partial(np.multiply, a, difference, a),
            partial(np.multiply, a, self._row_factors, a),
        ]


# Numbers: targets have the outputs' dtype and shape (rows, 1) or (rows, width)


class NumberLoss(Loss):
    """A loss whose targets are numbers, averaged over the outputs of a row."""

    def predict(self, outputs: Floats, out: Floats) -> None:
        """The outputs themselves."""
        if out is not outputs:
            np.copyto(out, outputs)

    def slope(self, outputs: Floats, chosen: NDArray[np.intp]) -> None:
        """1 for the output itself."""
        outputs.fill(0)
        outputs[np.arange(len(outputs)), chosen] = 1

    def bind(self, outputs: Floats) -> BoundLoss:
        """The loss over these outputs."""
        return _BoundNumberLoss(self, outputs)

    @property
    def targets_width(self) -> int:
        """Numbers per row among the targets."""
        return self.width

    @property
    def middle(self) -> int:
        """Which of the predictions is the value."""
        return 0

    def _check_targets(self, rows: int, targets: NDArray[Any]) -> None:
        if targets.dtype != self.dtype or targets.shape != (rows, self.targets_width):
            raise ValueError(
                f"{self.dtype} targets of shape {(rows, self.targets_width)} are needed, "
                f"not {targets.dtype} of shape {targets.shape}"
            )

    def _losses(self, outputs: Floats, targets: NDArray[Any]) -> Floats:
        losses: Floats = self._each(outputs, targets).mean(axis=1, dtype=np.float64)
        return losses

    @abstractmethod
    def _each(self, outputs: Floats, targets: NDArray[Any]) -> Floats:
        """The loss of each output, shape (rows, width)."""

    @abstractmethod
    def step(self, outputs: Floats, targets: Floats, losses: Floats) -> list[Operation]:
        """What turns `outputs` into the gradient of each one's loss, and writes the loss itself into `losses`.

        All have shape (width, rows), one output of all rows after the other; `targets` is left as it is.
        """


class _BoundNumberLoss(BoundLoss):
    def __init__(self, loss: NumberLoss, outputs: Floats) -> None:
        rows, width = len(outputs), loss.targets_width
        super().__init__(loss, outputs, targets=((rows, width), loss.dtype), factor=1 / loss.width)
        self._targets = np.empty((width, rows), loss.dtype)
        losses = self._room()
        self._totals = np.empty(rows, loss.dtype)
        self._operations: list[Operation] = [
            *loss.step(self._by_output, self._targets, losses),
            partial(np.ones(loss.width, loss.dtype).dot, losses, self._totals),
            partial(np.multiply, self._by_output, self._row_factors, self._by_output),
        ]

    def _run(self, targets: NDArray[Any]) -> float:
        np.copyto(self._targets, targets.T)
        for operation in self._operations:
            operation()
        return float(self._totals.dot(self._row_factors))


class MeanSquaredError(NumberLoss):
    """The squared difference between outputs and targets."""

    def _each(self, outputs: Floats, targets: NDArray[Any]) -> Floats:
        each: Floats = np.square(outputs - targets)
        return each

    def step(self, outputs: Floats, targets: Floats, losses: Floats) -> list[Operation]:
        """d^2, and 2 d, where d is the difference."""
        return [
            partial(np.subtract, outputs, targets, outputs),
            partial(np.multiply, outputs, outputs, losses),
            partial(np.add, outputs, outputs, outputs),
        ]


class MeanAbsoluteError(NumberLoss):
    """The absolute difference between outputs and targets: its best constant is the median."""

    def _each(self, outputs: Floats, targets: NDArray[Any]) -> Floats:
        each: Floats = np.abs(outputs - targets)
        return each

    def step(self, outputs: Floats, targets: Floats, losses: Floats) -> list[Operation]:
        """|d|, and the sign of d."""
        return [
            partial(np.subtract, outputs, targets, outputs),
            partial(np.abs, outputs, losses),
            partial(np.sign, outputs, outputs),
        ]


class Huber(NumberLoss):
    """Half the squared difference up to delta, from there on linear (Huber, 1964)."""

    def __init__(self, width: int, dtype: DTypeLike, delta: float) -> None:
        super().__init__(width, dtype)
        self.delta = delta

    def _each(self, outputs: Floats, targets: NDArray[Any]) -> Floats:
        difference = outputs - targets
        cut = difference.clip(-self.delta, self.delta)
        each: Floats = cut * (difference - cut / 2)
        return each

    def step(self, outputs: Floats, targets: Floats, losses: Floats) -> list[Operation]:
        """C (d - c / 2), and c, where c is d cut at delta."""
        low, high, half = (np.array(number, self.dtype) for number in (-self.delta, self.delta, 0.5))
        cut = np.empty_like(outputs)
        return [
            partial(np.subtract, outputs, targets, outputs),
            partial(outputs.clip, low, high, cut),
            partial(np.multiply, cut, half, losses),
            partial(np.subtract, outputs, losses, losses),
            partial(np.multiply, losses, cut, losses),
            partial(np.copyto, outputs, cut),
        ]


class Quantile(NumberLoss):
    """The pinball loss: an output for each quantile of the target (Koenker and Bassett, 1978).

    All outputs of a row have the same target, of shape (rows, 1).
    """

    def __init__(self, width: int, dtype: DTypeLike, quantiles: tuple[float, ...]) -> None:
        if len(quantiles) != width:
            raise ValueError(f"{len(quantiles)} quantiles need as many outputs, not {width}")
        super().__init__(width, dtype)
        self.quantiles = np.array(quantiles, self.dtype)

    @property
    def targets_width(self) -> int:
        """One for all quantiles."""
        return 1

    @property
    def middle(self) -> int:
        """The one closest to the median."""
        return int(np.abs(self.quantiles - 0.5).argmin())

    def predict(self, outputs: Floats, out: Floats) -> None:
        """The outputs, sorted: quantiles never cross (Chernozhukov, Fernandez-Val and Galichon, 2010)."""
        out[...] = np.sort(outputs, axis=1)

    def slope(self, outputs: Floats, chosen: NDArray[np.intp]) -> None:
        """1 for the output that comes to stand there."""
        super().slope(outputs, np.argsort(outputs, axis=1)[np.arange(len(outputs)), chosen])

    def _each(self, outputs: Floats, targets: NDArray[Any]) -> Floats:
        difference = targets - outputs
        each: Floats = np.maximum(self.quantiles * difference, (self.quantiles - 1) * difference)
        return each

    def step(self, outputs: Floats, targets: Floats, losses: Floats) -> list[Operation]:
        """max(q u, (q - 1) u), and -q where u = target - output is above 0, 1 - q where it is below."""
        quantiles, zero = self.quantiles[:, np.newaxis], np.array(0, self.dtype)
        below = np.empty_like(outputs)
        return [
            partial(np.subtract, outputs, targets, outputs),  # -u
            partial(np.multiply, outputs, -quantiles, losses),
            partial(np.multiply, outputs, 1 - quantiles, below),
            partial(np.maximum, losses, below, out=losses),
            partial(np.greater, outputs, zero, below),
            partial(np.less, outputs, zero, outputs),
            partial(np.multiply, below, 1 - quantiles, below),
            partial(np.multiply, outputs, quantiles, outputs),
            partial(np.subtract, below, outputs, outputs),
        ]


class Poisson(NumberLoss):
    """Half the deviance of counts whose logarithmic rate is the output (McCullagh and Nelder, 1989, section 6).

    exp(output) - target - target (output - log(target)): zero where the rate is the target. Targets are none below 0.
    """

    def predict(self, outputs: Floats, out: Floats) -> None:
        """The rate."""
        np.exp(outputs, out=out)

    def slope(self, outputs: Floats, chosen: NDArray[np.intp]) -> None:
        """That of a rate is the rate itself."""
        rows = np.arange(len(outputs))
        rates = np.exp(outputs[rows, chosen])
        outputs.fill(0)
        outputs[rows, chosen] = rates

    def _each(self, outputs: Floats, targets: NDArray[Any]) -> Floats:
        logarithms = np.log(np.maximum(targets, np.finfo(self.dtype).tiny))
        each: Floats = np.exp(outputs) - targets - targets * (outputs - logarithms)
        return each

    def step(self, outputs: Floats, targets: Floats, losses: Floats) -> list[Operation]:
        """The deviance, and exp(output) - target."""
        least = np.array(np.finfo(self.dtype).tiny, self.dtype)
        return [
            partial(np.maximum, targets, least, out=losses),
            partial(np.log, losses, losses),
            partial(np.subtract, losses, outputs, losses),
            partial(np.multiply, losses, targets, losses),
            partial(np.exp, outputs, outputs),
            partial(np.subtract, outputs, targets, outputs),
            partial(np.add, losses, outputs, losses),
        ]

    def _check_targets(self, rows: int, targets: NDArray[Any]) -> None:
        super()._check_targets(rows, targets)
        if rows and not targets.min() >= 0:
            raise ValueError("a count is below 0")


def make_loss(spec: schema.Loss, width: int, dtype: DTypeLike) -> Loss:
    """The loss that a training request asks for, over rows of `width` outputs."""
    match spec:
        case schema.CrossEntropy():
            return CrossEntropy(width, dtype, spec.label_smoothing)
        case schema.Huber():
            return Huber(width, dtype, spec.delta)
        case schema.Quantile():
            return Quantile(width, dtype, spec.quantiles)
    return PLAIN[spec.kind](width, dtype)


PLAIN: Mapping[str, Callable[[int, DTypeLike], Loss]] = {
    "quadratic": Quadratic,
    "mse": MeanSquaredError,
    "mae": MeanAbsoluteError,
    "poisson": Poisson,
}
"""Losses without options, by the `kind` that a training request uses."""
