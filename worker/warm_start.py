"""A training that begins with what a model has learned, on data that may have other columns, categories or classes.

The new network answers as the old one did wherever both know what they see: new scales of inputs and of the target are
made good for in the weights, and what the old one never saw begins without weight. That is the function-preserving
start of Net2Net (Chen et al., ICLR 2016), for the input and output layers.
"""

from __future__ import annotations

import math

import numpy as np

from common.features.categories import CategoryColumn, Embedded, Numbered, OneHot
from common.features.columns import Column
from common.features.encoder import FeatureEncoder
from common.features.numbers import NumberColumn, QuantileNormal, Scaled
from common.features.target import ClassTarget, NumberTarget, Target, target_from_document
from common.features.times import Times
from common.learned import LearnedDocument, width_of
from common.network.parameters import Floats
from common.network.saved import weights_from_bytes
from common.network.structure import network_layout
from common.schemas.losses import Loss
from common.store.models import StoredModel
from worker.channel import Vector
from worker.parameter_server import initial_parameters
from worker.task import TrainingTask


def warm_start(base: StoredModel, task: TrainingTask, encoder: FeatureEncoder, target: Target) -> Vector:
    """The parameters to begin with, shape (task.parameters,).

    Where the first layer is not a fully connected one, its inputs cannot be made good for: then it begins anew, unless
    the inputs are encoded as they were.

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
    outputs = width_of(old_target, document.loss)
    old_layout = network_layout(document.network, old_encoder.width, outputs, old_encoder.embeddings)
    old = old_layout.views(weights_from_bytes(base.weights, old_layout.size))
    start = initial_parameters(task)
    new = task.layout.views(start)
    last = len(task.shape.layers)
    is_same = [*map(_encoding, encoder.columns)] == [*map(_encoding, old_encoder.columns)]
    for name in new:
        is_inner = not name.startswith(("embedding", "layer0.", f"layer{last}."))
        is_kept = is_inner or (is_same and not name.startswith(f"layer{last}."))
        if is_kept and name in old and new[name].shape == old[name].shape:
            new[name][...] = old[name]
    if not is_same and "layer0.weights" in new:
        _carry_inputs(old_encoder, encoder, old, new)
    if _answers_alike(document.loss, task.loss):
        _carry_outputs(old_target, target, old, new, last, is_logarithm=task.loss.kind == "poisson")
    return start


def _answers_alike(old: Loss, new: Loss) -> bool:
    """Whether the outputs mean the same."""
    alike = ("mse", "mae", "huber")
    return old == new or old.kind == new.kind != "quantile" or (old.kind in alike and new.kind in alike)


def _first_places(encoder: FeatureEncoder) -> dict[str, tuple[int, int, Column]]:
    """Where each column meets the first layer: its place in the matrix, and its first row among the weights."""
    placed = list(encoder.placed)
    places: dict[str, tuple[int, int, Column]] = {}
    row = 0
    for embedded in (False, True):  # vectors come after everything else: see `EmbeddedInputs`
        for place, column in placed:
            if isinstance(column, Embedded) is embedded:
                places[column.name] = place, row, column
                row += column.vector if isinstance(column, Embedded) else column.width
    return places


def _carry_inputs(
    old_encoder: FeatureEncoder, encoder: FeatureEncoder, old: dict[str, Floats], new: dict[str, Floats]
) -> None:
    weights, bias = new["layer0.weights"], new["layer0.bias"]
    shift = old["layer0.bias"].astype(np.float64)
    known = _first_places(old_encoder)
    for place, row, column in _first_places(encoder).values():
        before = known.get(column.name)
        if not isinstance(column, Embedded):
            weights[row : row + column.width] = 0
        if before is None:
            continue
        old_place, at, was = before
        if _encoding(column) == _encoding(was) and not isinstance(column, Embedded):
            weights[row : row + column.width] = old["layer0.weights"][at : at + was.width]
        elif (isinstance(column, Scaled) and isinstance(was, Scaled) and column.logarithm == was.logarithm) or (
            isinstance(column, Times) and isinstance(was, Times)
        ):
            ratio, shift_of = column.scale / was.scale, (column.mean - was.mean) / was.scale
            if not _is_near(ratio, shift_of):
                continue
            same = min(column.width, was.width)  # beyond the first there is nothing to make good for
            weights[row + 1 : row + same] = old["layer0.weights"][at + 1 : at + same]
            rows = old["layer0.weights"][at].astype(np.float64)
            weights[row] = rows * ratio
            shift += rows * shift_of
        elif isinstance(column, QuantileNormal | Numbered) and type(column) is type(was):
            weights[row] = old["layer0.weights"][at]  # ranks and shares are much the same, whatever they are taken of
        elif isinstance(column, OneHot) and isinstance(was, OneHot):
            if was.other:  # what is new was among the rare
                weights[row : row + column.width] = old["layer0.weights"][at + was.width - 1]
            for mine, theirs in _same_categories(column, was):
                weights[row + mine] = old["layer0.weights"][at + theirs]
        elif isinstance(column, Embedded) and isinstance(was, Embedded) and column.vector == was.vector:
            weights[row : row + column.vector] = old["layer0.weights"][at : at + was.vector]
            vectors, theirs_all = new[f"embedding{place}.weights"], old[f"embedding{old_place}.weights"]
            vectors[...] = theirs_all[was.unknown_place]  # a new category is what an unknown one was
            for mine, theirs in _same_categories(column, was):
                vectors[mine] = theirs_all[theirs]
    bias[...] = shift


def _encoding(column: Column) -> Column:
    """All of a column that decides what its values become: the range that a model has seen is that of its own rows."""
    return column.model_copy(update={"seen": None}) if isinstance(column, NumberColumn) else column


def _is_near(ratio: float, shift: float) -> bool:
    """Whether numbers mean much the same as before: else a network does not find its way back from what it was."""
    return 1 / _FAR < ratio < _FAR and abs(shift) < _FAR


_FAR = 1000.0


def _same_categories(column: CategoryColumn, was: CategoryColumn) -> list[tuple[int, int]]:
    places = {category: place for place, category in enumerate(was.categories)}
    same = [(mine, places[c]) for mine, c in enumerate(column.categories) if c in places]
    return [*same, (column.missing_place, was.missing_place)] if column.missing and was.missing else same


def _carry_outputs(
    old_target: Target,
    target: Target,
    old: dict[str, Floats],
    new: dict[str, Floats],
    last: int,
    *,
    is_logarithm: bool,
) -> None:
    weights, bias = new[f"layer{last}.weights"], new[f"layer{last}.bias"]
    old_weights, old_bias = old[f"layer{last}.weights"], old[f"layer{last}.bias"]
    if isinstance(target, NumberTarget) and isinstance(old_target, NumberTarget):
        ratio, shift = old_target.scale / target.scale, (old_target.mean - target.mean) / target.scale
        if not _is_near(ratio, shift):
            return
        if is_logarithm:
            weights[...] = old_weights
            bias[...] = old_bias.astype(np.float64) + math.log(ratio)
            return
        weights[...] = old_weights.astype(np.float64) * ratio
        bias[...] = old_bias.astype(np.float64) * ratio + shift
        return
    assert isinstance(target, ClassTarget)
    assert isinstance(old_target, ClassTarget)
    places = {(type(label), label): place for place, label in enumerate(old_target.classes)}
    for place, label in enumerate(target.classes):
        theirs = places.get((type(label), label))
        if theirs is not None:
            weights[:, place], bias[place] = old_weights[:, theirs], old_bias[theirs]
