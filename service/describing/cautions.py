"""What is worth knowing before one learns from columns: sentences that name columns and never repeat a cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from common.schemas.datasets import Column

NAMES_SHOWN: Final = 5
LEAST_ROWS_FOR_ID: Final = 20
"""In fewer, that all values differ says nothing."""
ID_SHARE: Final = 0.95
RARE_CLASS: Final = 0.01
UNEVEN_CLASSES: Final = 100


def looks_like_id(column: Column, rows: int) -> bool:
    """Whether almost every one of `rows` has a text or a whole number of its own."""
    discrete = column.kind in ("text", "categorical") or (column.kind == "numeric" and column.integer)
    return discrete and rows >= LEAST_ROWS_FOR_ID and column.distinct > ID_SHARE * rows


def column_cautions(columns: Sequence[Column], rows: int) -> list[str]:
    """One sentence for each thing that is true of some columns."""
    cases = [
        ([c.name for c in columns if c.distinct == 0], "without any value"),
        ([c.name for c in columns if c.distinct == 1], "with one value only (constant)"),
        (
            [c.name for c in columns if c.distinct and c.missing > rows / 2],
            "without a value in more than half of the rows",
        ),
        (
            [c.name for c in columns if c.kind == "text"],
            'of text, too many different ones; left out of training, unless {"kind": "categorical"} in columns '
            "takes the most frequent thousand",
        ),
    ]
    said = [f"{named(names)} {what}" for names, what in cases if names]
    return [*said, *id_caution([c.name for c in columns if looks_like_id(c, rows)])]


def id_caution(names: Sequence[str]) -> list[str]:
    """A sentence on the columns that look like ids, if there are any."""
    if not names:
        return []
    share = f"with a value of its own in more than {ID_SHARE:.0%} of the rows"
    return [f"{named(names)} {share} (an id?); nothing general can be learned from it; `features` can leave it out"]


def twin_cautions(groups: Sequence[Sequence[str]]) -> list[str]:
    """A sentence for each group of columns that hold the same."""
    return [f"{named(names)} hold the same in every row; one of them is enough" for names in groups]


def repetition_caution(repeated: int, rows: int) -> list[str]:
    """A sentence on rows that stand more than once, if there are any."""
    if not repeated:
        return []
    return [f"{repeated:,} of {rows:,} rows repeat an earlier row in all columns"]


def imbalance_caution(name: str, smallest: int, largest: int, rows: int) -> list[str]:
    """A sentence on classes of very different size; `rows` are those that have one."""
    if smallest >= RARE_CLASS * rows and largest <= UNEVEN_CLASSES * smallest:
        return []
    return [f"column {name}: the smallest class has {smallest:,} of {rows:,} rows, the largest {largest:,}"]


def training_cautions(target: Column, features: Sequence[Column], rows: int, *, classes: bool) -> list[str]:
    """What the description of `rows` rows holds against learning a target from some columns; `classes`: it has such."""
    said = id_caution([column.name for column in features if looks_like_id(column, rows)])
    sizes = [frequent.count for frequent in target.top]
    if classes and len(sizes) == target.distinct > 1:
        said = [*imbalance_caution(target.name, min(sizes), max(sizes), sum(sizes)), *said]
    return said


def named(names: Sequence[str]) -> str:
    """The beginning of a sentence on some columns."""
    shown = ", ".join(names[:NAMES_SHOWN])
    if len(names) == 1:
        return f"column {shown}:"
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return f"{len(names):,} columns ({shown}{more}):"
