"""Optimizers over the flat parameter vector, in place."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from common.network.parameters import Floats
from common.schemas import training

BLOCK = 65_536
"""Numbers worked through at a time: small enough that all passes but the first find them in the cache."""


class Optimizer(ABC):
    """Updates a vector of `size` parameters. All state is allocated here.

    A step is `begin_step()`, then `update` on ranges that together cover the vector once, in any order: so a
    server can add up gradients and apply them range by range. `step` does it in one go.
    """

    def __init__(self, size: int, dtype: DTypeLike) -> None:
        self.size = size
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.steps = 0
        self._scratch = np.empty(min(size, BLOCK), self.dtype)

    def begin_step(self) -> None:
        """Begin the next step."""
        self.steps += 1

    def update(self, parameters: Floats, gradient: Floats, start: int, stop: int) -> None:
        """Apply the step to the numbers `start` ... `stop` - 1 of `parameters`.

        Both vectors have shape (size,). `gradient` is that of the mean loss, and is left as it is. Raises
        ValueError when a vector or the range does not fit, or before the first `begin_step`.
        """
        for vector in (parameters, gradient):
            if vector.shape != (self.size,) or vector.dtype != self.dtype:
                raise ValueError(
                    f"a {self.dtype} vector of shape ({self.size},) is needed, "
                    f"not {vector.dtype} of shape {vector.shape}"
                )
        if not 0 <= start <= stop <= self.size:
            raise ValueError(f"{start} ... {stop} is not a range of {self.size} parameters")
        if not self.steps:
            raise ValueError("begin_step comes before update")
        # Infinities and what follows from them are for the caller to find: it checks loss and gradient.
        with np.errstate(over="ignore", invalid="ignore"):
            for first in range(start, stop, BLOCK):
                block = slice(first, min(first + BLOCK, stop))
                scratch = self._scratch[: block.stop - first]
                self._update_block(parameters[block], gradient[block], block, scratch)

    def step(self, parameters: Floats, gradient: Floats) -> None:
        """A whole step, in place."""
        self.begin_step()
        self.update(parameters, gradient, 0, self.size)

    @abstractmethod
    def _update_block(self, parameters: Floats, gradient: Floats, block: slice, scratch: Floats) -> None:
        """Apply the step to one block, given as views; `block` is where its state lies."""


class Sgd(Optimizer):
    """Stochastic gradient descent, with momentum as in PyTorch: v = momentum v + g; p = p - learning_rate v.

    Robbins and Monro (1951); momentum: Polyak (1964), Sutskever et al. (ICML 2013).
    """

    def __init__(self, spec: training.Sgd, size: int, dtype: DTypeLike) -> None:
        super().__init__(size, dtype)
        self._learning_rate = spec.learning_rate
        self._momentum = spec.momentum
        self._velocity = np.zeros(size if spec.momentum else 0, self.dtype)

    def _update_block(self, parameters: Floats, gradient: Floats, block: slice, scratch: Floats) -> None:
        direction = gradient
        if self._momentum:
            direction = self._velocity[block]
            np.multiply(direction, self._momentum, out=direction)
            np.add(direction, gradient, out=direction)
        np.multiply(direction, self._learning_rate, out=scratch)
        np.subtract(parameters, scratch, out=parameters)


class Adam(Optimizer):
    """Adam (Kingma and Ba, ICLR 2015, algorithm 1), equal to PyTorch's up to rounding.

    In step t:

        m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
        p = p - learning_rate / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)

    Kept are m / (1 - beta1) and v / (1 - beta2), which saves two of twelve passes over memory; the constant
    factors move into the rate and epsilon of the step.
    """

    def __init__(self, spec: training.Adam, size: int, dtype: DTypeLike) -> None:
        super().__init__(size, dtype)
        self._spec = spec
        self._first = np.zeros(size, self.dtype)
        self._second = np.zeros(size, self.dtype)
        self._rate = self._epsilon = 0.0

    def begin_step(self) -> None:
        """Begin the next step: its corrections of the moments' bias towards zero."""
        super().begin_step()
        spec, t = self._spec, self.steps
        second = math.sqrt((1 - spec.beta2**t) / (1 - spec.beta2))
        self._rate = spec.learning_rate * (1 - spec.beta1) / (1 - spec.beta1**t) * second
        self._epsilon = spec.epsilon * second

    def _update_block(self, parameters: Floats, gradient: Floats, block: slice, scratch: Floats) -> None:
        first, second = self._first[block], self._second[block]
        np.multiply(first, self._spec.beta1, out=first)
        np.add(first, gradient, out=first)
        np.multiply(gradient, gradient, out=scratch)
        np.multiply(second, self._spec.beta2, out=second)
        np.add(second, scratch, out=second)
        np.sqrt(second, out=scratch)
        np.add(scratch, self._epsilon, out=scratch)
        np.divide(first, scratch, out=scratch)
        np.multiply(scratch, self._rate, out=scratch)
        np.subtract(parameters, scratch, out=parameters)


def make_optimizer(spec: training.Optimizer, size: int, dtype: DTypeLike) -> Optimizer:
    """The optimizer that a training request asks for, for a vector of `size` numbers."""
    if isinstance(spec, training.Adam):
        return Adam(spec, size, dtype)
    return Sgd(spec, size, dtype)
