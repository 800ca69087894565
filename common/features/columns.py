"""What was learned about each input column; the saved form of an encoder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

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


class Embedded(Record):
    """A column that becomes the number of its category, for which the network learns a vector."""

    name: str
    kind: Literal["categorical"]
    categories: Listed[str]
    missing: bool
    vector: Annotated[int, Field(ge=1)]
    """How wide the vectors are."""

    @property
    def width(self) -> int:
        """How many places of the matrix it takes."""
        return 1

    @property
    def missing_place(self) -> int:
        """The number that stands for missing; -1 for none."""
        return len(self.categories) if self.missing else -1

    @property
    def unknown_place(self) -> int:
        """The last number: of a category that training never saw, and of the rarest where there are too many."""
        return len(self.categories) + self.missing


Column = Scaled | OneHot | Embedded


def _tag(value: object) -> str:
    if isinstance(value, dict):
        return "number" if "scale" in value else "embedded" if "vector" in value else "one_hot"
    return "number" if isinstance(value, Scaled) else "embedded" if isinstance(value, Embedded) else "one_hot"


EncodedColumn = Annotated[
    Annotated[Scaled, Tag("number")] | Annotated[OneHot, Tag("one_hot")] | Annotated[Embedded, Tag("embedded")],
    Discriminator(_tag),
]


class EncoderDocument(Record):
    """The saved form of an encoder."""

    version: Literal[1] = 1
    columns: Listed[EncodedColumn]
