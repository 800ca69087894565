"""Learned networks that were never trained: columns of every form, with random weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.features.categories import Embedded, Numbered, OneHot
from common.features.columns import Column
from common.features.encoder import FeatureEncoder
from common.features.numbers import QuantileNormal, Scaled
from common.features.target import ClassTarget, NumberTarget, Target
from common.features.times import Times
from common.identifiers import new_id
from common.learned import LearnedDocument, LearnedNetwork, output_of, width_of
from common.network.saved import weights_to_bytes
from common.network.structure import parameter_count
from common.schemas.losses import CrossEntropy, Loss, MeanSquaredError, Quantile
from common.schemas.models import Model
from common.schemas.network import Dense, NetworkShape
from common.store.models import StoredModel
from common.store.stores import Stores
from tests.contract import a_model, running

EVERY_FORM: tuple[Column, ...] = (
    Scaled(name="age", kind="numeric", mean=40.0, scale=12.0),
    QuantileNormal(name="income", values=(0.0, 10.0, 1000.0), normals=(-2.0, 0.0, 2.0), fill=10.0),
    Scaled(name="guess", kind="numeric", mean=0.0, scale=2.0, texts=True, indicator=True),
    Scaled(name="member", kind="boolean", mean=0.5, scale=0.5),
    Times(name="since", mean=1.7e9, scale=1e7, fill=1.7e9),
    Times(name="told", mean=1.7e9, scale=1e7, fill=1.7e9, texts=True),
    OneHot(name="city", categories=("", "007", "Oslo", "naïve, \"quoted\"\n", "true"), missing=True),
    Numbered(name="rank", categories=("low", "high"), missing=False, numbers=(-1.0, 1.0), unknown=0.0),
    Embedded(name="shop", categories=("1", "2", "2.5"), missing=False, of="number", vector=3),
    OneHot(name="flag", categories=("false", "true"), missing=False, of="boolean"),
)  # fmt: skip
"""One column of every form that an encoder knows, and of every kind of values."""

TARGETS: tuple[tuple[Target, Loss], ...] = (
    (ClassTarget(classes=("fig", "plum", 'sour, "old"')), CrossEntropy()),
    (ClassTarget(classes=(-1, 7)), CrossEntropy()),
    (ClassTarget(classes=(False, True)), CrossEntropy()),
    (NumberTarget(mean=10.0, scale=3.0), MeanSquaredError()),
    (NumberTarget(mean=10.0, scale=3.0), Quantile(quantiles=(0.1, 0.5, 0.9))),
)


def document_of(
    columns: Sequence[Column], target: Target, loss: Loss, units: Sequence[int] = (4,), seed: int = 0
) -> tuple[LearnedDocument, bytes]:
    """A network over these columns, and its weights."""
    encoder = FeatureEncoder(columns)
    shape = NetworkShape(layers=tuple(Dense(units=width) for width in units))
    outputs = width_of(target, loss)
    count = parameter_count(shape, encoder.width, outputs, encoder.embeddings)
    weights = np.random.default_rng(seed).normal(0, 0.5, count).astype(np.float32)
    document = LearnedDocument(network=shape, loss=loss, encoder=encoder.to_document(), target=target.to_document())
    return document, weights_to_bytes(weights)


def network_of(columns: Sequence[Column], target: Target, loss: Loss, units: Sequence[int] = (4,)) -> LearnedNetwork:
    """The same, ready to answer."""
    document, weights = document_of(columns, target, loss, units)
    return LearnedNetwork.load(document.model_dump(mode="json"), weights)


def publish_network(
    stores: Stores, columns: Sequence[Column], target: Target, loss: Loss, units: Sequence[int] = (4,)
) -> Model:
    """The same as a published model."""
    document, weights = document_of(columns, target, loss, units)
    claim = running(stores)
    record = a_model(claim.job_id, "mixed").record.model_copy(
        update={
            "id": new_id("mdl"),
            "task": target.task,
            "inputs": FeatureEncoder(columns).inputs,
            "output": output_of("species", target),
        }
    )
    stores.models.save(StoredModel(record, document.model_dump(mode="json"), weights))
    stores.jobs.succeed(claim, "epochs_done", {}, (record.id, "mixed"))
    return stores.models.get(record.id)
