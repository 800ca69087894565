"""What was learned about each input column; the saved form of an encoder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from common.schemas.record import Listed, Record

FeatureKind = Literal["numeric", "categorical", "boolean"]


class Scaled(Record):
    """A column that becomes one number, (value - mean) / scale; a missing value becomes 0, the mean."""

    name: str
    kind: Literal["numeric", "boolean"]
    mean: float
    scale: Annotated[float, Field(gt=0)]
    joint: bool = False
    """Whether mean and scale are those of all joint columns together."""

    @property
    def width(self) -> int:
        """How many places of the matrix it takes."""
        return 1


class OneHot(Record):
    """A column that becomes one place per category, and one for missing if training rows had it."""

    name: str
    kind: Literal["categorical"]
    categories: Listed[str]
    missing: bool

    @property
    def width(self) -> int:
        """How many places of the matrix it takes."""
        return len(self.categories) + self.missing

    @property
    def missing_place(self) -> int:
        """Which of its places stands for missing; -1 for none."""
        return len(self.categories) if self.missing else -1


EncodedColumn = Annotated[Scaled | OneHot, Field(discriminator="kind")]


class EncoderDocument(Record):
    """The saved form of an encoder."""

    version: Literal[1] = 1
    columns: Listed[EncodedColumn]
