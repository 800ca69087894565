"""What all commands share: where they write, how they name the server, and how they show a list."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.errors import ChainruleError
from service.client import ApiClient, ApiError

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, highlight=False, soft_wrap=True)

AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON, for scripts.")]
Most = Annotated[int, typer.Option("--limit", min=1, help="Most lines.")]

_HEADLINE = ("accuracy", "log_loss", "rmse", "mae", "r2")


@contextmanager
def explained() -> Iterator[None]:
    """Known errors are a message and exit status 1, not a traceback."""
    try:
        yield
    except (ApiError, ChainruleError) as error:
        err.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@contextmanager
def server() -> Iterator[ApiClient]:
    """The server that the environment names."""
    url = os.environ.get("CHAINRULE_URL", "http://127.0.0.1:8000")
    with explained(), ApiClient(url, os.environ.get("CHAINRULE_KEY")) as client:
        yield client


def headline(metrics: Mapping[str, float] | None) -> str:
    """The metrics that a line has room for."""
    return ", ".join(f"{name} {value:.4f}" for name, value in (metrics or {}).items() if name in _HEADLINE)


def show(found: object, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """A list: `found` as JSON, or some columns of its `rows` as a table."""
    if as_json:
        out.print_json(data=found)
        return
    table = Table(box=None)
    for column in columns:
        table.add_column(column, no_wrap=column == "id", min_width=30 if column == "id" else None, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if row[column] is None else str(row[column])) for column in columns))
    out.print(table)
