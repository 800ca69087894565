"""The outputs of a network to answers in the user's terms, in those of ONNX."""

from __future__ import annotations

from functools import singledispatch

import numpy as np

from common.features.target import ClassTarget, NumberTarget
from common.learned import LearnedNetwork
from common.network.losses import CrossEntropy, Loss, NumberLoss, Poisson, Quadratic, Quantile
from service.exporting.graph import BOOL, DOUBLE, FLOAT, INT64, STRING, Graph

_KINDS = {bool: BOOL, int: INT64, str: STRING}


def answer(graph: Graph, network: LearnedNetwork, outputs: str) -> None:
    """Give the graph its outputs: label and probabilities, or a value and its quantiles."""
    predicted = _predicted(network.predictor.loss, graph, outputs)
    if isinstance(network.target, ClassTarget):
        _answer_with_classes(graph, network.target, predicted)
    else:
        _answer_with_numbers(graph, network, network.target, predicted)


def _answer_with_classes(graph: Graph, target: ClassTarget, probabilities: str) -> None:
    kind = type(target.classes[0])
    classes = graph.constant(np.array(target.classes, object if kind is str else kind))
    best = graph.add("ArgMax", probabilities, axis=1, keepdims=0)
    graph.give("label", graph.add("Gather", classes, best), _KINDS[kind], None, "the most probable class")
    graph.give("probabilities", probabilities, FLOAT, len(target.classes), "of each class, in the order of `classes`")


def _answer_with_numbers(graph: Graph, network: LearnedNetwork, target: NumberTarget, predicted: str) -> None:
    """Standardized numbers back in the target's units, in halves as `NumberTarget.decode` does it."""
    scale, mean, two = (graph.constant(np.array(number)) for number in (target.scale / 2, target.mean / 2, 2.0))
    scaled = graph.add("Mul", graph.cast(predicted, DOUBLE), scale)
    values = graph.add("Mul", graph.add("Add", scaled, mean), two)
    middle = graph.columns(values, [network.predictor.middle])
    graph.give("value", middle, DOUBLE, 1, "in the units of the target")
    if network.quantiles:
        graph.give("quantiles", values, DOUBLE, len(network.quantiles), "of the target, in the order of `quantiles`")


@singledispatch
def _predicted(loss: Loss, graph: Graph, outputs: str) -> str:
    """What the loss's `predict` makes of the outputs."""
    raise NotImplementedError(type(loss).__name__)


@_predicted.register
def _cross_entropy(loss: CrossEntropy, graph: Graph, outputs: str) -> str:
    del loss
    return graph.add("Softmax", outputs, axis=1)


@_predicted.register
def _quadratic(loss: Quadratic, graph: Graph, outputs: str) -> str:
    """The sigmoids as shares of their sum: the softmax of their logarithms."""
    del loss
    logarithms = graph.add("Neg", graph.add("Softplus", graph.add("Neg", outputs)))
    return graph.add("Softmax", logarithms, axis=1)


@_predicted.register
def _number(loss: NumberLoss, graph: Graph, outputs: str) -> str:
    del loss, graph
    return outputs


@_predicted.register
def _quantile(loss: Quantile, graph: Graph, outputs: str) -> str:
    """Sorted."""
    return graph.add("TopK", outputs, graph.constant(np.array([loss.width])), unused=1, axis=1, largest=0)


@_predicted.register
def _poisson(loss: Poisson, graph: Graph, outputs: str) -> str:
    del loss
    return graph.add("Exp", outputs)
