"""Optimizers over a flat vector of parameters, in place."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.network.operations import Operation
from common.network.parameters import Floats
from common.schemas import optimizers as schema

State = Mapping[str, NDArray[Any]]
"""Arrays by name: what a part of a training needs to go on in another process, to the bit."""

BLOCK = 65_536
"""Numbers worked through at a time: few enough that all passes but the first find them in the cache, and so many
that calling numpy for each pass costs little."""


@dataclass(frozen=True, slots=True)
class Penalties:
    """What keeps weights small, beside the gradient of the loss.

    `spans` are the ranges of the vector that hold weights: biases, gains and shifts are left alone.
    """

    l1: float = 0.0
    l2: float = 0.0
    weight_decay: float = 0.0
    clip_value: float | None = None
    spans: tuple[slice, ...] = ()

    @property
    def change_gradient(self) -> bool:
        """Whether the gradient that the optimizer sees is not that of the loss."""
        return bool(self.l1 or self.l2 or self.clip_value is not None)

    def part(self, start: int, stop: int) -> Penalties:
        """The same for the part `start` … `stop` - 1 of the vector."""
        spans = (slice(max(s.start, start) - start, min(s.stop, stop) - start) for s in self.spans)
        return replace(self, spans=tuple(span for span in spans if span.start < span.stop))


class Optimizer(ABC):
    """Updates `parameters` by `gradient`, two vectors of one shape and dtype that it is bound to for good.

    They may be one server's part of longer vectors. A step is `begin_step()`, then `update_block` for each of
    `blocks` once, in any order: so a server can add up the gradients of a block and apply them while they are in the
    cache. `step` does it in one go. All state and all views are made here; a step allocates nothing. The gradient is
    only read. Whoever takes steps holds `quiet()`, or is warned of infinities. Raises ValueError when the vectors
    are not alike.

    Penalties act as in PyTorch: every number of the mean gradient is cut at `clip_value`; l2 w + l1 sign(w), the
    gradient of l2 / 2 |w|^2 + l1 |w|, is added; and decoupled from it each weight is multiplied by
    1 - learning_rate weight_decay (Loshchilov and Hutter, ICLR 2019, algorithm 2).
    """

    def __init__(
        self,
        parameters: Floats,
        gradient: Floats,
        *,
        learning_rate: float = 1.0,
        penalties: Penalties = Penalties(),  # frozen
    ) -> None:
        if parameters.ndim != 1 or parameters.shape != gradient.shape or parameters.dtype != gradient.dtype:
            raise ValueError(
                f"two vectors of one shape and dtype are needed, not {parameters.dtype} of shape {parameters.shape} "
                f"and {gradient.dtype} of shape {gradient.shape}"
            )
        self.size = parameters.size
        self.blocks = tuple(slice(start, min(start + BLOCK, self.size)) for start in range(0, self.size, BLOCK))
        self.steps = 0
        self._learning_rate = learning_rate
        self._penalties = penalties
        self._scale = 1.0
        self._dtype = parameters.dtype
        self._rate = self._number()
        self._low, self._high, self._l1, self._l2, self._kept_share = (self._number() for _ in range(5))
        self._adjusted, self._scratch, self._spare = np.empty((3, min(self.size, BLOCK)), self._dtype)
        self._make_state()
        self._operations = tuple(self._block(parameters[block], gradient[block], block) for block in self.blocks)

    def begin_step(self, scale: float = 1.0, rate: float = 1.0) -> None:
        """Begin the next step, on `scale` times what the gradient vector will hold, at `rate` times the learning rate.

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
        learning_rate, penalties = self._learning_rate * rate, self._penalties
        if penalties.change_gradient:
            clip = math.inf if penalties.clip_value is None else penalties.clip_value / scale
            self._low.fill(-clip)
            self._high.fill(clip)
            self._l1.fill(penalties.l1 / scale)
            self._l2.fill(penalties.l2 / scale)
        self._kept_share.fill(1 - learning_rate * penalties.weight_decay)
        self._begin(scale, conversion, learning_rate)

    def update_block(self, index: int) -> None:
        """Apply the step to the parameters in `blocks[index]`."""
        for operation in self._operations[index]:
            operation()

    def step(self, scale: float = 1.0, rate: float = 1.0) -> None:
        """A whole step. Raises ValueError for a scale that is not a positive, finite number."""
        self.begin_step(scale, rate)
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

    def _block(self, parameters: Floats, gradient: Floats, block: slice) -> list[Operation]:
        """A step on one block: penalties, then the optimizer's own update."""
        own = self._penalties.part(block.start, block.stop)
        scratch = self._scratch[: parameters.size]
        operations: list[Operation] = []
        if own.change_gradient:
            adjusted = self._adjusted[: parameters.size]
            operations.append(partial(gradient.clip, self._low, self._high, adjusted))
            gradient = adjusted
        for span in own.spans:
            weights = parameters[span]
            if own.l2:
                operations.append(partial(np.multiply, weights, self._l2, scratch[span]))
                operations.append(partial(np.add, gradient[span], scratch[span], gradient[span]))
            if own.l1:
                operations.append(partial(np.sign, weights, scratch[span]))
                operations.append(partial(np.multiply, scratch[span], self._l1, scratch[span]))
                operations.append(partial(np.add, gradient[span], scratch[span], gradient[span]))
            if own.weight_decay:
                operations.append(partial(np.multiply, weights, self._kept_share, weights))
        return operations + self._update(parameters, gradient, block, scratch)

    @abstractmethod
    def _make_state(self) -> None:
        """Allocate what is kept from step to step."""

    @property
    @abstractmethod
    def _kept(self) -> dict[str, Floats]:
        """The vectors among it, by name."""

    @abstractmethod
    def _begin(self, scale: float, conversion: float, learning_rate: float) -> None:
        """Set the step's numbers; what the state holds is to be multiplied by `conversion`."""

    @abstractmethod
    def _update(self, parameters: Floats, gradient: Floats, block: slice, scratch: Floats) -> list[Operation]:
        """What applies a step to one block, given as views; `block` is where its state lies."""


