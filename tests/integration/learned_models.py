"""Stored models of many kinds, with random weights, and rows that fit them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.features.categories import Numbered, OneHot
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
from common.schemas.models import Lineage, Model
from common.schemas.network import Dense, NetworkShape
from common.store.models import StoredModel
from common.store.stores import Stores
from tests.contract import LONG_AGO, running

Row = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of model."""

    columns: Sequence[Column]
    target: Target
    loss: Loss
    rows: list[Row]
    """None is missing."""


NUMBERS: list[Column] = [
    Scaled(name="length", kind="numeric", mean=5.0, scale=2.0),
    Scaled(name="width", kind="numeric", mean=-1.0, scale=0.5, indicator=True, fill=2.0),
    Scaled(name="income", kind="numeric", mean=3.0, scale=2.0, logarithm=True),
    QuantileNormal(name="rank", values=(0.0, 1.0, 5.0), normals=(-2.0, 0.1, 2.0), fill=1.0),
]
MIXED: list[Column] = [
    *NUMBERS,
    Scaled(name="member", kind="boolean", mean=0.4, scale=0.5),
    OneHot(name="city", categories=("Oslo", "Rom", "東京"), missing=True, other=True),
    Numbered(
        name="size", categories=("1", "2", "40.5"), missing=False, of="number", numbers=(0.0, 1.0, 2.0), unknown=-1
    ),
    OneHot(name="open", categories=("false", "true"), missing=True, of="boolean"),
    Times(name="since", mean=1.6e9, scale=1e8, fill=1.6e9, indicator=True),
]
PLAIN: list[Row] = [
    {"length": 5.5, "width": -1.25, "income": 1e6, "rank": 0.5},
    {"length": -3, "width": 0, "income": -20, "rank": 7},
    {"length": 0.1, "width": 2.5, "income": 0.25, "rank": -1},
]
GAPS: list[Row] = [{"length": None, "width": None, "income": 3, "rank": None}]
ALL: list[Row] = [
    {**PLAIN[0], "member": True, "city": "Oslo", "size": 2, "open": False, "since": "2024-05-17"},
    {**PLAIN[1], "member": False, "city": "東京", "size": 40.5, "open": True, "since": "2019-01-01T08:30:00Z"},
    {**PLAIN[2], "member": False, "city": "nowhere", "size": 3, "open": True, "since": "2021-12-31"},
]
ALL_GAPS: list[Row] = [{**GAPS[0], **dict.fromkeys(("member", "city", "size", "open", "since"))}]

KINDS = {
    "numbers": Kind(NUMBERS, ClassTarget(classes=("no", "yes")), CrossEntropy(), [*PLAIN, *GAPS]),
    "digits": Kind(NUMBERS, ClassTarget(classes=(3, 5, 70)), CrossEntropy(), [*PLAIN, *GAPS]),
    "truths": Kind(MIXED, ClassTarget(classes=(False, True)), CrossEntropy(), [*ALL, *ALL_GAPS]),
    "texts": Kind(MIXED, ClassTarget(classes=("ja", "nein", "🙂")), CrossEntropy(), [*ALL, *ALL_GAPS]),
    "value": Kind(MIXED, NumberTarget(mean=10.0, scale=3.0), MeanSquaredError(), [*ALL, *ALL_GAPS]),
    "quantiles": Kind(
        NUMBERS, NumberTarget(mean=10.0, scale=3.0), Quantile(quantiles=(0.1, 0.5, 0.9)), [*PLAIN, *GAPS]
    ),
}


def learned(kind: Kind, name: str, seed: int = 0, units: Sequence[int] = (8,), job_id: str = "job_x") -> StoredModel:
    """A model of a kind, as a training would leave it."""
    encoder = FeatureEncoder(kind.columns)
    shape = NetworkShape(layers=tuple(Dense(units=count) for count in units))
    outputs = width_of(kind.target, kind.loss)
    parameters = parameter_count(shape, encoder.width, outputs, encoder.embeddings)
    document = LearnedDocument(
        network=shape, loss=kind.loss, encoder=encoder.to_document(), target=kind.target.to_document()
    )
    weights = np.random.default_rng(seed).normal(scale=0.5, size=parameters).astype(np.float32)
    record = Model(
        id=new_id("mdl"),
        name=name,
        version=0,
        job_id=job_id,
        dataset_id="ds_0000000000000000000000000",
        task=kind.target.task,
        inputs=encoder.inputs,
        output=output_of("target", kind.target),
        metrics={},
        parameters=parameters,
        created_at=LONG_AGO,
        lineage=Lineage(dataset_sha256="0" * 64, seed=seed, attempt=1, request={}, versions={}),
    )
    return StoredModel(record, document.model_dump(mode="json"), weights_to_bytes(weights))


def network_of(kind: Kind, seed: int = 0, units: Sequence[int] = (8,)) -> LearnedNetwork:
    """The network of such a model."""
    stored = learned(kind, "any", seed, units)
    return LearnedNetwork.load(stored.document, stored.weights)


def publish_kind(stores: Stores, kind: Kind, name: str, seed: int = 0, units: Sequence[int] = (8,)) -> Model:
    """A published model of a kind."""
    claim = running(stores)
    model = learned(kind, name, seed, units, claim.job_id)
    stores.models.save(model)
    stores.jobs.succeed(claim, "epochs_done", {}, (model.record.id, name))
    return stores.models.get(model.record.id)
