"""Choices with options: objects with a `kind`, for which the bare kind may stand.

A kind that belongs to the contract but is not built yet is refused as `not_supported_yet`; any other unknown
one as `unknown_choice` with the list of those allowed. Both are told apart from a fault inside the options.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BeforeValidator, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema


@dataclass(frozen=True, slots=True)
class Choice(BeforeValidator):
    """A validator to run before a tagged union, which its JSON schema describes with the bare kinds beside it."""

    bare: tuple[str, ...] = ()

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        described = handler(schema)
        if not self.bare:
            return described
        short = {
            "type": "string",
            "enum": [*self.bare],
            "description": "The kind alone: its options at their defaults.",
        }
        return {"anyOf": [described, short]}


def choice(built: tuple[str, ...], planned: tuple[str, ...] = (), *, bare: bool = True) -> Choice:
    """`"adam"` becomes `{"kind": "adam"}`, a kind not built is refused; `bare`: every kind has defaults for all options."""

    def check(value: object) -> object:
        if isinstance(value, str):
            value = {"kind": value}
        if isinstance(value, dict):
            kind = value.get("kind")
            if kind in planned:
                raise not_supported_yet(f"one of: {', '.join(built)}")
            if kind not in built:
                lead = "" if "kind" in value else "has no `kind`; "
                raise PydanticCustomError(
                    "unknown_choice",
                    "{lead}must be one of: {allowed}; with options, an object with that `kind`",
                    {"lead": lead, "allowed": ", ".join(built)},
                )
        return value

    return Choice(check, bare=built if bare else ())


def word(built: tuple[str, ...], planned: tuple[str, ...]) -> Callable[[object], object]:
    """The same for a choice without options, written as a bare string."""

    def check(value: object) -> object:
        if value in planned:
            raise not_supported_yet(f"one of: {', '.join(built)}")
        if value not in built:
            raise PydanticCustomError("unknown_choice", "must be one of: {allowed}", {"allowed": ", ".join(built)})
        return value

    return check


def not_supported_yet(expected: str) -> PydanticCustomError:
    """The error for what the contract names and this version does not do; `expected` says what works today."""
    return PydanticCustomError("not_supported_yet", "not supported yet; today: {expected}", {"expected": expected})
