"""How strongly each column of a data set goes along with one of them, the target."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from common.describing.column import MAX_CATEGORIES
from common.describing.stored_columns import CELLS, StoredColumns
from common.schemas.datasets import Column, ColumnKind, Dataset
from common.schemas.record import Listed, Record
from service.describing.cautions import id_caution, imbalance_caution, looks_like_id, named
from service.describing.measures import Codes, CorrelationRatio, CramersV, Numbers, Pearson
from service.submission import MAX_CLASSES_OF_INTEGERS

LEAKS: Final = 0.98
MOST_CELLS: Final = 200_000_000
"""That are read for an answer; of more, blocks of rows at equal distances."""
_COUNTED: Final = 100_000
"""Different values that are counted at a time in search of the most frequent; of more, the rare ones are dropped."""
_COLUMNS: Final = 8
_TABLE_CELLS: Final = 1 << 24
"""Of all tables that grow at the same time: 64 MiB."""

Measure = Literal["pearson", "eta", "cramers_v"]


class Association(Record):
    """How strongly a column goes along with the target."""

    column: str
    kind: ColumnKind
    measure: Measure
    """`pearson` between two columns of numbers, `eta` (the correlation ratio) between numbers and categories, `cramers_v`
    (corrected for bias) between categories. Dates and times are numbers here; booleans and texts are categories, and so is
    a target of whole numbers with at most 20 different ones."""
    value: float | None
    """Pearson's from -1 to 1, the others from 0 to 1; null where one of the two columns does not vary."""
    rows: int
    """Rows that were used: those with a value in both columns, and of a very large data set evenly spread blocks only."""
    grouped: bool
    """Whether a column has more than 1,000 categories, of which the less frequent were taken for one."""


class Associations(Record):
    """All other columns of a data set beside its target, the strongest association first."""

    target: str
    data: Listed[Association]
    warnings: Listed[str]


def associate(path: Path, dataset: Dataset, target: Column) -> Associations:
    """Measure all columns of the stored rows at `path`; reads them block by block, so it blocks for seconds."""
    stored = StoredColumns(path)
    sought = _Side.of(target, counted=_is_category(target) or _are_classes(target))
    if sought.counted:
        for (block,) in stored.blocks([target.name]):
            sought.count(block)
    others = [column for column in dataset.columns if column.name != target.name]
    stride = -(-stored.rows * len(dataset.columns) // MOST_CELLS)
    groups = _groups(others, sought, stored.rows)
    found = [finding for group in groups for finding in _measure(stored, group, stride)]
    found.sort(key=lambda finding: -finding.strength)
    return Associations(
        target=target.name,
        data=tuple(finding.association for finding in found),
        warnings=tuple(_warnings(dataset, sought, found, stride)),
    )


def _is_category(column: Column) -> bool:
    return column.kind in ("categorical", "boolean", "text")


def _are_classes(target: Column) -> bool:
    return target.kind == "numeric" and target.integer and target.distinct <= MAX_CLASSES_OF_INTEGERS


@dataclass(slots=True)
class _Side:
    """One of two columns: its values as numbers, as codes of categories, or both."""

    column: Column
    counted: bool
    """Whether it has categories, which must be counted before there are codes."""
    scale: float
    hashes: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    """Of the most frequent values, sorted."""
    counts: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema={"value": pl.UInt64, "count": pl.UInt32}))
    grouped: bool = False

    @classmethod
    def of(cls, column: Column, *, counted: bool) -> _Side:
        largest = max(abs(column.min or 0.0), abs(column.max or 0.0))
        return cls(column, counted, scale=2.0 ** (np.frexp(largest)[1] - 1))  # no square overflows or vanishes

    @property
    def categories(self) -> int:
        """The most frequent ones, and all others as one."""
        return len(self.hashes) + 1

    def count(self, block: pl.Series) -> None:
        """Take the next block into the counts."""
        more = block.drop_nulls().hash().alias("value").value_counts()
        counts = pl.concat([self.counts, more]).group_by("value").agg(pl.col("count").sum())
        self.counts = counts.top_k(_COUNTED, by="count")
        self.hashes = np.sort(self.counts.top_k(MAX_CATEGORIES, by="count")["value"].to_numpy())
        self.grouped = len(self.counts) > MAX_CATEGORIES

    def numbers(self, block: pl.Series) -> Numbers:
        """Scaled by a power of two; missing values are NaN."""
        values = block.to_physical() if block.dtype.is_temporal() else block
        found: Numbers = values.cast(pl.Float64).fill_null(float("nan")).to_numpy() / self.scale
        return found

    def codes(self, block: pl.Series) -> Codes:
        """Missing values get any code."""
        hashes = block.hash().to_numpy()
        places = np.searchsorted(self.hashes, hashes)
        known = np.append(self.hashes, np.uint64(0))[places] == hashes
        return np.where(known & (places < len(self.hashes)), places, len(self.hashes))


