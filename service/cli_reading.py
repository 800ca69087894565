"""What commands that read a file of rows share: how it is to be read, and what its name may stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.identifiers import is_id
from service.client import ApiError

Delimiter = Annotated[str | None, typer.Option(help="CSV: what separates cells; `tab` is one.")]
Decimal = Annotated[str | None, typer.Option(help="CSV: the decimal mark, . or ,")]
Null = Annotated[
    list[str] | None, typer.Option(help="CSV: what stands for a missing value; may be given several times.")
]
Header = Annotated[bool, typer.Option("--header/--no-header", help="CSV: whether the first line names the columns.")]


def reading(delimiter: str | None, decimal: str | None, null: list[str] | None, *, header: bool) -> dict[str, object]:
    """The options that were given, as they stand in a query."""
    delimiter = "\t" if delimiter in ("tab", "\\t") else delimiter
    given = {"delimiter": delimiter, "decimal": decimal, "null": null or None, "header": None if header else False}
    return {name: value for name, value in given.items() if value is not None}


def is_dataset(source: str) -> bool:
    """Whether a source of rows is the id of a data set, not a file.

    Raises:
        ApiError: it is meant to be one, and is none.

    """
    if is_id(source, "ds"):
        return True
    if source.startswith("ds_") and not Path(source).exists():
        raise ApiError(
            f"{source}: neither a file nor the id of a data set, which is ds_ and 25 small letters and digits"
        )
    return False
