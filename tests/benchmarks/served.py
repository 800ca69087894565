"""Networks that are served: the same weights for everybody, and what is asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.features.encoder import FeatureEncoder
from common.features.numbers import Scaled
from common.features.target import ClassTarget
from common.learned import LearnedDocument, LearnedNetwork, output_of
from common.network.saved import weights_to_bytes
from common.network.structure import initialize, network_layout
from common.schemas.losses import CrossEntropy
from common.schemas.network import Dense, NetworkShape
from common.store.models import StoredModel
from common.store.stores import Stores
from tests.benchmarks.peers.plain_network import PlainNetwork
from tests.contract import a_model, running

ASKED = 64
"""Different instances that are asked for in turn."""


@dataclass(frozen=True)
class ServedNetwork:
    """A network with ReLU between dense layers and a softmax at its end, behind standardized inputs.

    Attributes:
        sizes: inputs, hidden layers' units, classes.
        model: as Chainrule stores it.
        arrays: a file with the same numbers, for a `PlainNetwork`.
        instances: float64, shape (ASKED, inputs); none is 0.
        probabilities: of the classes, from the plain arithmetic in float64.

    """

    sizes: tuple[int, ...]
    model: StoredModel
    arrays: Path
    instances: NDArray[np.float64]
    probabilities: NDArray[np.float64]

    @property
    def inputs(self) -> int:
        """How many numbers an instance has."""
        return self.sizes[0]

    @property
    def title(self) -> str:
        """For a table."""
        return "-".join(map(str, self.sizes))

    def learned(self) -> LearnedNetwork:
        """As Chainrule predicts with it."""
        return LearnedNetwork.load(self.model.document, self.model.weights)


def publish(sizes: tuple[int, ...], stores: Stores, folder: Path) -> ServedNetwork:
    """A network of random weights, published as if a job had ended with it."""
    rng = np.random.default_rng(sizes[0])
    inputs, *hidden, classes = sizes
    shape = NetworkShape(layers=tuple(Dense(units=units) for units in hidden))
    layout = network_layout(shape, inputs, classes)
    vector = np.empty(layout.size, np.float32)
    initialize(shape, inputs, classes, rng, vector)
    vector += rng.normal(scale=0.01, size=layout.size)  # biases begin as 0, and would not be noticed
    means, scales = rng.normal(size=inputs), rng.uniform(0.5, 2.0, inputs)
    columns = [
        Scaled(name=f"x{place}", kind="numeric", mean=mean, scale=scale)
        for place, (mean, scale) in enumerate(zip(means.tolist(), scales.tolist(), strict=True))
    ]
    arrays = folder / f"{inputs}.npz"
    layers: dict[str, Any] = {f"layer{place:02}": array for place, array in enumerate(layout.views(vector).values())}
    np.savez(arrays, means=means, scales=scales, **layers)
    instances = np.round(rng.normal(size=(ASKED, inputs)), 6)
    instances[instances == 0] = 1.0
    probabilities = PlainNetwork(arrays, np.float64).probabilities(instances)
    model = _stored(FeatureEncoder(columns), shape, tuple(range(classes)), vector, stores)
    return ServedNetwork(sizes, model, arrays, instances, probabilities)


def _stored(
    encoder: FeatureEncoder, shape: NetworkShape, classes: tuple[int, ...], vector: NDArray[np.float32], stores: Stores
) -> StoredModel:
    target = ClassTarget(classes=classes)
    document = LearnedDocument(
        network=shape, loss=CrossEntropy(), encoder=encoder.to_document(), target=target.to_document()
    )
    claim = running(stores)
    name = f"served-{encoder.width}"
    record = a_model(claim.job_id, name).record
    changes = {"inputs": encoder.inputs, "output": output_of("class", target), "parameters": len(vector)}
    model = StoredModel(record.model_copy(update=changes), document.model_dump(mode="json"), weights_to_bytes(vector))
    stores.models.save(model)
    stores.jobs.succeed(claim, "epochs_done", {}, (record.id, name))
    return model


def write_bodies(file: Path, bodies: Sequence[object]) -> Path:
    """JSON documents, each on a line."""
    file.write_text("".join(f"{json.dumps(body, separators=(',', ':'))}\n" for body in bodies))
    return file
