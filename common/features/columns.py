"""What was learned about the input columns; the saved form of an encoder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Tag

from common.features.categories import Embedded, Numbered, OneHot
from common.features.numbers import QuantileNormal, Scaled
from common.features.times import Times
from common.schemas.record import Listed, Record

Column = Scaled | QuantileNormal | Times | OneHot | Numbered | Embedded


def _form(value: object) -> str:
    """Which of them it is; models of earlier versions do not say."""
    if not isinstance(value, dict):
        return str(getattr(value, "form", ""))
    return value.get("form") or ("scaled" if "scale" in value else "embedded" if "vector" in value else "one_hot")


EncodedColumn = Annotated[
    Annotated[Scaled, Tag("scaled")]
    | Annotated[QuantileNormal, Tag("quantile_normal")]
    | Annotated[Times, Tag("times")]
    | Annotated[OneHot, Tag("one_hot")]
    | Annotated[Numbered, Tag("numbered")]
    | Annotated[Embedded, Tag("embedded")],
    Discriminator(_form),
]


class EncoderDocument(Record):
    """The saved form of an encoder."""

    version: Literal[1] = 1
    columns: Listed[EncodedColumn]
