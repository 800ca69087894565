"""The values of a CSV file, in types that all rows allow.

Spaces around a cell do not count, neither for its kind nor as a part of a category. Numbers are written as in 12,
-0.5 or 1e-3, or -0,5 with a decimal comma, and without a mark between thousands; 007 is 7.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import polars as pl

from common.schemas.datasets import ColumnKind
from service.ingest import ParseLimits, ParseOptions
from service.parsing.canonical import sink_all
from service.parsing.csv_cells import CsvCells
from service.parsing.csv_structure import Block, CsvStructure
from service.parsing.faults import POLARS_ERRORS, refuse, unreadable
from service.parsing.kinds import TextColumn, is_beyond_exact

_MARKS = {";": "a semicolon", "\t": "a tab", "|": "a bar", ",": "a comma"}
_HEAD = 2
"""Blocks whose types are known before the first is written: without a header the first block is one row."""


class CsvTable:
    """A CSV file."""

    def __init__(self, source: Path, options: ParseOptions, limits: ParseLimits) -> None:
        self.name: str | None = None
        self._source = source
        self._options = options
        self._limits = limits
        self._cells = CsvCells(options)
        self._columns: list[TextColumn] = []
        self._rows = 0

    def write(self, partial: Path) -> int:
        """Writes its rows as canonical Parquet, and answers how many."""
        sink_all(self._frames, partial)
        return self._rows

    def warnings(self, kinds: dict[str, ColumnKind]) -> list[str]:
        """Columns that are almost of numbers or dates, and signs of another delimiter."""
        found = [warning for column in self._columns for warning in column.warnings(kinds[column.name])]
        if len(self._columns) == 1 and (marks := [mark for mark in _MARKS if mark in self._columns[0].name]):
            found.append(
                f"there is one column, whose name holds {_MARKS[marks[0]]}; is that what separates cells (delimiter)?"
            )
        return found

    def _frames(self) -> Iterator[pl.DataFrame]:
        with self._source.open("rb") as file:
            structure = CsvStructure(file, self._options, self._limits)
            blocks = structure.blocks()
            head = list(islice(blocks, _HEAD))
            self._columns = self._columns or [TextColumn(name, self._options.decimal) for name in structure.names]
            self._typed_all(head)
            yield from self._typed_all(head)  # with the kinds of both blocks
            for block in blocks:
                yield self._typed(block)
        if faults := [fault for column in self._columns for fault in column.faults()]:
            raise refuse(faults)

    def _typed_all(self, head: list[Block]) -> list[pl.DataFrame]:
        """The first blocks of a pass."""
        self._rows = 0
        for column in self._columns:
            column.begin()
        return [self._typed(block) for block in head]

    def _typed(self, block: Block) -> pl.DataFrame:
        raw, failed = self._read(block)
        before = [(column.kind, column.tidy) for column in self._columns]
        typed = []
        for place, column in enumerate(self._columns):
            values = raw.to_series(place)
            if values.dtype == pl.String:
                texts, padded = self._cells.clean(values, certain=not block.plain or block.quoted)
                column.tidy = column.tidy and not padded
                values = texts
            typed.append(column.take(values, self._rows).alias(column.name))
        if failed and before == [(column.kind, column.tidy) for column in self._columns]:  # whatever it was
            for column in self._columns:
                column.tidy = False
        self._rows += block.rows
        return pl.DataFrame(typed)

    def _read(self, block: Block) -> tuple[pl.DataFrame, bool]:
        """The cells, numbers as such where that is how a column goes on; whether that was tried in vain."""
        texts: dict[str, pl.DataType] = {str(place): pl.String() for place in range(len(self._columns))}
        schema = texts
        if not block.zeros:  # those are counted, as texts
            schema = {str(place): self._read_as(column) for place, column in enumerate(self._columns)}
        failed = False
        if block.plain:
            while True:
                try:
                    frame = self._cells.quick(block, schema)
                except POLARS_ERRORS as error:
                    if all(kind == pl.String for kind in schema.values()):
                        raise unreadable(error, "CSV") from None
                    schema, failed = texts, True
                    continue
                if frame.height != block.rows:
                    break
                floats = [name for name, kind in schema.items() if kind == pl.Float64]
                unsure = [name for name in floats if is_beyond_exact(frame[name]) or frame[name].is_nan().any()]
                if not unsure:
                    return frame, failed
                for name in unsure:  # what these lose is counted, as texts; and a padded NaN may mean a missing value
                    self._columns[int(name)].tidy = False
                schema = texts
        return self._cells.exact(block), failed

    def _read_as(self, column: TextColumn) -> pl.DataType:
        quick = column.tidy and self._cells.empty_is_null
        if quick and (column.kind == "integer" or (column.kind == "float" and self._options.decimal == ".")):
            return column.stored
        return pl.String()
