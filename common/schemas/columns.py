"""How single columns become inputs of a network: what a training request may say about them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field

from common.schemas.choice import choice
from common.schemas.record import Listed, Record

MAX_EMBEDDING = 1024
MAX_ORDER = 1000

FeatureKind = Literal["numeric", "categorical", "boolean", "datetime"]
Scale = Literal["standard", "min_max", "robust", "quantile_normal", "log", "none"]
Encoding = Literal["one_hot", "ordinal", "frequency", "embedding"]


class MeanMissing(Record):
    """A missing value stands at the mean of the training rows."""

    kind: Literal["mean"] = "mean"
    indicator: bool = False
    """One more input, which is 1 where the value is missing and 0 elsewhere."""


class MedianMissing(Record):
    """A missing value stands at the median of the training rows."""

    kind: Literal["median"] = "median"
    indicator: bool = False
    """One more input, which is 1 where the value is missing and 0 elsewhere."""


class ConstantMissing(Record):
    """A missing value counts as this one: a number, a boolean or a category, as the column has them."""

    kind: Literal["constant"] = "constant"
    value: bool | float | str
    indicator: bool = False
    """One more input, which is 1 where the value is missing and 0 elsewhere."""


class OwnMissing(Record):
    """Missing is a category of its own, where training rows have it; else it is treated as an unknown category."""

    kind: Literal["category"] = "category"


class ErrorMissing(Record):
    """A missing value is refused, in training and in predictions."""

    kind: Literal["error"] = "error"


Missing = Annotated[
    MeanMissing | MedianMissing | ConstantMissing | OwnMissing | ErrorMissing,
    Discriminator("kind"),
]
missing_choice = choice(("mean", "median", "constant", "category", "error"))


class ColumnOptions(Record):
    """How a column becomes inputs. What is not given follows from its kind."""

    kind: FeatureKind | None = None
    """Null: as the data set describes it. Numbers may be taken for categories, texts that are mostly numbers for
    numbers (others count as missing), and texts that are left out otherwise for categories, the 1,000 most frequent."""
    scale: Scale | None = None
    """Of a numeric column: "standard" (mean 0, standard deviation 1; the default), "min_max" (0 ... 1), "robust" (median 0,
    quartiles 1 apart), "quantile_normal" (ranks on a bell curve), "log" (logarithm of 1 + |x| with the sign of x, then
    standard), "none". Columns that look like pixels are scaled together when they are scaled alike, by "standard" or
    "min_max"."""
    missing: Annotated[Missing, missing_choice] | None = None
    """What a missing value counts as. Null: "mean" for numbers, booleans and times, "category" for categories."""
    encoding: Encoding | None = None
    """Of a categorical column: "one_hot" (one input per category), "ordinal" (its place in `order`), "frequency" (how
    often training rows have it) or "embedding" (a learned vector). Null: one_hot up to 100 distinct values, embedding
    above."""
    order: Annotated[Listed[bool | float | str], Field(min_length=2, max_length=MAX_ORDER)] | None = None
    """Of "ordinal": the categories from lowest to highest, as the column has them; null: by the alphabet, or by size where they are numbers."""
    min_count: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    """Categories that fewer training rows have are treated as unknown ones, together. Null: 1."""
    width: Annotated[int, Field(ge=1, le=MAX_EMBEDDING)] | None = None
    """Of an embedding's vectors; null: 1.6 x categories^0.56, at most 64."""
