"""Learned models: what goes in, what comes out, where it came from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from common.schemas.columns import FeatureKind
from common.schemas.record import Listed, Record, Time

Task = Literal["classification", "regression"]
Label = bool | int | str


class ModelInput(Record):
    """A column that a prediction needs."""

    name: str
    kind: FeatureKind
    categories: Listed[str] | None = None
    """The categories seen in training; any other is treated as unknown."""


class ModelOutput(Record):
    """What a prediction answers with: one of `classes`, or a number."""

    name: str
    kind: Literal["label", "value"]
    classes: Listed[Label] | None = None


class Lineage(Record):
    """Where a model came from: enough to train it again."""

    dataset_sha256: str
    seed: int
    attempt: int
    averaged_epochs: int = 1
    """How many epochs the weights are the mean of: those of the best one, or with all after it where that was better."""
    base_model_id: str | None = None
    """The model that the training began with."""
    request: dict[str, object]
    """The training request in full, every default filled in."""
    versions: dict[str, str]
    """Of Chainrule, Python, NumPy and Ray."""


class Model(Record):
    """An immutable learned network."""

    id: str
    name: str
    version: int
    job_id: str
    dataset_id: str
    task: Task
    inputs: Listed[ModelInput]
    output: ModelOutput
    metrics: dict[str, float]
    parameters: Annotated[int, Field(description="How many numbers were learned.")]
    created_at: Time
    aliases: Listed[str] = ()
    lineage: Lineage
