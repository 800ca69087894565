"""The columns of a canonical Parquet file, one after the other or block by block, so that a few copies of one fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import polars as pl

CELLS: Final = 1 << 21
"""That are read together where they are more than one column."""


class StoredColumns:
    """Reads a file whose rows and names it knows; columns come as series called "value", missing values as nulls."""

    def __init__(self, path: Path) -> None:
        self._file = pl.scan_parquet(path, glob=False, hive_partitioning=False)  # keeps what the file's end says
        self.names = self._file.collect_schema().names()
        self.rows = int(self._file.select(pl.len()).collect().item())

    def each(self) -> Iterator[tuple[str, pl.Series]]:
        """All columns in turn; those that stand side by side are read together as long as they are few cells."""
        together = max(1, CELLS // max(1, self.rows))
        for first in range(0, len(self.names), together):
            names = self.names[first : first + together]
            columns = self._read(names).get_columns()[::-1]
            for name in names:
                yield name, columns.pop().alias("value")  # Polars takes some names for patterns

    def blocks(self, names: Sequence[str], stride: int = 1) -> Iterator[list[pl.Series]]:
        """Some columns, a block of rows at a time, and only each `stride`-th block."""
        height = max(1, CELLS // len(names))
        for start in range(0, self.rows, height * stride):
            yield [column.alias("value") for column in self._read(names, start, height).iter_columns()]

    def _read(self, names: Sequence[str], start: int = 0, height: int | None = None) -> pl.DataFrame:
        chosen = self._file.select(pl.selectors.by_name(*names))  # a name alone may be read as a pattern
        if height is not None:
            chosen = chosen.slice(start, height)
        return chosen.collect()
