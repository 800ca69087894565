"""Rows of a canonical Parquet file as a network takes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from common.errors import Fault
from common.features.columns import Column
from common.features.numbers import NumberColumn
from common.features.table import Coded, StoredTable, TableColumn
from common.learned import LearnedNetwork
from common.prediction_table import table_height
from service.bulk.cells import EXPECTED, held_by, times_of
from service.bulk.reader import Encoded, missing_columns
from service.parsing.faults import refuse


class StoredReader:
    """Reads a file that is there as a whole, some rows at a time; its types must be those that the model needs."""

    def __init__(self, network: LearnedNetwork, path: Path) -> None:
        self._encoder = network.encoder
        self._table_height = table_height(network)
        self._path = path

    def all_rows(self) -> Iterator[Encoded]:
        """Every row.

        Raises:
            Invalid: the file lacks columns, or holds something else in them.

        """
        empty = self._check()
        names = [column.name for column in self._encoder.columns if column.name not in empty]
        table = StoredTable(self._path, names)
        for start in range(0, table.rows, self._table_height):
            stop = min(start + self._table_height, table.rows)
            missing: dict[str, TableColumn] = dict.fromkeys(empty, np.full(stop - start, np.nan))
            columns = self._timed(missing | table.read(names, start, stop), start)
            yield Encoded(start, self._encoder.encode(columns, None, start))

    def _check(self) -> set[str]:
        """The columns without any value, which may be of whatever type."""
        scan = pl.scan_parquet(self._path, glob=False, hive_partitioning=False)
        schema = scan.collect_schema()
        if error := missing_columns([column.name for column in self._encoder.columns], schema.names()):
            raise error
        places = {name: place for place, name in enumerate(schema.names())}
        chosen = [
            pl.nth(places[column.name]).count().alias(str(place)) for place, column in enumerate(self._encoder.columns)
        ]
        present = scan.select(chosen).collect().row(0)
        empty = {column.name for column, count in zip(self._encoder.columns, present, strict=True) if not count}
        faults = [
            Fault(f"column {column.name}", "unsuitable_column", f"{EXPECTED[held_by(column)]} in every row")
            for column in self._encoder.columns
            if column.name not in empty and not _is_taken(column, schema[column.name])
        ]
        if faults:
            raise refuse(faults)
        return empty

    def _timed(self, table: dict[str, TableColumn], first_row: int) -> dict[str, TableColumn]:
        """The table with times where texts tell them."""
        faults: list[Fault] = []
        for column in self._encoder.columns:
            values = table[column.name]
            if held_by(column) == "time" and isinstance(values, Coded):
                table[column.name] = times_of(column, values, first_row, faults)
        if faults:
            raise refuse(faults)
        return table


def _is_taken(column: Column, kind: pl.DataType) -> bool:
    """Whether a column of the model takes values of that type."""
    holds = held_by(column)
    if holds == "text" and isinstance(column, NumberColumn):  # which may be what they stand for, too
        return kind == pl.String or (kind.is_temporal() if column.kind == "datetime" else kind.is_numeric())
    if holds == "time":
        return kind == pl.String or kind.is_temporal()
    if holds == "number":
        return kind.is_numeric()
    return kind == (pl.Boolean if holds == "boolean" else pl.String)
