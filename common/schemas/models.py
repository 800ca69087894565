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


class Imported(Record):
    """The file that a model came in with, and what the model was where that was made."""

    sha256: str
    """Of the file."""
    model_id: str
    name: str
    version: int
    created_at: Time


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
    imported: Imported | None = None
    """Null for a model that was trained here."""


class ClassEvaluation(Record):
    """One class against all others."""

    label: Label
    rows: int
    """Of this class."""
    predicted: int
    """Rows that were said to be of this class."""
    precision: float
    """The share of the `predicted` rows that are of this class; 0 without any."""
    recall: float
    """The share of its `rows` that were said to be; 0 without any."""
    f1: float
    """The harmonic mean of both; 0 without any row."""
    roc_auc: float | None = None
    """The area under the ROC curve; null when all rows are of this class or none is, or they are too many to rank."""
    pr_auc: float | None = None
    """Average precision; null as `roc_auc` is."""


class QuantileEvaluation(Record):
    """One quantile of an interval."""

    quantile: float
    loss: float
    """The mean pinball loss, in the target's units."""
    below: float
    """The share of rows whose target is at or below it; `quantile`, if it is right."""


class Evaluation(Record):
    """What a model's metrics over some rows are made of."""

    rows: int
    """That were predicted and compared."""
    classes: Listed[ClassEvaluation] | None = None
    """Of a classification, class by class as in the model's `output`."""
    confusion_matrix: Listed[Listed[int]] | None = None
    """How many rows of each class (down) were said to be of which (across); null beyond 100 classes."""
    unknown_class_predictions: Listed[int] | None = None
    """How many rows of classes that the model does not know were said to be of which; null when there are none."""
    quantiles: Listed[QuantileEvaluation] | None = None
    """Of a regression whose loss gave them."""
    warnings: Listed[str] = ()


class Model(Record):
    """An immutable learned network."""

    id: str
    name: str
    version: int
    job_id: str
    """What trained it; for an imported model where that was, and nothing of this id need be here."""
    dataset_id: str
    """What it was trained on; for an imported model as `job_id`."""
    task: Task
    inputs: Listed[ModelInput]
    output: ModelOutput
    metrics: dict[str, float]
    """Of its weights, on the validation rows of its training; docs/evaluation.md says what each is."""
    evaluation: Evaluation | None = None
    """What the metrics are made of; null in lists, and for models of an earlier version."""
    parameters: Annotated[int, Field(description="How many numbers were learned.")]
    created_at: Time
    aliases: Listed[str] = ()
    """Those of its name that point to it now; they are no part of what is immutable."""
    lineage: Lineage
