"""A data set's description as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rich.table import Table
from rich.text import Text

_BARS: Final = "▁▂▃▄▅▆▇█"
_LONGEST: Final = 20
_TOP: Final = 3


def of_columns(dataset: dict[str, Any]) -> Table:
    """One line for each column; numbers and times with a histogram, categories with the most frequent ones."""
    table = Table(box=None)
    for name in ("column", "kind"):
        table.add_column(name, overflow="fold")
    for name in ("missing", "distinct", "mean", "std", "least", "median", "most"):
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("values", no_wrap=True)
    for column in dataset["columns"]:
        quantiles = column["quantiles"]
        cells = [
            column["name"],
            column["kind"],
            f"{column['missing']:,}",
            f"{column['distinct']:,}",
            *(_number(column[name]) for name in ("mean", "std")),
            *(_number(quantiles.get(percent)) for percent in ("0", "50", "100")),
            bars(column["histogram"]["counts"]) if column["histogram"] else _most_frequent(column, dataset["rows"]),
        ]
        table.add_row(*(Text(plain(cell)) for cell in cells))
    return table


def of_associations(found: dict[str, Any]) -> Table:
    """One line for each column, the strongest first, with a bar as long as it is strong."""
    table = Table(box=None, title=Text(plain(f"with {found['target']}")), title_justify="left")
    for name in ("column", "measure", "value", "rows", "strength"):
        table.add_column(name, justify="right" if name in ("value", "rows") else "left", overflow="fold")
    for association in found["data"]:
        value = association["value"]
        cells = [
            association["column"],
            association["measure"],
            "" if value is None else f"{value:.3f}",
            f"{association['rows']:,}",
            "█" * round(abs(value or 0.0) * _LONGEST),
        ]
        table.add_row(*(Text(plain(cell)) for cell in cells))
    return table


def bars(counts: Sequence[int]) -> str:
    """A histogram in one line: a space for no value, else a bar against the highest."""
    highest = max(counts)
    return "".join(_BARS[(count * len(_BARS) - 1) // highest] if count else " " for count in counts) if highest else ""


def _number(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.5g}"


def _most_frequent(column: dict[str, Any], rows: int) -> str:
    shown = [f"{_short(top['value'])} {top['count'] / rows:.0%}" for top in column["top"][:_TOP]]
    return ", ".join([*shown, "…"] if column["distinct"] > len(shown) > 0 else shown)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def plain(text: str) -> str:
    """Without the characters that steer a terminal."""
    return "".join(character if character.isprintable() else "·" for character in text)
