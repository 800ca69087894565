"""Starting weights, drawn so that signals and gradients keep their size through the layers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from common.network.parameters import Floats
from common.schemas import network as schema

Place: TypeAlias = Literal["hidden", "closing", "output"]
"""Of a layer in the network; the last one of a residual block is the closing one."""

Draw: TypeAlias = Callable[[np.random.Generator, int, int], NDArray[np.float64]]
"""Draws weights of shape (inputs, units)."""


class Initializer(ABC):
    """How fully connected layers begin. All numbers are drawn in float64, so that they do not depend on the dtype."""

    @abstractmethod
    def fill(
        self, weights: Floats, bias: Floats, generator: np.random.Generator, *, is_rectified: bool, place: Place
    ) -> None:
        """Write weights, shape (inputs, units), and bias, shape (units,)."""


class Balanced(Initializer):
    """He's weights for rectifiers and Glorot's else, and biases that spread over the data: the default.

    The output layer starts at a tenth of Glorot's weights and without bias, so that an untrained network predicts
    about the mean, or about equal chances, and has no random opinion to unlearn; see
    docs/decisions/0003-initial-weights.md for what that gains. For the same reason a residual block starts close to
    passing on what it gets: its closing layer has a tenth of the weights (Zhang, Dauphin and Ma, ICLR 2019).
    """

    def fill(
        self, weights: Floats, bias: Floats, generator: np.random.Generator, *, is_rectified: bool, place: Place
    ) -> None:
        """Weights first, then the bias."""
        inputs, units = weights.shape
        if place == "output":
            weights[...] = _SHARE * glorot_uniform(generator, inputs, units)
            bias.fill(0)
            return
        draw = he_normal if is_rectified else glorot_uniform
        weights[...] = (_SHARE if place == "closing" else 1.0) * draw(generator, inputs, units)
        bias[...] = hidden_bias(generator, inputs, units)


_SHARE = 0.1


class Drawn(Initializer):
    """The weights of all layers drawn in one way; biases from a normal distribution, or zero."""

    def __init__(self, draw: Draw, bias_deviation: float = 0.0) -> None:
        self._draw = draw
        self._bias_deviation = bias_deviation

    def fill(
        self,
        weights: Floats,
        bias: Floats,
        generator: np.random.Generator,
        *,
        is_rectified: bool,  # noqa: ARG002
        place: Place,  # noqa: ARG002
    ) -> None:
        """The same for every layer: weights first, then the bias."""
        weights[...] = self._draw(generator, *weights.shape)
        bias[...] = generator.normal(0, self._bias_deviation, bias.shape) if self._bias_deviation else 0


def he_normal(generator: np.random.Generator, inputs: int, units: int) -> NDArray[np.float64]:
    """Weights for relu: normal with variance 2 / inputs (He et al., ICCV 2015, equation 10)."""
    return generator.normal(0.0, math.sqrt(2 / inputs), (inputs, units))


def he_uniform(generator: np.random.Generator, inputs: int, units: int) -> NDArray[np.float64]:
    """The same variance, uniform."""
    return _uniform(generator, inputs, units, variance=2 / inputs)


def glorot_normal(generator: np.random.Generator, inputs: int, units: int) -> NDArray[np.float64]:
    """The same variance as `glorot_uniform`, normal."""
    return generator.normal(0.0, math.sqrt(2 / (inputs + units)), (inputs, units))


def glorot_uniform(generator: np.random.Generator, inputs: int, units: int) -> NDArray[np.float64]:
    """Weights for other activations: uniform with variance 2 / (inputs + units).

    Glorot and Bengio (AISTATS 2010, equation 16).
    """
    return _uniform(generator, inputs, units, variance=2 / (inputs + units))


def lecun_normal(generator: np.random.Generator, inputs: int, units: int) -> NDArray[np.float64]:
    """Weights that keep the variance of what comes in: normal, 1 / inputs (LeCun et al., 1998, section 4.6)."""
    return generator.normal(0.0, math.sqrt(1 / inputs), (inputs, units))


def lecun_uniform(generator: np.random.Generator, inputs: int, units: int) -> NDArray[np.float64]:
    """The same variance, uniform."""
    return _uniform(generator, inputs, units, variance=1 / inputs)


def orthogonal(generator: np.random.Generator, inputs: int, units: int) -> NDArray[np.float64]:
    """A matrix with orthonormal rows or columns, whichever are fewer, evenly drawn (Saxe et al., ICLR 2014)."""
    tall = generator.normal(size=(max(inputs, units), min(inputs, units)))
    q, r = np.linalg.qr(tall)
    q *= np.sign(np.diag(r))  # without it the draw would not be even (Mezzadri, 2007)
    return q if inputs >= units else q.T


def _uniform(generator: np.random.Generator, inputs: int, units: int, variance: float) -> NDArray[np.float64]:
    limit = math.sqrt(3 * variance)
    return generator.uniform(-limit, limit, (inputs, units))


def hidden_bias(generator: np.random.Generator, inputs: int, units: int) -> NDArray[np.float64]:
    """Biases of a hidden layer: uniform within 2 / sqrt(inputs), which is the spread of what they are added to.

    With biases of zero every relu bends at the mean of the data, and a network of few inputs stays stiff for long.
    """
    limit = 2 / math.sqrt(inputs)
    return generator.uniform(-limit, limit, units)


DRAWS: dict[str, Draw] = {
    "he_normal": he_normal,
    "he_uniform": he_uniform,
    "glorot_normal": glorot_normal,
    "glorot_uniform": glorot_uniform,
    "lecun_normal": lecun_normal,
    "lecun_uniform": lecun_uniform,
    "orthogonal": orthogonal,
}
"""By the `kind` that a training request uses."""


def make_initializer(spec: schema.Initializer | None) -> Initializer:
    """The initializer that a training request asks for."""
    if spec is None:
        return Balanced()
    if isinstance(spec, schema.NormalWeights):
        deviation = spec.deviation
        return Drawn(lambda generator, *shape: generator.normal(0, deviation, shape), bias_deviation=deviation)
    return Drawn(DRAWS[spec.kind])
