"""Optimizers over a flat vector of parameters, in place."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.network.operations import Operation
from common.network.parameters import Floats
from common.schemas import training

State = Mapping[str, NDArray[Any]]
"""Arrays by name: what a part of a training needs to go on in another process, to the bit."""

BLOCK = 65_536
"""Numbers worked through at a time: few enough that all passes but the first find them in the cache, and so many
that calling numpy for each pass costs little."""


class Optimizer(ABC):
    """Updates `parameters` by `gradient`, two vectors of one shape and dtype that it is bound to for good.

    They may be one server's part of longer vectors. A step is `begin_step()`, then `update_block` for each of
    `blocks` once, in any order: so a server can add up the gradients of a block and apply them while they are in the
    cache. `step` does it in one go. All state and all views are made here; a step allocates nothing. The gradient is
    only read. Whoever takes steps holds `quiet()`, or is warned of infinities. Raises ValueError when the vectors
    are not alike.
    """

    def __init__(self, parameters: Floats, gradient: Floats) -> None:
        if parameters.ndim != 1 or parameters.shape != gradient.shape or parameters.dtype != gradient.dtype:
            raise ValueError(
                f"two vectors of one shape and dtype are needed, not {parameters.dtype} of shape {parameters.shape} "
                f"and {gradient.dtype} of shape {gradient.shape}"
            )
        self.size = parameters.size
        self.blocks = tuple(slice(start, min(start + BLOCK, self.size)) for start in range(0, self.size, BLOCK))
        self.steps = 0
        self._scale = 1.0
        self._dtype = parameters.dtype
        scratch = np.empty(min(self.size, BLOCK), self._dtype)
        self._make_state()
        self._operations = tuple(
            self._update(parameters[block], gradient[block], block, scratch[: block.stop - block.start])
            for block in self.blocks
        )

    def begin_step(self, scale: float = 1.0) -> None:
        """Begin the next step, on `scale` times what the gradient vector will hold.

        So a gradient that is a sum over rows need not be divided by their number: that would be a pass over memory,
        and here it costs nothing. Squares of the vector's numbers, and of the ratio of one step's scale to the
        next's, have to lie within the dtype's range. Raises ValueError for a scale that is not a positive, finite
        number.
        """
        if not 0 < scale < math.inf:
            raise ValueError(f"a positive, finite scale is needed, not {scale}")
        # The state is kept in units of the gradient vector: when these change, it is converted as it decays.
        conversion = self._scale / scale if self.steps else 1.0
        self._scale = scale
        self.steps += 1
        self._begin(scale, conversion)

    def update_block(self, index: int) -> None:
        """Apply the step to the parameters in `blocks[index]`."""
        for operation in self._operations[index]:
            operation()

    def step(self, scale: float = 1.0) -> None:
        """A whole step. Raises ValueError for a scale that is not a positive, finite number."""
        self.begin_step(scale)
        for operations in self._operations:
            for operation in operations:
                operation()

    def state(self) -> State:
        """All that is kept from step to step: views, to be copied or written down before the next one."""
        return {"steps": np.array([self.steps]), "scale": np.array([self._scale]), **self._kept}

    def restore(self, state: State) -> None:
        """Goes on where the optimizer stood whose `state` this is."""
        self.steps, self._scale = int(state["steps"][0]), float(state["scale"][0])
        for name, vector in self._kept.items():
            vector[:] = state[name]

    def _number(self) -> Floats:
        """Room for a number that every step sets anew: numpy takes it in half the time that a Python number costs."""
        return np.zeros((), self._dtype)

    @abstractmethod
    def _make_state(self) -> None:
        """Allocate what is kept from step to step."""

    @property
    @abstractmethod
    def _kept(self) -> dict[str, Floats]:
        """The vectors among it, by name."""

    @abstractmethod
    def _begin(self, scale: float, conversion: float) -> None:
        """Set the step's numbers; what the state holds is to be multiplied by `conversion`."""

    @abstractmethod
    def _update(self, parameters: Floats, gradient: Floats, block: slice, scratch: Floats) -> list[Operation]:
        """What applies a step to one block, given as views; `block` is where its state lies."""


