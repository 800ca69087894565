"""Activations, forward beside backward.

Every derivative here follows from the activation's output alone, so what came in need not be kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from common.network.parameters import Floats


class Activation(ABC):
    """A function applied to each number of an array of any shape."""

    @staticmethod
    @abstractmethod
    def forward(z: Floats, out: Floats) -> None:
        """Write f(z) into `out`, which may be `z`."""

    @staticmethod
    @abstractmethod
    def backward(output: Floats, gradient: Floats, scratch: Floats) -> None:
        """Turn `gradient`, in place, from that of f(z) into that of z, where `output` is f(z).

        `scratch`, of the same shape, is overwritten. It may be `output` when that is not needed any more.
        """


class Identity(Activation):
    """f(z) = z: for the output layer."""

    @staticmethod
    def forward(z: Floats, out: Floats) -> None:
        """Write z into `out`."""
        if out is not z:
            np.copyto(out, z)

    @staticmethod
    def backward(output: Floats, gradient: Floats, scratch: Floats) -> None:
        """The derivative is 1."""


class Relu(Activation):
    """f(z) = max(z, 0) (Nair and Hinton, ICML 2010)."""

    @staticmethod
    def forward(z: Floats, out: Floats) -> None:
        """Write max(z, 0) into `out`."""
        np.maximum(z, 0, out=out)

    @staticmethod
    def backward(output: Floats, gradient: Floats, scratch: Floats) -> None:
        """The derivative is 1 where the output is above 0, else 0."""
        # Half the time of np.sign, and of an assignment under a mask a tenth.
        np.greater(output, 0, out=scratch)
        np.multiply(gradient, scratch, out=gradient)


class Sigmoid(Activation):
    """f(z) = 1 / (1 + exp(-z))."""

    @staticmethod
    def forward(z: Floats, out: Floats) -> None:
        """Write 1 / (1 + exp(-z)) into `out`."""
        np.negative(z, out=out)
        np.minimum(out, 80, out=out)  # exp(89) overflows float32; exp(-80) is nothing beside 1
        np.exp(out, out=out)
        np.add(out, 1, out=out)
        np.reciprocal(out, out=out)

    @staticmethod
    def backward(output: Floats, gradient: Floats, scratch: Floats) -> None:
        """The derivative is f(z) (1 - f(z))."""
        np.multiply(gradient, output, out=gradient)
        np.subtract(1, output, out=scratch)
        np.multiply(gradient, scratch, out=gradient)


class Tanh(Activation):
    """f(z) = tanh(z)."""

    @staticmethod
    def forward(z: Floats, out: Floats) -> None:
        """Write tanh(z) into `out`."""
        np.tanh(z, out=out)

    @staticmethod
    def backward(output: Floats, gradient: Floats, scratch: Floats) -> None:
        """The derivative is 1 - f(z)^2."""
        np.multiply(output, output, out=scratch)
        np.subtract(1, scratch, out=scratch)
        np.multiply(gradient, scratch, out=gradient)


ACTIVATIONS: dict[str, type[Activation]] = {
    "identity": Identity,
    "relu": Relu,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
}
"""By the names that a training request uses, and identity."""
