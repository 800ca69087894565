"""How the protocol describes a model: its tensors, and Triton's configuration of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from common.learned import LearnedNetwork
from common.schemas.record import Listed, Record
from service.inference_protocol.datatypes import BYTES, datatype_of
from service.inference_protocol.outputs import outputs_of

PLATFORM = "chainrule_network"


class TensorMetadata(Record):
    """A tensor; -1 in its shape is the number of rows."""

    name: str
    datatype: str
    shape: Listed[int]


class ModelMetadata(Record):
    """A model."""

    name: str
    versions: Listed[str] = ()
    """That may be asked for, ascending; at most the newest 200."""
    platform: str = PLATFORM
    inputs: Listed[TensorMetadata]
    """One for each column. Where all are of numbers, one tensor `instances` of shape [-1, columns] is taken too."""
    outputs: Listed[TensorMetadata]


def inputs_of(network: LearnedNetwork) -> tuple[TensorMetadata, ...]:
    """The tensors that a model takes."""
    return tuple(
        TensorMetadata(name=column.name, datatype=datatype_of(column), shape=(-1, 1))
        for column in network.encoder.columns
    )


def described_outputs_of(network: LearnedNetwork) -> tuple[TensorMetadata, ...]:
    """The tensors that it answers with."""
    return tuple(
        TensorMetadata(name=output.name, datatype=output.datatype, shape=(-1, output.width))
        for output in outputs_of(network)
    )


def configuration_of(name: str, network: LearnedNetwork) -> dict[str, Any]:
    """What Triton's model configuration extension says of it: rows are a dimension like any other."""
    return {
        "name": name,
        "platform": PLATFORM,
        "backend": "",
        "max_batch_size": 0,
        "input": list(_configured(inputs_of(network))),
        "output": list(_configured(described_outputs_of(network))),
    }


def _configured(tensors: tuple[TensorMetadata, ...]) -> Iterator[dict[str, Any]]:
    for tensor in tensors:
        kind = "STRING" if tensor.datatype == BYTES else tensor.datatype
        yield {"name": tensor.name, "data_type": f"TYPE_{kind}", "dims": list(tensor.shape)}
