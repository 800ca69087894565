"""The form of a file of a model: safetensors, a tensor for each array of each layer, all else as JSON among its metadata.

docs/models.md describes it for other tools.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from safetensors.numpy import save

from common.learned import LearnedDocument, LearnedNetwork
from common.schemas.models import Model
from common.schemas.record import Record
from common.store.client import to_json

MEDIA_TYPE = "application/octet-stream"
DESCRIPTION = "description"


class Description(Record):
    """What a file says of its model beside the weights: the one entry of its metadata, which have no order."""

    format: Literal["chainrule-model"] = "chainrule-model"
    version: Literal[1] = 1
    """To be raised when a reader of today would misunderstand the file."""
    model: Annotated[Model, Field(description="The record; without evaluation and aliases.")]
    network: Annotated[LearnedDocument, Field(description="The encoder, the target, the layers and the loss.")]


def write(network: LearnedNetwork, model: Model) -> bytes:
    """The file of a model, in the safetensors format: https://github.com/huggingface/safetensors#format.

    The same model gives the same bytes.
    """
    description = Description(model=model, network=network.to_document())
    told = description.model_dump(mode="json", exclude={"model": {"aliases", "evaluation"}})
    tensors = {name: np.ascontiguousarray(array, "<f4") for name, array in network.predictor.parameters.items()}
    return save(tensors, {DESCRIPTION: to_json(told)})
