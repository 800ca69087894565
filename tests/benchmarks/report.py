"""Tables, for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from tests.benchmarks.measurement import Spread

TEXTS = ("shape", "threads", "value", "verdict", "remarks")
"""Columns that are aligned to the left, as the first one is."""


@dataclass(frozen=True)
class Sheet:
    """A table with its title, and what is to be said below it. The first column holds names."""

    title: str
    columns: tuple[str, ...]
    lines: Sequence[tuple[str, ...]]
    remarks: tuple[str, ...] = ()


def span(values: Spread | None, form: str) -> tuple[str, str]:
    """The median, and from where to where."""
    if values is None:
        return "", ""
    return form.format(values.median), f"{form.format(values.least)} - {form.format(values.most)}"


def show(console: Console, sheets: Sequence[Sheet]) -> None:
    """Prints them."""
    for sheet in sheets:
        table = Table(title=sheet.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for column in sheet.columns:
            table.add_column(column, justify="left" if column in TEXTS or column == sheet.columns[0] else "right")
        for line in sheet.lines:
            table.add_row(*line)
        console.print()
        console.print(table, markup=False)
        for remark in sheet.remarks:
            console.print(remark, style="dim", markup=False)


def to_markdown(sheets: Sequence[Sheet]) -> str:
    """As a document's part."""
    return "\n".join(_markdown(sheet) for sheet in sheets)


def _markdown(sheet: Sheet) -> str:
    rule = ["---" if column in TEXTS or column == sheet.columns[0] else "---:" for column in sheet.columns]
    rows = [sheet.columns, rule, *([cell.replace("|", "\\|") for cell in line] for line in sheet.lines)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    remarks = "".join(f"\n{remark}\n" for remark in sheet.remarks)
    return f"### {sheet.title}\n\n{table}\n{remarks}"