class _Pair:
    """A column beside the target, and what has been seen of them."""

    def __init__(self, column: Column, target: _Side) -> None:
        self.is_category = _is_category(column)
        few = column.kind == "numeric" and column.integer and column.distinct <= MAX_CATEGORIES
        self.side = _Side.of(column, counted=self.is_category or few)
        self.target = target
        self.rows = 0
        self._by_category: CorrelationRatio | CramersV | None = None
        self._by_number: CorrelationRatio | Pearson | None = None

    @property
    def table_cells(self) -> int:
        """What its largest table may have."""
        columns = (self.side.column, self.target.column)
        return math.prod(min(column.distinct, MAX_CATEGORIES) + 1 for column in columns)

    def start(self) -> None:
        """Make room for the measures, when the categories have been counted."""
        side, target = self.side, self.target
        if side.counted:
            of_numbers = not target.counted
            self._by_category = (
                CorrelationRatio(side.categories) if of_numbers else CramersV(side.categories, target.categories)
            )
        if not self.is_category:
            self._by_number = CorrelationRatio(target.categories) if target.counted else Pearson()

    def add(self, goals: NDArray[Any], known: NDArray[np.bool_] | None, block: pl.Series) -> None:
        """Take the next block in: the target's numbers or codes, and where it has a value if not everywhere."""
        if block.null_count():
            present = block.is_not_null().to_numpy()
            known = present if known is None else present & known
        numbers = None if self._by_number is None else self.side.numbers(block)
        codes = None if self._by_category is None else self.side.codes(block)
        if known is not None:
            goals = goals[known]
            numbers = None if numbers is None else numbers[known]
            codes = None if codes is None else codes[known]
        if not len(goals):
            return
        self.rows += len(goals)
        if self._by_category is not None and codes is not None:
            self._by_category.add(codes, goals)
        if self._by_number is not None and numbers is not None:
            self._by_number.add(goals, numbers)

    def finish(self) -> _Finding:
        """What was found; the room is given back."""
        measure = self._by_category if self._by_number is None else self._by_number
        assert measure is not None
        determined = self._by_category is not None and self._by_category.determined()
        association = Association(
            column=self.side.column.name,
            kind=self.side.column.kind,
            measure=measure.name,
            value=measure.value(),
            rows=self.rows,
            grouped=self.target.grouped or (self.is_category and self.side.grouped),
        )
        self._by_category = self._by_number = None
        return _Finding(association, determined)


class _Finding(NamedTuple):
    association: Association
    determined: bool
    """Whether the column says in every row what the target is, and is no id."""

    @property
    def strength(self) -> float:
        """For the order."""
        return -1.0 if self.association.value is None else abs(self.association.value)


def _groups(columns: Sequence[Column], target: _Side, rows: int) -> Iterator[list[_Pair]]:
    """Columns that are read together: few of many rows, and no more than there is room for tables."""
    most = max(_COLUMNS, CELLS // max(1, rows) - 1)
    group, cells = list[_Pair](), 0
    for column in columns:
        pair = _Pair(column, target)
        if group and (len(group) == most or cells + pair.table_cells > _TABLE_CELLS):
            yield group
            group, cells = [], 0
        group.append(pair)
        cells += pair.table_cells
    if group:
        yield group


def _measure(stored: StoredColumns, group: list[_Pair], stride: int) -> list[_Finding]:
    target = group[0].target
    if counted := [pair.side for pair in group if pair.side.counted]:
        for blocks in stored.blocks([side.column.name for side in counted], stride):
            for side, block in zip(counted, blocks, strict=True):
                side.count(block)
    for pair in group:
        pair.start()
    for first, *blocks in stored.blocks([target.column.name, *(pair.side.column.name for pair in group)], stride):
        goals = target.codes(first) if target.counted else target.numbers(first)
        known = first.is_not_null().to_numpy() if first.null_count() else None
        for pair, block in zip(group, blocks, strict=True):
            pair.add(goals, known, block)
    return [pair.finish() for pair in group]


def _warnings(dataset: Dataset, target: _Side, found: Sequence[_Finding], stride: int) -> Iterator[str]:
    name, missing, rows = target.column.name, target.column.missing, dataset.rows
    if missing:
        yield f"column {name}: {missing:,} of {rows:,} rows have no value; they cannot be learned from"
    if target.counted and target.column.kind != "text" and len(target.counts):
        sizes = target.counts["count"].to_list()
        yield from imbalance_caution(name, min(sizes), max(sizes), rows - missing)
    others = {column.name: column for column in dataset.columns if column.name != name}
    ids = [other for other, column in others.items() if looks_like_id(column, rows)]
    certain = [finding.association.column for finding in found if finding.determined]
    certain = [other for other in certain if other not in ids]
    if certain:
        yield f"{named(certain)} what the target is can be told from it in every row; is it known beforehand?"
    strong = [finding.association.column for finding in found if finding.strength > LEAKS]
    strong = [other for other in strong if other not in certain and not _is_too_fine(others[other], rows)]
    if strong:
        yield f"{named(strong)} associated with the target almost perfectly; is it known beforehand?"
    yield from id_caution(ids)
    if stride > 1:
        yield f"the data set is large: one block of rows in {stride:,} was looked at"


def _is_too_fine(column: Column, rows: int) -> bool:
    """Whether its categories are so many that each says what the target is in its few rows."""
    return _is_category(column) and 2 * column.distinct > rows
