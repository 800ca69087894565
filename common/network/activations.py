"""Activations, forward beside backward, as operations that are put together once and run at every step.

The derivatives of most follow from their outputs alone, so what came in need not be kept. A new activation is one class
and a line in `ACTIVATIONS`; docs/network.md shows it being done.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike

from common.network.operations import Operation
from common.network.parameters import Floats


class Activation(ABC):
    """A function applied, in place, to each number of an array of any shape and of the given dtype.

    Its constants are arrays without dimensions, which numpy takes in half the time that a Python number costs.
    """

    is_rectifier: ClassVar[bool] = False
    """Whether it lets one half of its inputs through and damps the other: then He's weights suit it, else Glorot's."""
    keeps_derivative: ClassVar[bool] = False
    """Whether `forward` also writes the derivative, because it does not follow from the output."""

    def __init__(self, dtype: DTypeLike) -> None:
        self._dtype = dtype
        self._zero, self._one, self._infinity = (self._constant(number) for number in (0, 1, np.inf))

    def _constant(self, number: float) -> Floats:
        return np.array(number, self._dtype)

    @abstractmethod
    def forward(self, z: Floats, scratch: Floats, derivative: Floats | None) -> list[Operation]:
        """What turns z into f(z), in place.

        `scratch`, of the same shape, is overwritten; so is `derivative`, with f'(z), where the activation keeps it and
        somebody will ask for it.
        """

    @abstractmethod
    def backward(self, kept: Floats, gradient: Floats, scratch: Floats) -> list[Operation]:
        """What turns `gradient`, in place, from that with respect to f(z) into that with respect to z.

        `kept` is f'(z) where the activation keeps it, else f(z). `scratch`, of the same shape, is overwritten. It may
        be `kept` when that is not needed any more.
        """


class _DerivativeKept(Activation):
    """An activation whose derivative takes what came in, and is made where that is at hand."""

    keeps_derivative = True

    def backward(self, kept: Floats, gradient: Floats, scratch: Floats) -> list[Operation]:  # noqa: ARG002
        """Multiplies by the derivative."""
        return [partial(np.multiply, gradient, kept, gradient)]


class Identity(Activation):
    """f(z) = z."""

    def forward(self, z: Floats, scratch: Floats, derivative: Floats | None) -> list[Operation]:  # noqa: ARG002
        """Nothing to do."""
        return []

    def backward(self, kept: Floats, gradient: Floats, scratch: Floats) -> list[Operation]:  # noqa: ARG002
        """The derivative is 1."""
        return []


class Relu(Activation):
    """f(z) = max(z, 0) (Nair and Hinton, ICML 2010)."""

    is_rectifier = True

    def forward(self, z: Floats, scratch: Floats, derivative: Floats | None) -> list[Operation]:  # noqa: ARG002
        """max(z, 0)."""
        return [partial(z.clip, self._zero, self._infinity, z)]  # a third of the time of np.maximum with a number

    def backward(self, kept: Floats, gradient: Floats, scratch: Floats) -> list[Operation]:
        """The derivative is 1 where the output is above 0, else 0."""
        # Half the time of np.sign, and of an assignment under a mask a tenth.
        return [
            partial(np.greater, kept, self._zero, scratch),
            partial(np.multiply, gradient, scratch, gradient),
        ]


class LeakyRelu(Activation):
    """f(z) = z above 0, else 0.01 z (Maas, Hannun and Ng, ICML workshop 2013)."""

    is_rectifier = True
    slope: ClassVar[float] = 0.01

    def forward(self, z: Floats, scratch: Floats, derivative: Floats | None) -> list[Operation]:  # noqa: ARG002
        """max(z, 0.01 z)."""
        return [
            partial(np.multiply, z, self._constant(self.slope), scratch),
            partial(np.maximum, z, scratch, out=z),
        ]

    def backward(self, kept: Floats, gradient: Floats, scratch: Floats) -> list[Operation]:
        """The derivative is 1 where the output is above 0, else 0.01."""
        return [
            partial(np.greater, kept, self._zero, scratch),
            partial(scratch.clip, self._constant(self.slope), self._infinity, scratch),
            partial(np.multiply, gradient, scratch, gradient),
        ]


class Elu(Activation):
    """f(z) = z above 0, else exp(z) - 1 (Clevert, Unterthiner and Hochreiter, ICLR 2016, with alpha = 1)."""

    is_rectifier = True

    def forward(self, z: Floats, scratch: Floats, derivative: Floats | None) -> list[Operation]:  # noqa: ARG002
        """max(z, 0) + expm1(min(z, 0))."""
        return [
            partial(z.clip, -self._infinity, self._zero, scratch),
            partial(np.expm1, scratch, scratch),
            partial(z.clip, self._zero, self._infinity, z),
            partial(np.add, z, scratch, z),
        ]

    def backward(self, kept: Floats, gradient: Floats, scratch: Floats) -> list[Operation]:
        """The derivative is 1 above 0, else exp(z), which is f(z) + 1."""
        return [
            partial(kept.clip, -self._infinity, self._zero, scratch),
            partial(np.add, scratch, self._one, scratch),
            partial(np.multiply, gradient, scratch, gradient),
        ]


class Gelu(_DerivativeKept):
    """f(z) = z / 2 (1 + tanh(c (z + 0.044715 z^3))), c = sqrt(2 / pi) (Hendrycks and Gimpel, 2016, section 2).

    That is their approximation to z times the normal distribution at z; other libraries call it gelu with "tanh".
    """

    is_rectifier = True

    def forward(self, z: Floats, scratch: Floats, derivative: Floats | None) -> list[Operation]:
        """f(z) = z h, where h = (1 + tanh(c z + 0.044715 c z^3)) / 2."""
        c = math.sqrt(2 / math.pi)
        half = self._constant(0.5)
        operations: list[Operation] = [partial(np.multiply, z, z, scratch)]
        if derivative is not None:  # 2 z times that of the tanh's argument
            operations += [
                partial(np.multiply, scratch, self._constant(6 * 0.044715 * c), derivative),
                partial(np.add, derivative, self._constant(2 * c), derivative),
                partial(np.multiply, derivative, z, derivative),
            ]
        operations += [
            partial(np.multiply, scratch, self._constant(0.044715 * c), scratch),
            partial(np.add, scratch, self._constant(c), scratch),
            partial(np.multiply, scratch, z, scratch),
            partial(np.tanh, scratch, scratch),
            partial(np.multiply, scratch, half, scratch),
            partial(np.add, scratch, half, scratch),
            partial(np.multiply, z, scratch, z),
        ]
        if derivative is not None:  # h + h (1 - h) 2 z (c z + 0.044715 c z^3)'
            operations += [
                partial(np.clip, derivative, *self._bounds, derivative),
                partial(np.multiply, derivative, scratch, derivative),
                partial(np.subtract, self._one, scratch, scratch),
                partial(np.multiply, derivative, scratch, derivative),
                partial(np.subtract, self._one, scratch, scratch),
                partial(np.add, derivative, scratch, derivative),
            ]
        return operations

    @property
    def _bounds(self) -> tuple[Floats, Floats]:
        """Far from zero h (1 - h) is 0, and times infinity would be no number."""
        largest = float(np.finfo(self._dtype).max) / 2
        return self._constant(-largest), self._constant(largest)


class Silu(_DerivativeKept):
    """f(z) = z / (1 + exp(-z)), also called swish (Elfwing, Uchibe and Doya, Neural Networks, 2018)."""

    is_rectifier = True

    def forward(self, z: Floats, scratch: Floats, derivative: Floats | None) -> list[Operation]:
        """f(z) = z s, where s = 1 / (1 + exp(-z)); its derivative is s + z s (1 - s)."""
        operations: list[Operation] = [
            partial(np.negative, z, scratch),
            partial(np.exp, scratch, scratch),
            partial(np.add, scratch, self._one, scratch),
            partial(np.reciprocal, scratch, scratch),
            partial(np.multiply, z, scratch, z),
        ]
        if derivative is not None:
            operations += [
                partial(np.subtract, self._one, scratch, derivative),
                partial(np.multiply, derivative, z, derivative),
                partial(np.add, derivative, scratch, derivative),
            ]
        return operations


class Softplus(Activation):
    """f(z) = log(1 + exp(z)) (Dugas et al., NIPS 2000)."""

    is_rectifier = True

    def forward(self, z: Floats, scratch: Floats, derivative: Floats | None) -> list[Operation]:  # noqa: ARG002
        """max(z, 0) + log1p(exp(-|z|)), which overflows nowhere."""
        return [
            partial(np.abs, z, scratch),
            partial(np.negative, scratch, scratch),
            partial(np.exp, scratch, scratch),
            partial(np.log1p, scratch, scratch),
            partial(z.clip, self._zero, self._infinity, z),
            partial(np.add, z, scratch, z),
        ]

    def backward(self, kept: Floats, gradient: Floats, scratch: Floats) -> list[Operation]:
        """The derivative is the sigmoid of z, which is 1 - exp(-f(z))."""
        return [
            partial(np.negative, kept, scratch),
            partial(np.expm1, scratch, scratch),
            partial(np.negative, scratch, scratch),
            partial(np.multiply, gradient, scratch, gradient),
        ]


class Sigmoid(Activation):
    """f(z) = 1 / (1 + exp(-z)). Far below zero exp overflows, and its infinity gives the right answer, 0."""

    def forward(self, z: Floats, scratch: Floats, derivative: Floats | None) -> list[Operation]:  # noqa: ARG002
        """1 / (1 + exp(-z))."""
        return [
            partial(np.negative, z, z),
            partial(np.exp, z, z),
            partial(np.add, z, self._one, z),
            partial(np.reciprocal, z, z),
        ]

    def backward(self, kept: Floats, gradient: Floats, scratch: Floats) -> list[Operation]:
        """The derivative is f(z) (1 - f(z))."""
        return [
            partial(np.multiply, gradient, kept, gradient),
            partial(np.subtract, self._one, kept, scratch),
            partial(np.multiply, gradient, scratch, gradient),
        ]


class Tanh(Activation):
    """f(z) = tanh(z)."""

    def forward(self, z: Floats, scratch: Floats, derivative: Floats | None) -> list[Operation]:  # noqa: ARG002
        """tanh(z)."""
        return [partial(np.tanh, z, z)]

    def backward(self, kept: Floats, gradient: Floats, scratch: Floats) -> list[Operation]:
        """The derivative is 1 - f(z)^2."""
        return [
            partial(np.multiply, kept, kept, scratch),
            partial(np.subtract, self._one, scratch, scratch),
            partial(np.multiply, gradient, scratch, gradient),
        ]


ACTIVATIONS: dict[str, type[Activation]] = {
    "relu": Relu,
    "leaky_relu": LeakyRelu,
    "elu": Elu,
    "gelu": Gelu,
    "silu": Silu,
    "softplus": Softplus,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "identity": Identity,
}
"""By the names that a training request uses; maxout, which is no function of one number, is a layer."""
