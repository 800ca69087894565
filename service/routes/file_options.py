"""What a caller says about a file that is the body of a request: its form, and how CSV is to be read."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Final

from fastapi import Query, Request

from common.errors import Fault, UnsupportedMedia
from common.schemas.datasets import DataFormat
from service import problems
from service.ingest import DEFAULT_NULLS, DELIMITER, DecimalMark, ParseOptions

TSV: Final = "text/tab-separated-values"
JSON: Final = "application/json"
FORMATS: Final[dict[str, DataFormat]] = {
    "text/csv": "csv",
    TSV: "csv",
    "application/vnd.apache.parquet": "parquet",
    "application/x-ndjson": "ndjson",
    JSON: "rows",
}

Delimiter = Annotated[
    str | None,
    Query(
        pattern=DELIMITER, description="CSV: what separates cells; else a comma, in text/tab-separated-values a tab."
    ),
]
Decimal = Annotated[
    DecimalMark,
    Query(description="CSV: the decimal mark. A number has no other mark: 1.234,5 is a text either way."),
]
Nulls = Annotated[list[str] | None, Query(description="CSV: what stands for a missing value; replaces the default.")]


def media_type(request: Request, taken: Collection[str] = FORMATS) -> str:
    """The form of the body.

    Raises:
        UnsupportedMedia: it is none of those, or in another charset than UTF-8.

    """
    kind, *parameters = (part.strip() for part in request.headers.get("content-type", "").lower().split(";"))
    if kind not in taken:
        raise UnsupportedMedia(f"The body must be one of: {', '.join(taken)}.")
    for name, _, value in (parameter.partition("=") for parameter in parameters):
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8", "us-ascii"):
            raise UnsupportedMedia("The charset must be utf-8: save the file as UTF-8.")
    return kind


def parse_options(
    kind: str, *, header: bool, delimiter: str | None, decimal: DecimalMark, null: list[str] | None
) -> ParseOptions:
    """How a body of that form is to be read.

    Raises:
        Invalid: it is not CSV, and options for CSV were given.

    """
    given = {"header": not header, "delimiter": delimiter, "decimal": decimal != ".", "null": null is not None}
    separator = delimiter or ("\t" if kind == TSV else ",")
    if FORMATS[kind] != "csv" and any(given.values()):
        message = "is for CSV only"
        raise problems.invalid([Fault(name, "unsuitable_option", message) for name, value in given.items() if value])
    return ParseOptions.model_validate(
        {
            "format": FORMATS[kind],
            "header": header,
            "delimiter": separator,
            "decimal": decimal,
            "null": DEFAULT_NULLS if null is None else tuple(null),
        }
    )
