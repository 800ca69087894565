"""What all records share: strict, frozen, closed, and no number that JSON cannot say."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, Strict

Item = TypeVar("Item")

Listed = Annotated[tuple[Item, ...], Strict(False)]
"""A tuple that may be given as a JSON array, its items as strict as ever."""


def _read_time(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be a time such as 2024-05-17T08:30:00Z") from None  # which does not repeat what came


def _write_time(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Time = Annotated[datetime, BeforeValidator(_read_time), PlainSerializer(_write_time, return_type=str)]
"""A moment, RFC 3339 in UTC with milliseconds on the wire."""


class Record(BaseModel):
    """A frozen record: unknown fields, wrong types, NaN and infinities are refused."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )
