"""The contract of the stores, held against a real server. Here: small valid records to put into them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from common.features.categories import OneHot
from common.features.encoder import FeatureEncoder
from common.features.numbers import Scaled
from common.features.target import ClassTarget, NumberTarget, Target
from common.identifiers import new_id
from common.learned import LearnedDocument, output_of, width_of
from common.network.saved import weights_to_bytes
from common.network.structure import parameter_count
from common.schemas.checkpoints import Checkpoint
from common.schemas.datasets import Column, Dataset
from common.schemas.jobs import EpochMetrics, Progress
from common.schemas.losses import CrossEntropy, Loss, MeanSquaredError
from common.schemas.models import Lineage, Model
from common.schemas.network import Dense, NetworkShape
from common.schemas.training import TrainingRequest
from common.store import keys
from common.store.checkpoints import SavedTraining
from common.store.client import text
from common.store.jobs import Claim
from common.store.models import StoredModel
from common.store.stores import Stores

FULL_FORM: dict[str, Any] = {
    "dataset_id": "ds_0000000000000000000000000",
    "target": "species",
    "name": "free text, up to 200 characters",
    "model_name": "slug-of-the-name",
    "task": None,
    "features": None,
    "weight_column": None,
    "columns": {},
    "network": {
        "layers": [
            {"kind": "dense", "units": 128, "activation": "relu", "dropout": 0.0},
            {"kind": "dense", "units": 64, "activation": "relu", "dropout": 0.0},
        ],
        "input_dropout": 0.0,
        "initializer": None,
    },
    "loss": {"kind": "cross_entropy", "label_smoothing": 0.0},
    "class_weights": None,
    "optimizer": {"kind": "adam", "learning_rate": 0.001, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
    "schedule": {"kind": "constant"},
    "regularization": {
        "l1": 0.0,
        "l2": 0.0,
        "weight_decay": 0.0,
        "max_norm": None,
        "clip_norm": None,
        "clip_value": None,
    },
    "training": {"epochs": 100, "batch_size": None, "shuffle": True, "seed": None, "reproducible": False},
    "validation": {"kind": "random", "fraction": 0.1, "stratify": True},
    "stopping": {"target_loss": None, "target_error": None, "patience": 10, "min_delta": 0.0, "max_seconds": None},
    "cluster": {"workers": 2, "servers": 1, "synchrony": {"kind": "synchronous"}},
    "priority": 0,
    "labels": {},
    "base_model_id": None,
}
"""The training request in full, as the contract shows it, with the defaults."""

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)

MIXED = (
    Column(name="length", kind="numeric", missing=0, distinct=90, mean=5.0, std=2.0, min=0.0, max=9.0),
    Column(name="colour", kind="categorical", missing=0, distinct=2),
    Column(name="species", kind="categorical", missing=0, distinct=2),
)


def a_dataset(name: str = "iris", columns: tuple[Column, ...] = MIXED, rows: int = 100) -> Dataset:
    """The description of a data set, not stored yet."""
    identifier = new_id("ds")
    return Dataset(
        id=identifier,
        name=name,
        version=1,
        format="csv",
        bytes=10,
        sha256=hashlib.sha256(identifier.encode()).hexdigest(),
        rows=rows,
        columns=columns,
        warnings=(),
        created_at=LONG_AGO,
    )


def create(stores: Stores, name: str = "iris", columns: tuple[Column, ...] = MIXED, rows: int = 100) -> Dataset:
    """A stored data set, without rows on disk."""
    created = stores.datasets.create(a_dataset(name, columns, rows))
    return stores.datasets.get(created.id)


def a_request(dataset_id: str, **changes: object) -> TrainingRequest:
    """A short training request."""
    return TrainingRequest.model_validate({"dataset_id": dataset_id, "target": "species", **changes})


def submit(stores: Stores, dataset_id: str | None = None, **changes: object) -> str:
    """A queued job."""
    job_id = new_id("job")
    request = a_request(dataset_id or create(stores).id, **changes)
    return stores.jobs.submit(job_id, request, "classification", max_queued=10_000).id


def claimed(stores: Stores, job_id: str | None = None) -> Claim:
    """A job that was just claimed."""
    claim = stores.jobs.claim(job_id or submit(stores))
    assert claim is not None
    return claim


def running(stores: Stores, job_id: str | None = None) -> Claim:
    """A job that runs."""
    claim = claimed(stores, job_id)
    stores.jobs.begin(claim)
    return claim


def an_epoch(epoch: int) -> EpochMetrics:
    """What is noted of an epoch."""
    return EpochMetrics(
        epoch=epoch, seconds=1.0 * epoch, train_loss=1 / epoch, validation_loss=None, metrics={"accuracy": 0.5}
    )


def a_progress(epoch: int) -> Progress:
    """Where a run stands after an epoch."""
    return Progress(
        fraction=epoch / 100,
        epoch=epoch,
        epochs=100,
        step=10 * epoch,
        rows_seen=100 * epoch,
        rows_per_second=1e4,
        eta_seconds=None,
        train_loss=1 / epoch,
        validation_loss=None,
        best_epoch=epoch,
    )


def save_checkpoint(stores: Stores, claim: Claim, epoch: int = 1, step: int = 0) -> Checkpoint:
    """A small checkpoint of a held job."""
    arrays = {"shard.0.best": np.arange(3, dtype=np.float32) + epoch, "shard.0.parameters": np.ones(3, np.float32)}
    saved = SavedTraining({"standing": {"epoch": epoch, "best_metrics": None}}, arrays)
    return stores.checkpoints.save(claim, saved, attempt=1, epoch=epoch, step=step, seconds=lambda: 0.25)


def a_model(
    job_id: str = "job_0000000000000000000000000", name: str = "iris", *, number: bool = False, seed: int = 0
) -> StoredModel:
    """A learned network with random weights: a number and a colour go in, a species or a number comes out."""
    encoder = FeatureEncoder(
        [
            Scaled(name="length", kind="numeric", mean=5.0, scale=2.0),
            OneHot(name="colour", kind="categorical", categories=("blue", "red"), missing=False),
        ]
    )
    target: Target = NumberTarget(mean=10.0, scale=3.0) if number else ClassTarget(classes=("setosa", "virginica"))
    shape = NetworkShape(layers=(Dense(units=4),))
    loss: Loss = MeanSquaredError() if number else CrossEntropy()
    parameters = parameter_count(shape, encoder.width, width_of(target, loss))
    document = LearnedDocument(
        network=shape,
        loss=loss,
        encoder=encoder.to_document(),
        target=target.to_document(),
    )
    weights = np.random.default_rng(seed).normal(size=parameters).astype(np.float32)
    record = Model(
        id=new_id("mdl"),
        name=name,
        version=0,
        job_id=job_id,
        dataset_id="ds_0000000000000000000000000",
        task="regression" if number else "classification",
        inputs=encoder.inputs,
        output=output_of("species", target),
        metrics={"accuracy": 0.5},
        parameters=parameters,
        created_at=LONG_AGO,
        lineage=Lineage(
            dataset_sha256="0" * 64,
            seed=seed,
            attempt=1,
            request={"network": shape.model_dump(mode="json")},
            versions={"chainrule": "0"},
        ),
    )
    return StoredModel(record, document.model_dump(mode="json"), weights_to_bytes(weights))


def publish(
    stores: Stores,
    name: str = "iris",
    *,
    number: bool = False,
    seed: int = 0,
    metrics: Mapping[str, float] | None = None,
) -> Model:
    """A published model, with the job that made it."""
    claim = running(stores)
    model = a_model(claim.job_id, name, number=number, seed=seed)
    stores.models.save(model)
    stores.jobs.succeed(claim, "epochs_done", metrics or {}, (model.record.id, name))
    return stores.models.get(model.record.id)


def traces(stores: Stores, identifier: str) -> set[str]:
    """Keys and indexes in which there is something of a record."""
    found = {text(key) for key in stores.client.keys(f"*{identifier}*")}
    for index in stores.client.scan_iter(match=keys.model_aliases("*")):
        if identifier.encode() in stores.client.hvals(index):
            found.add(text(index))
    found |= {text(key) for key in stores.client.scan_iter(_type="set") if stores.client.sismember(key, identifier)}
    return found | {
        text(key) for key in stores.client.scan_iter(_type="zset") if stores.client.zscore(key, identifier) is not None
    }
