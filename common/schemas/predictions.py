"""What a prediction asks and answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from common.schemas.models import Label
from common.schemas.record import Record

LEAST_EXPLAINED = 8
"""Instances that any model explains at once."""
_OBJECTS_OR_ARRAYS = WithJsonSchema(
    {"type": "array", "minItems": 1, "items": {"anyOf": [{"type": "object"}, {"type": "array", "items": {}}]}}
)


class PredictionOptions(Record):
    """What an answer is to say beside the predictions, or to leave out. None: nothing was asked for."""

    explain: bool | None = None
    """Whether each prediction is explained: what every column adds to it."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """How many probabilities are answered, the largest first. For classes only."""
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """The probability from which on the second class is the label, else the first is. For two classes only."""

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the options that were asked for."""
        return tuple(name for name in PredictionOptions.model_fields if getattr(self, name) is not None)


class PredictionRequest(PredictionOptions):
    """Instances to predict, each an object by column name, or an array in the order of the model's inputs."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "instances": [
                        {"age": 41, "city": "Oslo", "member": True},
                        {"age": None, "city": "Rome", "member": False},
                    ]
                },
                {"instances": [[41, "Oslo", True]], "explain": True, "top_k": 3},
            ]
        }
    )

    instances: Annotated[list[object], Field(min_length=1), _OBJECTS_OR_ARRAYS]
    """Each is checked against the model's inputs; see `RecordReader`."""


class Explanation(Record):
    """What each column adds to a prediction: `baseline`, all `contributions` and `remainder` sum to it."""

    baseline: float
    """What the model says when every value is missing, of what is explained: the probability of the label, or the value."""
    contributions: dict[str, float]
    """By column: integrated gradients, summed over all numbers that a column becomes."""
    remainder: float
    """What the contributions miss, as their integrals are taken by finitely many steps."""


class Prediction(Record):
    """A class with the probability of each, or a number, with its quantiles where the loss gave them."""

    label: Label | None = None
    probabilities: dict[str, float] | None = None
    value: float | None = None
    quantiles: dict[str, float] | None = None
    """Rising, by the quantiles of the loss."""
    explanation: Explanation | None = None


class PredictionWarning(Record):
    """A value that a prediction rests on, though training rows had nothing like it."""

    pointer: str
    """Of the value, such as `/instances/0/age`."""
    code: Literal["far_outside_training_range", "unknown_category", "more_warnings"]
    message: str
