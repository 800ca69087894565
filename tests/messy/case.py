"""What a messy file is, and what has to come of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from service.ingest import ParseOptions


@dataclass(frozen=True)
class Case:
    """One file.

    Attributes:
        name: what is odd about it.
        origin: a data set, an issue of a reader, or a corner of a standard.
        content: its bytes.
        options: of the upload; the rest is as by default.
        values: what is stored, if it is taken: with types, rows, order and gaps.
        warnings: a part of each warning about how values were taken.
        refused: else the code and the place of the first fault.
        error: the code of the refusal itself.

    """

    name: str
    origin: str
    content: bytes
    options: dict[str, Any] = field(default_factory=dict)
    values: dict[str, list[Any]] | None = None
    warnings: tuple[str, ...] = ()
    refused: tuple[str, str] | None = None
    error: str = "invalid_data"

    def __post_init__(self) -> None:
        assert (self.values is None) != (self.refused is None and self.error == "invalid_data"), self.name

    @property
    def parse_options(self) -> ParseOptions:
        """As the parser takes them."""
        return ParseOptions.model_validate(self.options)


def taken(name: str, origin: str, content: bytes, values: dict[str, list[Any]], *warnings: str, **options: Any) -> Case:
    """A file that is read."""
    return Case(name, origin, content, options, values=values, warnings=warnings)


def refused(name: str, origin: str, content: bytes, code: str, place: str, **options: Any) -> Case:
    """A file that is not."""
    return Case(name, origin, content, options, refused=(code, place))
