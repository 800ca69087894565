"""What a model says of rows, as the tensors that the protocol answers with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.features.target import ClassTarget, name_of
from common.learned import LearnedNetwork
from common.network.parameters import Floats
from service.inference_protocol.datatypes import BOOL, BYTES
from service.inference_protocol.tensors import LENGTH_BYTES

_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor that a model can answer with, of shape (rows, width)."""

    name: str
    datatype: str
    width: int
    values: Callable[[Floats], NDArray[Any]]
    """Its values, from what `LearnedNetwork.answers` says."""
    texts: tuple[str, ...] = ()
    """For `BYTES`, whose values are places among these."""

    def to_json(self, answers: Floats) -> list[Any]:
        """Its values row after row, as JSON can say them."""
        values: list[Any] = self.values(answers).ravel().tolist()
        return [self.texts[place] for place in values] if self.datatype == BYTES else values

    def to_bytes(self, answers: Floats) -> bytes:
        """Its values row after row, little endian; texts each behind its length in 4 bytes."""
        values = self.values(answers)
        if self.datatype != BYTES:
            return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
        coded = [text.encode() for text in self.texts]
        parts = [len(text).to_bytes(LENGTH_BYTES, "little") + text for text in coded]
        return b"".join([parts[place] for place in values.ravel().tolist()])


def outputs_of(network: LearnedNetwork) -> tuple[Output, ...]:
    """All that a model can answer with, in the order in which it does unless it is asked otherwise."""
    target = network.target
    if isinstance(target, ClassTarget):
        return (_label_of(target), Output("probabilities", "FP32", len(target.classes), _as_float32))
    value = Output("value", "FP64", 1, partial(_column, network.predictor.middle))
    if not network.quantiles:
        return (value,)
    return (value, Output("quantiles", "FP64", len(network.quantiles), _as_float64))


def _label_of(target: ClassTarget) -> Output:
    classes = target.classes
    if all(isinstance(label, bool) for label in classes):
        return Output("label", BOOL, 1, partial(_likeliest, np.array(classes)))
    if all(isinstance(label, int) and label in _INT64 for label in classes):
        return Output("label", "INT64", 1, partial(_likeliest, np.array(classes, np.int64)))
    return Output("label", BYTES, 1, partial(_likeliest, np.arange(len(classes))), tuple(map(name_of, classes)))


def _likeliest(labels: NDArray[Any], answers: Floats) -> NDArray[Any]:
    likeliest: NDArray[Any] = labels[answers.argmax(axis=1)][:, None]
    return likeliest


def _column(place: int, answers: Floats) -> NDArray[Any]:
    return answers[:, place : place + 1].astype(np.float64)


def _as_float32(answers: Floats) -> NDArray[Any]:
    return answers.astype(np.float32, copy=False)


def _as_float64(answers: Floats) -> NDArray[Any]:
    return answers.astype(np.float64, copy=False)