class Sgd(Optimizer):
    """Stochastic gradient descent, with momentum as in PyTorch: v = momentum v + g; p = p - learning_rate v.

    Robbins and Monro (1951); momentum: Polyak (1964), Sutskever et al. (ICML 2013).
    """

    def __init__(self, spec: training.Sgd, parameters: Floats, gradient: Floats) -> None:
        self._spec = spec
        super().__init__(parameters, gradient)

    def _make_state(self) -> None:
        self._velocity = np.zeros(self.size if self._spec.momentum else 0, self._dtype)
        self._decay, self._rate = self._number(), self._number()

    @property
    def _kept(self) -> dict[str, Floats]:
        return {"velocity": self._velocity}

    def _begin(self, scale: float, conversion: float) -> None:
        self._decay.fill(self._spec.momentum * conversion)
        self._rate.fill(self._spec.learning_rate * scale)

    def _update(self, parameters: Floats, gradient: Floats, block: slice, scratch: Floats) -> list[Operation]:
        operations: list[Operation] = []
        direction = gradient
        if self._spec.momentum:
            direction = self._velocity[block]
            operations += [
                partial(np.multiply, direction, self._decay, direction),
                partial(np.add, direction, gradient, direction),
            ]
        return [
            *operations,
            partial(np.multiply, direction, self._rate, scratch),
            partial(np.subtract, parameters, scratch, parameters),
        ]


class Adam(Optimizer):
    """Adam (Kingma and Ba, ICLR 2015, algorithm 1), equal to PyTorch's up to rounding.

    In step t, with g = scale x gradient:

        m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
        p = p - learning_rate / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)

    Kept are m / (1 - beta1) / scale and v / (1 - beta2) / scale^2, which saves three of thirteen passes over memory;
    the constant factors move into the rate and epsilon of the step.
    """

    def __init__(self, spec: training.Adam, parameters: Floats, gradient: Floats) -> None:
        self._spec = spec
        super().__init__(parameters, gradient)

    def _make_state(self) -> None:
        self._first = np.zeros(self.size, self._dtype)
        self._second = np.zeros(self.size, self._dtype)
        self._first_decay, self._second_decay = self._number(), self._number()
        self._rate, self._epsilon = self._number(), self._number()

    @property
    def _kept(self) -> dict[str, Floats]:
        return {"first_moment": self._first, "second_moment": self._second}

    def _begin(self, scale: float, conversion: float) -> None:
        spec, t = self._spec, self.steps
        second = math.sqrt((1 - spec.beta2**t) / (1 - spec.beta2))
        self._first_decay.fill(spec.beta1 * conversion)
        self._second_decay.fill(spec.beta2 * conversion**2)
        self._rate.fill(spec.learning_rate * (1 - spec.beta1) / (1 - spec.beta1**t) * second)
        self._epsilon.fill(spec.epsilon * second / scale)

    def _update(self, parameters: Floats, gradient: Floats, block: slice, scratch: Floats) -> list[Operation]:
        first, second = self._first[block], self._second[block]
        return [
            partial(np.multiply, first, self._first_decay, first),
            partial(np.add, first, gradient, first),
            partial(np.multiply, second, self._second_decay, second),
            partial(np.multiply, gradient, gradient, scratch),
            partial(np.add, second, scratch, second),
            partial(np.sqrt, second, scratch),
            partial(np.add, scratch, self._epsilon, scratch),
            partial(np.divide, first, scratch, scratch),
            partial(np.multiply, scratch, self._rate, scratch),
            partial(np.subtract, parameters, scratch, parameters),
        ]


class BlockMomentum(Optimizer):
    """Nesterov momentum over the averaged moves of workers (Chen and Huo, ICASSP 2016, section 3).

    In each round v = momentum v + g; p = p - (g + momentum v), where g points backwards along the mean move. Without
    momentum that is plain averaging.
    """

    def __init__(self, momentum: float, parameters: Floats, gradient: Floats) -> None:
        self._momentum = momentum
        super().__init__(parameters, gradient)

    def _make_state(self) -> None:
        self._velocity = np.zeros(self.size if self._momentum else 0, self._dtype)
        self._decay, self._scaled, self._ahead = self._number(), self._number(), self._number()

    @property
    def _kept(self) -> dict[str, Floats]:
        return {"velocity": self._velocity}

    def _begin(self, scale: float, conversion: float) -> None:
        self._decay.fill(self._momentum * conversion)
        self._scaled.fill(scale)
        self._ahead.fill(self._momentum * scale)

    def _update(self, parameters: Floats, gradient: Floats, block: slice, scratch: Floats) -> list[Operation]:
        operations: list[Operation] = [
            partial(np.multiply, gradient, self._scaled, scratch),
            partial(np.subtract, parameters, scratch, parameters),
        ]
        if not self._momentum:
            return operations
        velocity = self._velocity[block]
        return [
            *operations,
            partial(np.multiply, velocity, self._decay, velocity),
            partial(np.add, velocity, gradient, velocity),
            partial(np.multiply, velocity, self._ahead, scratch),
            partial(np.subtract, parameters, scratch, parameters),
        ]


def make_optimizer(spec: training.Optimizer, parameters: Floats, gradient: Floats) -> Optimizer:
    """The optimizer that a training request asks for, bound to the vectors that it reads and writes."""
    if isinstance(spec, training.Adam):
        return Adam(spec, parameters, gradient)
    return Sgd(spec, parameters, gradient)
