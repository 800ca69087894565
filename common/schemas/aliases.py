"""Aliases of models: names for a version that can be moved to another one."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from common.schemas.record import Listed, Record, Time

ALIAS = r"([a-z]|[0-9]+[a-z._-])[a-z0-9._-]*"
"""A slug that is no whole number, for `name@3` is a version. No word is reserved."""
LONGEST_ALIAS = 63


def _check(alias: str) -> str:
    if len(alias) > LONGEST_ALIAS or re.fullmatch(ALIAS, alias) is None:
        raise PydanticCustomError(
            "invalid_name",
            "must be a slug (a-z, 0-9, and . _ - from the second character on) of at most {most} characters, and no "
            "whole number, which would be a version",
            {"most": LONGEST_ALIAS},
        )
    return alias


AliasName = Annotated[
    str, AfterValidator(_check), Field(json_schema_extra={"pattern": f"^{ALIAS}$", "maxLength": LONGEST_ALIAS})
]


class AliasMove(Record):
    """What an alias pointed to, from some moment on."""

    model_id: str | None
    """Null: to nothing, because it was removed, or its model deleted."""
    version: int | None
    changed_at: Time


class Alias(Record):
    """An alias of a name."""

    name: str
    alias: str
    model_id: str | None
    """What `name@alias` stands for; null once it was removed, or its model deleted."""
    version: int | None
    changed_at: Time | None
    history: Listed[AliasMove]
    """What it pointed to, newest first, what it points to now included; the newest 100."""
