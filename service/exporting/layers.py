"""The layers of a network in the terms of ONNX, operation by operation as they run here, in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import singledispatch
from typing import Any

import numpy as np

from common.network.activations import LeakyRelu
from common.network.dense import Dense
from common.network.dropout import Dropout
from common.network.embedding import EmbeddedInputs
from common.network.layer import Chain, Layer
from common.network.layer_norm import EPSILON, LayerNorm
from common.network.maxout import Maxout
from common.network.parameters import Floats
from common.network.residual import Residual
from service.exporting.graph import INT64, Graph

Parameters = Mapping[str, Floats]
"""By the names that the layers have for them."""


@singledispatch
def applied(layer: Layer, graph: Graph, x: str, parameters: Parameters) -> str:
    """What a layer makes of the tensor `x`, shape (rows, inputs): another, shape (rows, width)."""
    raise NotImplementedError(type(layer).__name__)


@applied.register
def _chain(layer: Chain, graph: Graph, x: str, parameters: Parameters) -> str:
    for one in layer.layers:
        x = applied(one, graph, x, parameters)
    return x


@applied.register
def _dense(layer: Dense, graph: Graph, x: str, parameters: Parameters) -> str:
    return ACTIVATIONS[layer.activation](graph, _linear(layer, graph, x, parameters))


@applied.register
def _maxout(layer: Maxout, graph: Graph, x: str, parameters: Parameters) -> str:
    z = _linear(layer, graph, x, parameters)
    pieces = graph.constant(np.array([0, layer.pieces, layer.width], np.int64))  # 0: as many rows as there are
    return graph.add("ReduceMax", graph.add("Reshape", z, pieces), axes=[1], keepdims=0)


@applied.register
def _layer_norm(layer: LayerNorm, graph: Graph, x: str, parameters: Parameters) -> str:
    """Not by ONNX's own operator: some runtimes take the variance as a difference of squares, which cancels."""
    gain, shift = (graph.constant(parameters[name]) for name in layer.shapes)
    average = graph.constant(np.full((layer.width, 1), 1 / layer.width, np.float32))
    centered = graph.add("Sub", x, graph.add("MatMul", x, average))
    variance = graph.add("MatMul", graph.add("Mul", centered, centered), average)
    deviation = graph.add("Sqrt", graph.add("Add", variance, _number(graph, EPSILON)))
    normal = graph.add("Div", centered, deviation)
    return graph.add("Add", graph.add("Mul", normal, gain), shift)


@applied.register
def _residual(layer: Residual, graph: Graph, x: str, parameters: Parameters) -> str:
    return graph.add("Add", x, applied(layer.chain, graph, x, parameters))


@applied.register
def _dropout(layer: Dropout, graph: Graph, x: str, parameters: Parameters) -> str:
    del layer, graph, parameters
    return x  # it drops in training only


@applied.register
def _embedded(layer: EmbeddedInputs, graph: Graph, x: str, parameters: Parameters) -> str:
    parts = [graph.columns(x, layer.plain)] if layer.plain else []
    for name, embedding in zip(layer.shapes, layer.embeddings, strict=True):
        place = graph.constant(np.array(embedding.place))
        codes = graph.cast(graph.add("Gather", x, place, axis=1), INT64)
        parts.append(graph.add("Gather", graph.constant(parameters[name]), codes))
    return graph.add_joined(parts)


def _linear(layer: Dense | Maxout, graph: Graph, x: str, parameters: Parameters) -> str:
    """The product of x and the weights, plus the bias."""
    return graph.add("Gemm", x, *(graph.constant(parameters[name]) for name in layer.shapes))


def _number(graph: Graph, number: float) -> str:
    return graph.constant(np.array(number, np.float32))


def _operator(name: str, **attributes: Any) -> Callable[[Graph, str], str]:
    return lambda graph, z: graph.add(name, z, **attributes)


def _gelu(graph: Graph, z: str) -> str:
    """Its tanh form: z (1 + tanh(c z + 0.044715 c z^3)) / 2."""
    c, half = math.sqrt(2 / math.pi), _number(graph, 0.5)
    inner = graph.add("Mul", graph.add("Mul", z, z), _number(graph, 0.044715 * c))
    inner = graph.add("Mul", graph.add("Add", inner, _number(graph, c)), z)
    gate = graph.add("Add", graph.add("Mul", graph.add("Tanh", inner), half), half)
    return graph.add("Mul", z, gate)


def _silu(graph: Graph, z: str) -> str:
    """Not z times ONNX's sigmoid: far below zero runtimes do not let that go to 0."""
    power = graph.add("Exp", graph.add("Neg", z))
    return graph.add("Div", z, graph.add("Add", power, _number(graph, 1.0)))


ACTIVATIONS: Mapping[str, Callable[[Graph, str], str]] = {
    "relu": _operator("Relu"),
    "leaky_relu": _operator("LeakyRelu", alpha=LeakyRelu.slope),
    "elu": _operator("Elu"),
    "gelu": _gelu,
    "silu": _silu,
    "softplus": _operator("Softplus"),
    "sigmoid": _operator("Sigmoid"),
    "tanh": _operator("Tanh"),
    "identity": lambda _, z: z,
}
"""By the names that a training request uses."""
