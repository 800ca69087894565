"""A training that begins with what a model has learned, on data that may have other columns, categories or classes.

The new network answers as the old one did wherever both know what they see: new scales of inputs and of the target are
made good for in the weights, and what the old one never saw begins without weight. That is the function-preserving
start of Net2Net (Chen et al., ICLR 2016), for the input and output layers.
"""

from __future__ import annotations

import numpy as np

from common.features.columns import OneHot, Scaled
from common.features.encoder import FeatureEncoder
from common.features.target import ClassTarget, NumberTarget, Target, target_from_document
from common.learned import LearnedDocument, width_of
from common.network.parameters import Floats, network_layout
from common.network.saved import weights_from_bytes
from common.store.models import StoredModel
from worker.channel import Vector
from worker.parameter_server import initial_parameters
from worker.task import TrainingTask


def warm_start(base: StoredModel, task: TrainingTask, encoder: FeatureEncoder, target: Target) -> Vector:
    """The parameters to begin with, shape (task.parameters,).

    Args:
        base: the model, of the same task and hidden layers.
        task: what is trained.
        encoder: of the new data.
        target: of the new data.

    Raises:
        CorruptRecord: the model is damaged.

    """
    document = LearnedDocument.model_validate(base.document)
    old_encoder = FeatureEncoder.from_document(document.encoder)
    old_target = target_from_document(document.target)
    old_layout = network_layout(document.network, old_encoder.width, width_of(old_target))
    old = old_layout.views(weights_from_bytes(base.weights, old_layout.size))
    start = initial_parameters(task)
    new = network_layout(task.shape, task.inputs, task.outputs).views(start)
    last = len(task.shape.layers)
    for name in new:
        if new[name].shape == old[name].shape and not name.startswith(("layer0.", f"layer{last}.")):
            new[name][...] = old[name]
    _carry_inputs(old_encoder, encoder, old, new)
    _carry_outputs(old_target, target, old, new, last)
    return start


def _carry_inputs(
    old_encoder: FeatureEncoder, encoder: FeatureEncoder, old: dict[str, Floats], new: dict[str, Floats]
) -> None:
    weights, bias = new["layer0.weights"], new["layer0.bias"]
    weights[...] = 0
    shift = old["layer0.bias"].astype(np.float64)
    known = {column.name: (place, column) for place, column in old_encoder.placed}
    for place, column in encoder.placed:
        before = known.get(column.name)
        if before is None:
            continue
        at, was = before
        rows = old["layer0.weights"][at : at + was.width].astype(np.float64)
        if isinstance(column, Scaled) and isinstance(was, Scaled):
            weights[place] = rows[0] * (column.scale / was.scale)
            shift += rows[0] * ((column.mean - was.mean) / was.scale)
        elif isinstance(column, OneHot) and isinstance(was, OneHot):
            for mine, theirs in _same_categories(column, was):
                weights[place + mine] = rows[theirs]
    bias[...] = shift


def _same_categories(column: OneHot, was: OneHot) -> list[tuple[int, int]]:
    places = {category: place for place, category in enumerate(was.categories)}
    same = [(mine, places[c]) for mine, c in enumerate(column.categories) if c in places]
    return [*same, (column.missing_place, was.missing_place)] if column.missing and was.missing else same


def _carry_outputs(
    old_target: Target, target: Target, old: dict[str, Floats], new: dict[str, Floats], last: int
) -> None:
    weights, bias = new[f"layer{last}.weights"], new[f"layer{last}.bias"]
    old_weights, old_bias = old[f"layer{last}.weights"], old[f"layer{last}.bias"]
    if isinstance(target, NumberTarget) and isinstance(old_target, NumberTarget):
        ratio = old_target.scale / target.scale
        weights[...] = old_weights.astype(np.float64) * ratio
        bias[...] = old_bias.astype(np.float64) * ratio + (old_target.mean - target.mean) / target.scale
        return
    assert isinstance(target, ClassTarget)
    assert isinstance(old_target, ClassTarget)
    places = {(type(label), label): place for place, label in enumerate(old_target.classes)}
    for place, label in enumerate(target.classes):
        theirs = places.get((type(label), label))
        if theirs is not None:
            weights[:, place], bias[place] = old_weights[:, theirs], old_bias[theirs]
