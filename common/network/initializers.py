"""Starting weights, drawn so that signals and gradients keep their size through the layers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from common.network.parameters import Floats, network_layout
from common.schemas.training import NetworkShape


def he_normal(generator: np.random.Generator, inputs: int, units: int) -> NDArray[np.float64]:
    """Weights for relu: normal with variance 2 / inputs (He et al., ICCV 2015, equation 10)."""
    return generator.normal(0.0, math.sqrt(2 / inputs), (inputs, units))


def glorot_uniform(generator: np.random.Generator, inputs: int, units: int) -> NDArray[np.float64]:
    """Weights for other activations: uniform with variance 2 / (inputs + units).

    Glorot and Bengio (AISTATS 2010, equation 16).
    """
    limit = math.sqrt(6 / (inputs + units))
    return generator.uniform(-limit, limit, (inputs, units))


def hidden_bias(generator: np.random.Generator, inputs: int, units: int) -> NDArray[np.float64]:
    """Biases of a hidden layer: uniform within 2 / sqrt(inputs), which is the spread of what they are added to.

    With biases of zero every relu bends at the mean of the data, and a network of few inputs stays stiff for long;
    see docs/decisions/0003-initial-weights.md for what this gains.
    """
    limit = 2 / math.sqrt(inputs)
    return generator.uniform(-limit, limit, units)


def initialize(shape: NetworkShape, inputs: int, outputs: int, generator: np.random.Generator, out: Floats) -> None:
    """Fill the flat parameter vector `out`: He for relu, Glorot for other layers.

    The output layer starts at a tenth of Glorot's weights and without bias, so that an untrained network predicts
    about the mean, or about equal chances, and has no random opinion to unlearn. The numbers are drawn in float64
    and rounded to the dtype of `out`, so that they do not depend on it. Raises ValueError when `out` does not have
    the network's size.
    """
    views = network_layout(shape, inputs, outputs).views(out)
    for i, layer in enumerate(shape.layers):
        weights = views[f"layer{i}.weights"]
        draw = he_normal if layer.activation == "relu" else glorot_uniform
        weights[...] = draw(generator, *weights.shape)
        views[f"layer{i}.bias"][...] = hidden_bias(generator, *weights.shape)
    last = len(shape.layers)
    weights = views[f"layer{last}.weights"]
    weights[...] = _OUTPUT_SHARE * glorot_uniform(generator, *weights.shape)
    views[f"layer{last}.bias"].fill(0)


_OUTPUT_SHARE = 0.1
