"""The training request: what a caller may ask for, with defaults that give a good model.

Only `dataset_id` and `target` are required. Fields that the contract names and this version does not act on
accept their default and refuse anything else as `not_supported_yet`: nothing is ever silently ignored.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field
from pydantic_core import PydanticCustomError

from common.schemas.choice import choice
from common.schemas.columns import ColumnOptions
from common.schemas.losses import Loss, loss_choice
from common.schemas.models import Task
from common.schemas.network import NetworkShape, Share
from common.schemas.optimizers import (
    Adam,
    ConstantSchedule,
    Epochs,
    Optimizer,
    Regularization,
    Schedule,
    optimizer_choice,
    schedule_choice,
)
from common.schemas.record import Listed, Record

MAX_WORKERS = 64
MAX_SERVERS = 16
MAX_REPRODUCIBLE_WORKERS = 8
MAX_STALENESS = 1000
MAX_LOCAL_STEPS = 1_000_000
MAX_BATCH = 1_000_000
MAX_LABELS = 32
MAX_COLUMNS = 100_000


def clean_name(value: str) -> str:
    """A name as it is stored: any printable text; control characters and direction overrides are refused."""
    if any(
        unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character != "\u200d"
        for character in value
    ):
        raise PydanticCustomError(
            "invalid_name", "must not hold control characters, line breaks or direction overrides"
        )
    return value


Name = Annotated[str, Field(max_length=200), BeforeValidator(lambda v: clean_name(v) if isinstance(v, str) else v)]
MODEL_NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
ModelName = Annotated[str, Field(pattern=MODEL_NAME)]


def slug(text: str) -> str | None:
    """A model name made of free text: lower case, ASCII, hyphens for the rest; None when nothing is left of it."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9._]+", "-", ascii_text).strip("-._")[:63] or None


