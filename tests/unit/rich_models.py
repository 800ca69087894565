"""Models with every form of column, layer and target, their weights random: what a file of a model must be able to hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.features.categories import Embedded, Numbered, OneHot
from common.features.columns import Column
from common.features.encoder import FeatureEncoder
from common.features.numbers import QuantileNormal, Scaled
from common.features.target import ClassTarget, NumberTarget, Target
from common.features.times import Times
from common.identifiers import new_id
from common.learned import LearnedDocument, output_of, width_of
from common.network.saved import weights_to_bytes
from common.network.structure import parameter_count
from common.schemas.losses import CrossEntropy, Loss, MeanSquaredError, Quantile
from common.schemas.models import Lineage, Model
from common.schemas.network import NetworkShape
from common.store.models import StoredModel
from tests.contract import LONG_AGO

COLUMNS: tuple[Column, ...] = (
    Scaled(name="length", kind="numeric", mean=5.1, scale=1.7, indicator=True, fill=4.9),
    Scaled(name="income", kind="numeric", mean=3.3, scale=0.9, logarithm=True, fill=100.0),
    Scaled(name="member", kind="boolean", mean=0.4, scale=0.49),
    QuantileNormal(name="age", values=(18.0, 40.0, 77.5), normals=(-1.2, 0.1, 1.3), fill=40.0),
    Times(name="seen", mean=1.6e9, scale=1e7, fill=1.6e9, texts=True),
    OneHot(name="colour", categories=("blau", "rot", "grün ☃"), missing=True, other=True),
    Numbered(name="size", categories=("S", "M", "L"), missing=False, numbers=(-1.2, 0.0, 1.2), unknown=0.0),
    Embedded(name="zip", categories=("10115", "80331", "50667"), missing=True, vector=5),
    OneHot(name="rooms", categories=("1", "2", "3"), missing=False, of="number", default="2"),
)
LAYERS: list[dict[str, Any]] = [
    {"kind": "dense", "units": 12, "activation": "gelu", "dropout": 0.1},
    {"kind": "residual", "layers": [{"kind": "layer_norm"}, {"kind": "dense", "units": 12, "activation": "identity"}]},
    {"kind": "dense", "units": 7, "activation": "maxout", "pieces": 3},
    {"kind": "layer_norm"},
    *(
        {"kind": "dense", "units": 3, "activation": "tanh"} for _ in range(8)
    ),  # layer10 comes before layer2 by the alphabet
]
TARGETS: dict[str, tuple[Target, Loss]] = {
    "texts": (ClassTarget(classes=("ja", "nein", "vielleicht")), CrossEntropy(label_smoothing=0.1)),
    "integers": (ClassTarget(classes=(-3, 0, 7)), CrossEntropy()),
    "booleans": (ClassTarget(classes=(False, True)), CrossEntropy()),
    "a number": (NumberTarget(mean=17.3, scale=4.1), MeanSquaredError()),
    "quantiles": (NumberTarget(mean=-2.0, scale=0.3), Quantile(quantiles=(0.1, 0.5, 0.9))),
}


def a_rich_model(
    target: str = "texts", *, name: str = "rich", seed: int = 0, layers: Sequence[dict[str, Any]] = LAYERS
) -> StoredModel:
    """A model that nobody has published."""
    wanted, loss = TARGETS[target]
    shape = NetworkShape.model_validate(
        {"layers": layers, "input_dropout": 0.05, "initializer": {"kind": "orthogonal"}}
    )
    encoder = FeatureEncoder(COLUMNS)
    parameters = parameter_count(shape, encoder.width, width_of(wanted, loss), encoder.embeddings)
    weights = np.random.default_rng(seed).normal(0, 0.4, parameters).astype(np.float32)
    document = LearnedDocument(
        network=shape, loss=loss, encoder=encoder.to_document(), target=wanted.to_document()
    ).model_dump(mode="json")
    record = Model(
        id=new_id("mdl"),
        name=name,
        version=0,
        job_id=new_id("job"),
        dataset_id=new_id("ds"),
        task=wanted.task,
        inputs=encoder.inputs,
        output=output_of("answer", wanted),
        metrics={"accuracy": 0.75, "log_loss": 0.6},
        parameters=parameters,
        created_at=LONG_AGO,
        lineage=Lineage(
            dataset_sha256="ab" * 32,
            seed=seed,
            attempt=1,
            request={"network": document["network"], "optimizer": {"kind": "adam", "learning_rate": 0.001}},
            versions={"chainrule": "0.1.0"},
        ),
    )
    return StoredModel(record, document, weights_to_bytes(weights))


def instances(count: int, seed: int = 0) -> list[dict[str, object]]:
    """Rows to predict, some of their values missing or never seen."""
    draw = np.random.default_rng(seed)

    def one_of(*values: object) -> object:
        return values[int(draw.integers(len(values)))]

    return [
        {
            "length": one_of(None, float(draw.normal(5, 2))),
            "income": one_of(None, float(draw.lognormal(8, 2))),
            "member": one_of(None, True, False),
            "age": one_of(None, float(draw.uniform(10, 90))),
            "seen": one_of(None, "2024-05-17T08:30:00Z", "2019-12-31", "no time"),
            "colour": one_of(None, "blau", "rot", "grün ☃", "never seen"),
            "size": one_of("S", "M", "L", "XXL"),
            "zip": one_of(None, "10115", "80331", "50667", "99999"),
            "rooms": one_of(None, 1, 2, 3, 8),
        }
        for _ in range(count)
    ]
