"""A learned network ready to answer: the same encoder and the same forward pass as in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from common.errors import CorruptRecord, Fault, Invalid
from common.features.encoder import FeatureEncoder
from common.features.target import ClassTarget, NumberTarget, Target, target_from_document
from common.network.network import Predictor
from common.network.parameters import Floats, parameter_count
from common.network.saved import weights_from_bytes
from common.schemas import training
from common.schemas.models import Label, ModelOutput
from common.schemas.predictions import Prediction
from common.schemas.record import Record


class LearnedDocument(Record):
    """All of a learned network but its weights, as JSON can say it."""

    network: training.NetworkShape
    loss: training.Loss
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
            outputs = width_of(target)
            vector = weights_from_bytes(weights, parameter_count(read.network, encoder.width, outputs))
            return cls(encoder, target, Predictor(read.network, encoder.width, outputs, read.loss, vector))
        except (ValidationError, ValueError) as error:
            raise CorruptRecord("The stored model is damaged.", code="model_corrupt") from error

    def predict(self, instances: Sequence[object]) -> list[Prediction]:
        """One prediction per instance, each an object by column name or an array in the order of the inputs.

        Raises:
            Invalid: an instance does not fit the inputs, or its answer is no finite number.

        """
        outputs: Floats = self.predictor.predict(self.encoder.encode_records(instances))
        if isinstance(self.target, NumberTarget):
            with np.errstate(over="ignore"):
                outputs = self.target.decode(outputs)
        finite = np.isfinite(outputs).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            fault = Fault(f"/instances/{row}", "non_finite_output", "the values are too large for this model")
            raise Invalid("A prediction is no finite number.", [fault])
        if isinstance(self.target, NumberTarget):
            return [Prediction(value=value) for value in outputs[:, 0].tolist()]
        return _labelled(self.target, outputs)


def width_of(target: Target) -> int:
    """How many outputs a network needs for a target."""
    return len(target.classes) if isinstance(target, ClassTarget) else 1


def _labelled(target: ClassTarget, probabilities: Floats) -> list[Prediction]:
    names = [name_of(label) for label in target.classes]
    best: NDArray[np.intp] = probabilities.argmax(axis=1)
    return [
        Prediction(label=target.decode(code), probabilities=dict(zip(names, row, strict=True)))
        for code, row in zip(best.tolist(), probabilities.tolist(), strict=True)
    ]


def name_of(label: Label) -> str:
    """A class as a key of a JSON object."""
    return ("true" if label else "false") if isinstance(label, bool) else str(label)
