"""What a prediction asks and answers."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, WithJsonSchema

from common.schemas.models import Label
from common.schemas.record import Record

_OBJECTS_OR_ARRAYS = WithJsonSchema(
    {"type": "array", "minItems": 1, "items": {"anyOf": [{"type": "object"}, {"type": "array", "items": {}}]}}
)


class PredictionRequest(Record):
    """Instances to predict, each an object by column name, or an array in the order of the model's inputs."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "instances": [
                        {"age": 41, "city": "Oslo", "member": True},
                        {"age": None, "city": "Rome", "member": False},
                    ]
                }
            ]
        }
    )

    instances: Annotated[list[object], Field(min_length=1), _OBJECTS_OR_ARRAYS]
    """Each is checked against the model's inputs; see `RecordReader`."""


class Prediction(Record):
    """A class with the probability of each, or a number, with its quantiles where the loss gave them."""

    label: Label | None = None
    probabilities: dict[str, float] | None = None
    value: float | None = None
    quantiles: dict[str, float] | None = None
    """Rising, by the quantiles of the loss."""
