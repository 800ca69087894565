"""What a caller may say of a loss."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field
from pydantic_core import PydanticCustomError

from common.schemas.choice import choice
from common.schemas.models import Task
from common.schemas.network import Share
from common.schemas.record import Listed, Record

MAX_QUANTILES = 16


class CrossEntropy(Record):
    """For classes: the negative log-likelihood of the right class under a softmax."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Share = 0.0
    """What the right class leaves to all classes alike."""


class Quadratic(Record):
    """For classes: half the squared distance between sigmoid outputs and the one-hot class."""

    kind: Literal["quadratic"] = "quadratic"


class MeanSquaredError(Record):
    """For numbers: the squared difference between output and standardized target, averaged."""

    kind: Literal["mse"] = "mse"


class MeanAbsoluteError(Record):
    """For numbers: the absolute difference between output and standardized target; predicts the median."""

    kind: Literal["mae"] = "mae"


class Huber(Record):
    """For numbers: half the squared difference up to delta, linear from there on."""

    kind: Literal["huber"] = "huber"
    delta: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    """In standard deviations of the target."""


def _rising(quantiles: tuple[float, ...]) -> tuple[float, ...]:
    if any(a >= b for a, b in pairwise(quantiles)):
        raise PydanticCustomError("out_of_order", "must rise from each to the next")
    return quantiles


class Quantile(Record):
    """For numbers: the pinball loss. Predicts the quantiles of the target; several give an interval."""

    kind: Literal["quantile"] = "quantile"
    quantiles: Annotated[
        Listed[Annotated[float, Field(gt=0, lt=1)]],
        Field(min_length=1, max_length=MAX_QUANTILES),
        AfterValidator(_rising),
    ] = (0.1, 0.5, 0.9)
    """Rising; the one closest to 0.5 is the predicted value."""


class Poisson(Record):
    """For counts, none below zero: half the Poisson deviance of a rate that is the exponential of the output."""

    kind: Literal["poisson"] = "poisson"


Loss = Annotated[
    CrossEntropy | Quadratic | MeanSquaredError | MeanAbsoluteError | Huber | Quantile | Poisson,
    Discriminator("kind"),
]

FITTING: dict[Task, tuple[str, ...]] = {
    "classification": ("cross_entropy", "quadratic"),
    "regression": ("mse", "mae", "huber", "quantile", "poisson"),
}
"""Which losses fit a task."""

loss_choice = choice(tuple(kind for kinds in FITTING.values() for kind in kinds))
