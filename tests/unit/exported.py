"""Learned networks with columns of every kind, their ONNX files, and what ONNX Runtime answers with these."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from common.features.categories import CategoryColumn
from common.features.encoder import FeatureEncoder
from common.features.feature import Feature
from common.features.numbers import number_of
from common.features.table import code_values
from common.features.target import ClassTarget, NumberTarget, Target
from common.identifiers import new_id
from common.learned import LearnedDocument, LearnedNetwork, output_of, width_of
from common.network.saved import weights_to_bytes
from common.network.structure import initialize, network_layout
from common.schemas.columns import ColumnOptions, FeatureKind
from common.schemas.losses import CrossEntropy, Loss
from common.schemas.models import Lineage, Model
from common.schemas.network import Dense, NetworkShape
from service.exporting.columns import missing_text
from service.exporting.onnx_file import write_onnx
from tests.contract import LONG_AGO

Raw = Mapping[str, Sequence[Any]]
"""Values of each column as JSON has them; None is a missing one."""
CLASSES = ("setosa", "versicolor", "virginica")
SHAPE = NetworkShape(layers=(Dense(units=6, activation="tanh"),))
TOLERANCE = 1e-5


def feature(name: str, values: Sequence[Any], kind: FeatureKind | None = None, **options: Any) -> Feature:
    """What is wanted of a column; what it holds follows from its values."""
    known = {type(value) for value in values if value is not None}
    stored: FeatureKind = "boolean" if known == {bool} else "categorical" if known == {str} else "numeric"
    return Feature(name, kind or stored, stored, ColumnOptions.model_validate(options))


def encoder_of(rows: Raw, *features: Feature) -> FeatureEncoder:
    """Fitted to all rows."""
    table = {
        wanted.name: code_values(rows[wanted.name])
        if wanted.stored == "categorical"
        else np.array([math.nan if value is None else value for value in rows[wanted.name]], np.float64)
        for wanted in features
    }
    return FeatureEncoder.fit(table, features, np.arange(len(next(iter(rows.values())))))


def network_of(
    encoder: FeatureEncoder,
    shape: NetworkShape = SHAPE,
    loss: Loss | None = None,
    target: Target | None = None,
    *,
    seed: int = 0,
    stretched: Mapping[str, float] | None = None,
) -> LearnedNetwork:
    """A network with weights as they are drawn, some `stretched` by a factor, and biases other than zero."""
    loss = loss or CrossEntropy()
    if target is None:
        is_class = loss.kind in ("cross_entropy", "quadratic")
        target = ClassTarget(classes=CLASSES) if is_class else NumberTarget(mean=21.5, scale=3.25)
    outputs = width_of(target, loss)
    generator = np.random.default_rng(seed)
    layout = network_layout(shape, encoder.width, outputs, encoder.embeddings)
    parameters = np.empty(layout.size)
    initialize(shape, encoder.width, outputs, generator, parameters, encoder.embeddings)
    parameters += generator.normal(0, 0.1, parameters.shape)
    for name, factor in (stretched or {}).items():
        parameters[layout.slices[name]] *= factor
    document = LearnedDocument(
        network=shape, loss=loss, encoder=encoder.to_document(), target=target.to_document()
    ).model_dump(mode="json")
    return LearnedNetwork.load(document, weights_to_bytes(parameters))


def record_of(network: LearnedNetwork) -> Model:
    """What a store would know of the network."""
    return Model(
        id=new_id("mdl"),
        name="iris",
        version=3,
        job_id=new_id("job"),
        dataset_id=new_id("ds"),
        task=network.target.task,
        inputs=network.encoder.inputs,
        output=output_of("species", network.target),
        metrics={},
        parameters=1,
        created_at=LONG_AGO,
        lineage=Lineage(dataset_sha256="0" * 64, seed=0, attempt=1, request={}, versions={}),
    )


def session_of(network: LearnedNetwork) -> onnxruntime.InferenceSession:
    """The network's file in ONNX Runtime, once its types and shapes are found to fit each other."""
    saved = write_onnx(network, record_of(network))
    onnx.checker.check_model(saved, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(saved, options, providers=["CPUExecutionProvider"])


def tensors_of(encoder: FeatureEncoder, rows: Raw) -> dict[str, NDArray[Any]]:
    """Raw columns as the file takes them."""
    tensors: dict[str, NDArray[Any]] = {}
    for column in encoder.columns:
        values = rows[column.name]
        if isinstance(column, CategoryColumn) and column.of == "text":
            missing = missing_text(column)
            tensors[column.name] = np.array([[missing if value is None else value] for value in values], object)
        else:
            numbers = [math.nan if v is None else number_of(v) if isinstance(v, str) else float(v) for v in values]
            tensors[column.name] = np.array(numbers, np.float64)[:, np.newaxis]
    return tensors


def records_of(encoder: FeatureEncoder, rows: Raw) -> list[list[Any]]:
    """The same as the API takes it, with an empty text for what the file takes it for."""
    columns = [
        [None if value == missing_text(column) else value for value in rows[column.name]]
        if isinstance(column, CategoryColumn)
        else rows[column.name]
        for column in encoder.columns
    ]
    return [list(cells) for cells in zip(*columns, strict=True)]


def run(session: onnxruntime.InferenceSession, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The outputs by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(tensors)), strict=True))


def compare(network: LearnedNetwork, rows: Raw) -> None:
    """Asserts that the file says of raw columns what the network says of the same rows as records."""
    ours = network.predict(records_of(network.encoder, rows))
    theirs = run(session_of(network), tensors_of(network.encoder, rows))
    if isinstance(network.target, NumberTarget):
        _close(theirs["value"], [[one.value] for one in ours])
        if network.quantiles:
            _close(theirs["quantiles"], [list((one.quantiles or {}).values()) for one in ours])
        return
    probabilities = [list((one.probabilities or {}).values()) for one in ours]
    _close(theirs["probabilities"], probabilities)
    for label, one, row in zip(theirs["label"].tolist(), ours, probabilities, strict=True):
        second, first = sorted(row)[-2:]
        assert type(label) is type(one.label)
        assert label == one.label or first - second < TOLERANCE


def _close(theirs: NDArray[Any], ours: Sequence[Sequence[float | None]]) -> None:
    np.testing.assert_allclose(theirs, np.array(ours, np.float64), rtol=TOLERANCE, atol=TOLERANCE, strict=False)