class Momentum(Optimizer):
    """Stochastic gradient descent with momentum, as in PyTorch: v = momentum v + g; p = p - learning_rate v.

    Robbins and Monro (1951); momentum: Polyak (1964), Sutskever et al. (ICML 2013). With `nesterov`, the step is along
    g + momentum v (Nesterov, 1983; in this form: Bengio, Boulanger-Lewandowski and Pascanu, ICASSP 2013, equation 7).
    """

    def __init__(
        self, momentum: float, parameters: Floats, gradient: Floats, *, nesterov: bool = False, **options: Any
    ) -> None:
        self._momentum = momentum
        self._is_nesterov = nesterov and momentum > 0
        super().__init__(parameters, gradient, **options)

    def _make_state(self) -> None:
        self._velocity = np.zeros(self.size if self._momentum else 0, self._dtype)
        self._decay, self._ahead = self._number(), self._number()

    @property
    def _kept(self) -> dict[str, Floats]:
        return {"velocity": self._velocity}

    def _begin(self, scale: float, conversion: float, learning_rate: float) -> None:
        self._decay.fill(self._momentum * conversion)
        self._ahead.fill(self._momentum)
        self._rate.fill(learning_rate * scale)

    def _update(self, parameters: Floats, gradient: Floats, block: slice, scratch: Floats) -> list[Operation]:
        operations: list[Operation] = []
        direction = gradient
        if self._momentum:
            direction = self._velocity[block]
            operations += [
                partial(np.multiply, direction, self._decay, direction),
                partial(np.add, direction, gradient, direction),
            ]
        if self._is_nesterov:
            operations += [
                partial(np.multiply, direction, self._ahead, scratch),
                partial(np.add, scratch, gradient, scratch),
            ]
            direction = scratch
        return [
            *operations,
            partial(np.multiply, direction, self._rate, scratch),
            partial(np.subtract, parameters, scratch, parameters),
        ]


class _OverRoot(Optimizer):
    """The gradient over the root of a decaying sum of its squares; how that decays makes the difference."""

    def _make_state(self) -> None:
        self._squares = np.zeros(self.size, self._dtype)
        self._decay, self._epsilon = self._number(), self._number()

    @property
    def _kept(self) -> dict[str, Floats]:
        return {"squares": self._squares}

    def _update(self, parameters: Floats, gradient: Floats, block: slice, scratch: Floats) -> list[Operation]:
        squares = self._squares[block]
        return [
            partial(np.multiply, squares, self._decay, squares),
            partial(np.multiply, gradient, gradient, scratch),
            partial(np.add, squares, scratch, squares),
            partial(np.sqrt, squares, scratch),
            partial(np.add, scratch, self._epsilon, scratch),
            partial(np.divide, gradient, scratch, scratch),
            partial(np.multiply, scratch, self._rate, scratch),
            partial(np.subtract, parameters, scratch, parameters),
        ]


class Adagrad(_OverRoot):
    """Adagrad (Duchi, Hazan and Singer, JMLR 2011): s = s + g^2; p = p - learning_rate g / (sqrt(s) + epsilon).

    Kept is s / scale^2.
    """

    def __init__(self, spec: schema.Adagrad, parameters: Floats, gradient: Floats, **options: Any) -> None:
        self._spec = spec
        super().__init__(parameters, gradient, **options)

    def _begin(self, scale: float, conversion: float, learning_rate: float) -> None:
        self._decay.fill(conversion**2)
        self._epsilon.fill(self._spec.epsilon / scale)
        self._rate.fill(learning_rate)


