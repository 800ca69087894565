"""A model as an ONNX file, which takes raw columns and answers in the user's terms."""

from __future__ import annotations

import json
from importlib.metadata import version

from common.errors import Invalid
from common.features.target import ClassTarget
from common.learned import LearnedNetwork
from common.schemas.models import Model
from service.exporting.columns import encoded, faults_of_columns
from service.exporting.graph import Graph
from service.exporting.layers import applied
from service.exporting.target import answer


def write_onnx(network: LearnedNetwork, model: Model) -> bytes:
    """The file, of one input for each column and the outputs of docs/export.md.

    Raises:
        Invalid: a column is one that ONNX has no operators for (`not_exportable`); every such column is named.

    """
    if faults := faults_of_columns(network.encoder):
        raise Invalid("ONNX can't express this model.", faults, code="not_exportable")
    graph = Graph()
    matrix = encoded(graph, network.encoder)
    answer(graph, network, applied(network.predictor.layers, graph, matrix, network.predictor.parameters))
    about = {"model_id": model.id, "task": model.task, "target": model.output.name}
    if isinstance(network.target, ClassTarget):
        about["classes"] = json.dumps(network.target.classes)
    if network.quantiles:
        about["quantiles"] = json.dumps(network.quantiles)
    graph.describe(model.name, model.version, version("chainrule"), about)
    return graph.to_bytes()
