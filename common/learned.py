"""A learned network ready to answer: the same encoder and the same forward pass as in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from common.errors import CorruptRecord, Fault, Invalid
from common.features.encoder import FeatureEncoder
from common.features.target import ClassTarget, NumberTarget, Target, name_of, target_from_document
from common.network.network import Predictor
from common.network.parameters import Floats
from common.network.saved import weights_from_bytes
from common.network.structure import parameter_count
from common.schemas.losses import Loss, Quantile
from common.schemas.models import ModelOutput
from common.schemas.network import NetworkShape
from common.schemas.predictions import Prediction
from common.schemas.record import Record

_BYTES_PER_INPUT = 1024


class LearnedDocument(Record):
    """All of a learned network but its weights, as JSON can say it."""

    network: NetworkShape
    loss: Loss
    encoder: dict[str, object]
    target: dict[str, object]


def output_of(name: str, target: Target) -> ModelOutput:
    """How a model describes what it answers with."""
    if isinstance(target, ClassTarget):
        return ModelOutput(name=name, kind="label", classes=target.classes)
    return ModelOutput(name=name, kind="value")


@dataclass(frozen=True, slots=True)
class LearnedNetwork:
    """Turns records into predictions; holds no state, so that any number of threads may share it."""

    encoder: FeatureEncoder
    target: Target
    predictor: Predictor
    quantiles: tuple[float, ...] = ()
    """What its outputs are quantiles for, where they are."""
    nbytes: int = 0
    """Memory that it takes, in bytes: that of the weights, and what the columns take by a rough measure."""

    @classmethod
    def load(cls, document: Mapping[str, object], weights: bytes) -> LearnedNetwork:
        """The network of a stored model.

        Raises:
            CorruptRecord: the parts do not fit each other.

        """
        try:
            read = LearnedDocument.model_validate(document)
            encoder = FeatureEncoder.from_document(read.encoder)
            target = target_from_document(read.target)
            inputs, outputs, embeddings = encoder.width, width_of(target, read.loss), encoder.embeddings
            vector = weights_from_bytes(weights, parameter_count(read.network, inputs, outputs, embeddings))
            predictor = Predictor(read.network, inputs, outputs, read.loss, vector, embeddings)
            quantiles = read.loss.quantiles if isinstance(read.loss, Quantile) else ()
            return cls(encoder, target, predictor, quantiles, vector.nbytes + _BYTES_PER_INPUT * inputs)
        except (ValidationError, ValueError) as error:
            raise CorruptRecord("The stored model is damaged.", code="model_corrupt") from error

    def predict(self, instances: Sequence[object]) -> list[Prediction]:
        """One prediction per instance, each an object by column name or an array in the order of the inputs.

        Raises:
            Invalid: an instance does not fit the inputs, or its answer is no finite number.

        """
        outputs = self.answers(self.encoder.encode_records(instances))
        finite = np.isfinite(outputs).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            fault = Fault(f"/instances/{row}", "non_finite_output", "the values are too large for this model")
            raise Invalid("A prediction is no finite number.", [fault])
        if isinstance(self.target, NumberTarget):
            return self._valued(outputs)
        return _labelled(self.target, outputs)

    def answers(self, x: Floats) -> Floats:
        """The probabilities of the classes, or the values in the target's units, for rows as the encoder makes them.

        A new array of shape (rows, classes), (rows, 1) or (rows, quantiles); values too large are infinite.
        """
        outputs: Floats = self.predictor.predict(x)
        if isinstance(self.target, NumberTarget):
            with np.errstate(over="ignore"):
                outputs = self.target.decode(outputs)
        return outputs

    def _valued(self, outputs: Floats) -> list[Prediction]:
        values = outputs[:, self.predictor.middle].tolist()
        if not self.quantiles:
            return [Prediction(value=value) for value in values]
        names = [f"{quantile:g}" for quantile in self.quantiles]
        return [
            Prediction(value=value, quantiles=dict(zip(names, row, strict=True)))
            for value, row in zip(values, outputs.tolist(), strict=True)
        ]


def width_of(target: Target, loss: Loss) -> int:
    """How many outputs a network needs for a target."""
    if isinstance(target, ClassTarget):
        return len(target.classes)
    return len(loss.quantiles) if isinstance(loss, Quantile) else 1


def _labelled(target: ClassTarget, probabilities: Floats) -> list[Prediction]:
    names = [name_of(label) for label in target.classes]
    best: NDArray[np.intp] = probabilities.argmax(axis=1)
    return [
        Prediction(label=target.decode(code), probabilities=dict(zip(names, row, strict=True)))
        for code, row in zip(best.tolist(), probabilities.tolist(), strict=True)
    ]