class Training(Record):
    """How long and in what steps."""

    epochs: Epochs = 100
    batch_size: Annotated[int, Field(ge=1, le=MAX_BATCH)] | None = None
    """Rows per step, over all workers. Null: 32 below 2,000 rows, 128 below 20,000, else 256."""
    shuffle: bool = True
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Null: drawn, and shown in the job."""
    reproducible: bool = False
    """The same bits for any number of workers, up to 8, and of servers, on machines of one kind; costs some speed."""


ColumnName = Annotated[str, Field(min_length=1, max_length=1000)]
ValidationShare = Annotated[float, Field(gt=0, lt=1)]


class RandomSplit(Record):
    """Validation rows drawn at random; with `stratify`, class by class."""

    kind: Literal["random"] = "random"
    fraction: ValidationShare = 0.1
    stratify: bool = True


class GroupSplit(Record):
    """Groups of rows that belong together, such as those of one customer, drawn at random: each is on one side whole."""

    kind: Literal["group"] = "group"
    column: ColumnName
    """What rows of a group have in common; it is no feature. Rows without a value are groups of their own."""
    fraction: ValidationShare = 0.1


class TimeSplit(Record):
    """The latest rows judge what was learned from those before them."""

    kind: Literal["time"] = "time"
    column: ColumnName
    """Of times or numbers. Rows of one time stay together; rows without a value are learned from."""
    fraction: ValidationShare = 0.1


class ColumnSplit(Record):
    """The rows that have a certain value in a column."""

    kind: Literal["column"] = "column"
    column: ColumnName
    """It is no feature."""
    value: bool | int | float | str
    """Of the validation rows."""


class DatasetSplit(Record):
    """All rows of another data set, which has the same columns."""

    kind: Literal["dataset"] = "dataset"
    dataset_id: Annotated[str, Field(max_length=100)]


class NoSplit(Record):
    """No validation rows: the training loss stands in for the validation loss."""

    kind: Literal["none"] = "none"


Validation = Annotated[
    RandomSplit | GroupSplit | TimeSplit | ColumnSplit | DatasetSplit | NoSplit, Discriminator("kind")
]
_validation = choice(("random", "none", "group", "time", "column", "dataset"), bare=False)


class Stopping(Record):
    """When to stop before the last epoch. Losses are validation losses, or training losses without validation."""

    target_loss: Annotated[float, Field(ge=0)] | None = None
    """Stop when the loss is at or below it."""
    target_error: Annotated[float, Field(ge=0)] | None = None
    """Stop when the misclassified fraction (classes) or the root mean squared error in the target's own units
    (numbers) is at or below it."""
    patience: Epochs | None = 10
    """Stop after so many epochs without a better loss; null: never."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """By how much a loss must be lower to count as better."""
    max_seconds: Annotated[float, Field(gt=0)] | None = None
    """Stop after so much training time, keeping the best weights so far."""


class Synchronous(Record):
    """Every step waits for every worker; gradients are averaged by the weight of their rows.

    Any number of workers follows the trajectory of one, up to the order of summation.
    """

    kind: Literal["synchronous"] = "synchronous"


class BoundedStaleness(Record):
    """The server applies each gradient when it comes; a fast worker may run ahead, up to a bound.

    Ho et al. (NeurIPS 2013). For workers of unequal speed; every worker's gradient is a step of its own.
    """

    kind: Literal["bounded_staleness"] = "bounded_staleness"
    max_staleness: Annotated[int, Field(ge=0, le=MAX_STALENESS)] = 4
    """By how many steps a worker may be ahead of the slowest."""


class LocalSteps(Record):
    """Workers take steps of their own; then the server averages how far their weights have moved.

    Communication is divided by the number of steps. McMahan et al. (AISTATS 2017); with momentum: Chen and Huo
    (ICASSP 2016).
    """

    kind: Literal["local_steps"] = "local_steps"
    steps: Annotated[int | Literal["auto"], BeforeValidator(lambda v: _local_steps(v))] = "auto"
    """Between two averages; "auto": as few as keep communication under 5 % of the time, by measurement."""
    outer_momentum: Share = 0.0
    """Nesterov momentum of the averaged moves; 0: plain averaging. With W workers, up to 1 - 1/W is sensible."""


def _local_steps(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_LOCAL_STEPS):
        return value
    raise PydanticCustomError(
        "out_of_range", 'must be "auto" or a whole number from 1 to {most}', {"most": MAX_LOCAL_STEPS}
    )


Synchrony = Annotated[Synchronous | BoundedStaleness | LocalSteps, Discriminator("kind")]
_synchrony = choice(("synchronous", "bounded_staleness", "local_steps"))


class Cluster(Record):
    """How many processes take part, and how they keep step."""

    workers: Annotated[int, Field(ge=1, le=MAX_WORKERS)] = 2
    """Processes that compute gradients, each on its part of every batch. Left out: 2, or 1 where the operator allows no
    more."""
    servers: Annotated[int, Field(ge=1, le=MAX_SERVERS)] = 1
    """Processes that the parameters are split over."""
    synchrony: Annotated[Synchrony, _synchrony] = Synchronous()


LabelText = Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]
Labels = Annotated[dict[LabelText, Name], Field(max_length=MAX_LABELS)]
Priority = Annotated[int, Field(ge=-1000, le=1000)]


ClassWeights = Literal["balanced"] | dict[str, Annotated[float, Field(ge=0, le=1e9)]]


def _read_class_weights(value: object) -> object:
    if value is None or value == "balanced" or isinstance(value, dict):
        return value
    raise PydanticCustomError("wrong_type", 'must be "balanced", or an object with a weight for each class, or null')


_class_weights = BeforeValidator(_read_class_weights)


class TrainingRequest(Record):
    """A training request in full."""

    dataset_id: Annotated[str, Field(max_length=100)]
    target: ColumnName
    """The column to predict."""
    name: Name | None = None
    model_name: ModelName | None = None
    """Null: made of the name, or of the data set's."""
    task: Task | None = None
    """Null: classification for a text or boolean target, or for whole numbers with at most 20 distinct values;
    else regression."""
    features: Annotated[Listed[str], Field(min_length=1)] | None = None
    """The columns to learn from; null: all but the target and the weights."""
    weight_column: ColumnName | None = None
    """A column of numbers, none below zero, that say how much each row counts in loss, gradients and metrics; it is no
    feature. Null: all count alike."""
    columns: Annotated[dict[str, ColumnOptions], Field(max_length=MAX_COLUMNS)] = {}
    """How single columns become inputs, by name; others are encoded by their kind."""
    network: NetworkShape = NetworkShape()
    loss: Annotated[Loss, loss_choice] | None = None
    """Null: cross-entropy for classes, mean squared error for numbers."""
    class_weights: Annotated[ClassWeights, _class_weights] | None = None
    """How much the rows of each class count, by class, in loss and gradients; classes that are not named count 1.
    "balanced": all classes alike, by n / (classes x n of the class). Null: all rows alike."""
    optimizer: Annotated[Optimizer, optimizer_choice] = Adam()
    schedule: Annotated[Schedule, schedule_choice] = ConstantSchedule()
    regularization: Regularization = Regularization()
    training: Training = Training()
    validation: Annotated[Validation, _validation] = RandomSplit()
    stopping: Stopping = Stopping()
    cluster: Cluster = Cluster()
    priority: Priority = 0
    """Higher starts first."""
    labels: Labels = {}
    base_model_id: Annotated[str, Field(max_length=100)] | None = None
    """A model to begin with, of the same task: its weights are kept where columns, categories and classes are the same,
    and its hidden layers are taken over where `network` is not given."""
