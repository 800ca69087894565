"""From the description of a network in a training request to its layers, and to the names of its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np

from common.network.dense import Dense
from common.network.dropout import Dropout
from common.network.embedding import EmbeddedInputs, Embedding
from common.network.initializers import make_initializer
from common.network.layer import Chain, Layer
from common.network.layer_norm import LayerNorm
from common.network.maxout import Maxout
from common.network.parameters import Floats, ParameterLayout
from common.network.residual import Residual
from common.schemas import network as schema

INPUT_STREAM = 1_000_000
"""Of the input's dropout masks; those of layers are counted from 0."""


def network_layers(
    shape: schema.NetworkShape, inputs: int, outputs: int, embeddings: Sequence[Embedding] = ()
) -> Chain:
    """All layers of a network, the output layer included.

    Layers are named `layer0`, `layer1`, …, those inside a residual block `layer1.0`, `layer1.1`, …. Raises ValueError
    for layers that do not fit each other.
    """
    layers: list[Layer] = []
    width = inputs
    if embeddings:
        layers.append(EmbeddedInputs(inputs, embeddings))
        width = layers[-1].width
    if shape.input_dropout:
        layers.append(Dropout("input", width, shape.input_dropout, INPUT_STREAM))
    streams = count()
    for i, layer in enumerate(shape.layers):
        layers += _layers(layer, f"layer{i}", width, streams)
        width = layers[-1].width
    layers.append(Dense(f"layer{len(shape.layers)}", width, outputs, "identity", place="output"))
    return Chain("", inputs, layers)


def _layers(spec: schema.Layer, name: str, width: int, streams: Iterator[int], *, is_last: bool = False) -> list[Layer]:
    """One layer of a description; its dropout is a layer of its own."""
    if isinstance(spec, schema.LayerNorm):
        next(streams)
        return [LayerNorm(name, width)]
    if isinstance(spec, schema.Residual):
        inner: list[Layer] = []
        at = width
        for i, layer in enumerate(spec.layers):
            inner += _layers(layer, f"{name}.{i}", at, streams, is_last=i == len(spec.layers) - 1)
            at = inner[-1].width
        return [Residual(Chain(name, width, inner))]
    layers: list[Layer]
    if spec.activation == "maxout":
        layers = [Maxout(name, width, spec.units, spec.width_of_sums // spec.units)]
    else:
        layers = [Dense(name, width, spec.units, spec.activation, place="closing" if is_last else "hidden")]
    stream = next(streams)
    if spec.dropout:
        layers.append(Dropout(f"{name}.dropout", spec.units, spec.dropout, stream))
    return layers


def network_layout(
    shape: schema.NetworkShape, inputs: int, outputs: int, embeddings: Sequence[Embedding] = ()
) -> ParameterLayout:
    """Where the parameters of every layer lie in the flat vector, layer by layer."""
    return ParameterLayout(network_layers(shape, inputs, outputs, embeddings).shapes)


def parameter_count(shape: schema.NetworkShape, inputs: int, outputs: int, embeddings: Sequence[Embedding] = ()) -> int:
    """How many numbers the network learns; allocates none of them."""
    return network_layout(shape, inputs, outputs, embeddings).size


def initialize(
    shape: schema.NetworkShape,
    inputs: int,
    outputs: int,
    generator: np.random.Generator,
    out: Floats,
    embeddings: Sequence[Embedding] = (),
) -> None:
    """Fill the flat parameter vector `out` as the description's initializer has it.

    Raises ValueError when `out` does not have the network's size.
    """
    layers = network_layers(shape, inputs, outputs, embeddings)
    views = ParameterLayout(layers.shapes).views(out)
    layers.initialize(views, make_initializer(shape.initializer), generator)