class Adadelta(Optimizer):
    """Adadelta (Zeiler, 2012, algorithm 1).

        s = rho s + (1 - rho) g^2;  d = sqrt(u + epsilon) / sqrt(s + epsilon) g
        u = rho u + (1 - rho) d^2;  p = p - learning_rate d

    Kept are s / (1 - rho) / scale^2 and u / (1 - rho).
    """

    def __init__(self, spec: schema.Adadelta, parameters: Floats, gradient: Floats, **options: Any) -> None:
        self._spec = spec
        super().__init__(parameters, gradient, **options)

    def _make_state(self) -> None:
        self._squares = np.zeros(self.size, self._dtype)
        self._moves = np.zeros(self.size, self._dtype)
        self._decay, self._rho, self._epsilon, self._least = (self._number() for _ in range(4))

    @property
    def _kept(self) -> dict[str, Floats]:
        return {"squares": self._squares, "moves": self._moves}

    def _begin(self, scale: float, conversion: float, learning_rate: float) -> None:
        least = self._spec.epsilon / (1 - self._spec.rho)
        self._decay.fill(self._spec.rho * conversion**2)
        self._rho.fill(self._spec.rho)
        self._least.fill(least)
        self._epsilon.fill(least / scale**2)
        self._rate.fill(learning_rate)

    def _update(self, parameters: Floats, gradient: Floats, block: slice, scratch: Floats) -> list[Operation]:
        squares, moves, spare = self._squares[block], self._moves[block], self._spare[: parameters.size]
        return [
            partial(np.multiply, squares, self._decay, squares),
            partial(np.multiply, gradient, gradient, scratch),
            partial(np.add, squares, scratch, squares),
            partial(np.add, squares, self._epsilon, scratch),
            partial(np.add, moves, self._least, spare),
            partial(np.divide, spare, scratch, scratch),
            partial(np.sqrt, scratch, scratch),
            partial(np.multiply, scratch, gradient, scratch),
            partial(np.multiply, scratch, scratch, spare),
            partial(np.multiply, moves, self._rho, moves),
            partial(np.add, moves, spare, moves),
            partial(np.multiply, scratch, self._rate, scratch),
            partial(np.subtract, parameters, scratch, parameters),
        ]


class RmsProp(_OverRoot):
    """RMSProp (Tieleman and Hinton, 2012, lecture 6e): s = rho s + (1 - rho) g^2; p = p - learning_rate g / (sqrt(s) + epsilon).

    Kept is s / (1 - rho) / scale^2.
    """

    def __init__(self, spec: schema.RmsProp, parameters: Floats, gradient: Floats, **options: Any) -> None:
        self._spec = spec
        super().__init__(parameters, gradient, **options)

    def _begin(self, scale: float, conversion: float, learning_rate: float) -> None:
        root = math.sqrt(1 - self._spec.rho)
        self._decay.fill(self._spec.rho * conversion**2)
        self._epsilon.fill(self._spec.epsilon / (scale * root))
        self._rate.fill(learning_rate / root)


class Adam(Optimizer):
    """Adam (Kingma and Ba, ICLR 2015, algorithm 1), equal to PyTorch's up to rounding.

    In step t, with g = scale x gradient:

        m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
        p = p - learning_rate / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)

    Kept are m / (1 - beta1) / scale and v / (1 - beta2) / scale^2, which saves three of thirteen passes over memory;
    the constant factors move into the rate and epsilon of the step. With weight decay it is AdamW.
    """

    def __init__(self, spec: schema.Adam | schema.AdamW, parameters: Floats, gradient: Floats, **options: Any) -> None:
        self._spec = spec
        super().__init__(parameters, gradient, **options)

    def _make_state(self) -> None:
        self._first = np.zeros(self.size, self._dtype)
        self._second = np.zeros(self.size, self._dtype)
        self._first_decay, self._second_decay, self._epsilon = (self._number() for _ in range(3))

    @property
    def _kept(self) -> dict[str, Floats]:
        return {"first_moment": self._first, "second_moment": self._second}

    def _begin(self, scale: float, conversion: float, learning_rate: float) -> None:
        spec, t = self._spec, self.steps
        second = math.sqrt((1 - spec.beta2**t) / (1 - spec.beta2))
        self._first_decay.fill(spec.beta1 * conversion)
        self._second_decay.fill(spec.beta2 * conversion**2)
        self._rate.fill(learning_rate * (1 - spec.beta1) / (1 - spec.beta1**t) * second)
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

    def _begin(self, scale: float, conversion: float, learning_rate: float) -> None:  # noqa: ARG002
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


def make_optimizer(
    spec: schema.Optimizer,
    parameters: Floats,
    gradient: Floats,
    penalties: Penalties = Penalties(),
) -> Optimizer:
    """The optimizer that a training request asks for, bound to the vectors that it reads and writes."""
    options: dict[str, Any] = {"learning_rate": spec.learning_rate, "penalties": penalties}
    match spec:
        case schema.Sgd() | schema.Momentum():
            return Momentum(spec.momentum, parameters, gradient, **options)
        case schema.Nesterov():
            return Momentum(spec.momentum, parameters, gradient, nesterov=True, **options)
        case schema.Adagrad():
            return Adagrad(spec, parameters, gradient, **options)
        case schema.Adadelta():
            return Adadelta(spec, parameters, gradient, **options)
        case schema.RmsProp():
            return RmsProp(spec, parameters, gradient, **options)
        case schema.Adam() | schema.AdamW():
            return Adam(spec, parameters, gradient, **options)
