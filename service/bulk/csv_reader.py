"""Rows of CSV as a network takes them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from common.errors import Fault
from common.features.table import TableColumn
from common.learned import LearnedNetwork
from common.prediction_table import table_height
from service.bulk.cells import held_by, read_numbers, read_texts
from service.bulk.reader import Encoded, missing_columns
from service.ingest import ParseLimits, ParseOptions
from service.parsing.csv_cells import CsvCells
from service.parsing.csv_stream import CsvStream
from service.parsing.csv_structure import Block
from service.parsing.faults import MAX_FAULTS, POLARS_ERRORS, refuse, unreadable


class CsvReader:
    """Reads a CSV file for a network.

    Columns are found by the names of the header; without one they are those of the model, in its order.
    """

    def __init__(self, network: LearnedNetwork, options: ParseOptions, limits: ParseLimits) -> None:
        self._encoder = network.encoder
        self._table_height = table_height(network)
        self._options = options
        self._stream = CsvStream(options, limits)
        self._cells = CsvCells(options)
        self._places: list[int] = []
        """Where the file has each column of the model."""
        self._quick = self._cells.empty_is_null and options.decimal == "."
        """Whether numbers were written so far as Polars' own reader of CSV takes them."""
        self._rows = 0

    def take(self, data: bytes, *, at_end: bool) -> Iterator[Encoded]:
        """The rows that end in what has come so far; see `Reader`."""
        for block in self._stream.take(data, at_end=at_end):
            frame, certain = self._read(block)
            for start in range(0, frame.height, self._table_height):
                rows = frame.slice(start, self._table_height)
                table = self._table(rows, certain=certain)
                yield Encoded(self._rows, self._encoder.encode(table, None, self._rows))
                self._rows += rows.height

    def _find_columns(self) -> None:
        """Finds the columns of the model among those of the file, which are known by now.

        Raises:
            Invalid: there are others.

        """
        wanted, found = [column.name for column in self._encoder.columns], self._stream.names
        if not self._options.header:
            if len(found) != len(wanted):
                message = f"expected {len(wanted)} cells, one for each input; got {len(found)}"
                raise refuse([Fault("row 1", "wrong_length", message)])
            self._places = list(range(len(wanted)))
            return
        doubtful = len(found) == 1 and len(wanted) > 1
        if error := missing_columns(wanted, found, "; is the delimiter another one?" if doubtful else ""):
            raise error
        places = {name: place for place, name in enumerate(found)}
        self._places = [places[name] for name in wanted]

    def _read(self, block: Block) -> tuple[pl.DataFrame, bool]:
        """The cells of the model's columns, in its order: numbers as such where that is quick, else texts.

        And whether missing values are still to be looked for among these.
        """
        if not self._places:
            self._find_columns()
        if block.plain:
            try:
                frame = self._plain(block)
            except POLARS_ERRORS as error:
                if not self._quick:
                    raise unreadable(error, "CSV") from None
                frame = None
            if self._quick and (frame is None or not _is_finite(frame)):  # which texts tell more exactly
                self._quick = False
                return self._read(block)
            if frame is not None and frame.height == block.rows:
                return frame, block.quoted
        return self._cells.exact(block).select(pl.nth(self._places)), True

    def _plain(self, block: Block) -> pl.DataFrame:
        numbers = {
            place
            for place, column in zip(self._places, self._encoder.columns, strict=True)
            if self._quick and held_by(column) == "number"
        }
        schema = {
            str(place): pl.Float64() if place in numbers else pl.String() for place in range(len(self._stream.names))
        }
        frame = self._cells.quick(block, schema, sorted(self._places))
        return frame.select(str(place) for place in self._places)

    def _table(self, rows: pl.DataFrame, *, certain: bool) -> dict[str, TableColumn]:
        faults: list[Fault] = []
        table: dict[str, TableColumn] = {}
        for column, cells in zip(self._encoder.columns, rows, strict=True):
            if cells.dtype == pl.String:
                texts, _ = self._cells.clean(cells, certain=certain)
                table[column.name] = read_texts(column, texts, self._rows, self._options.decimal, faults)
            else:
                table[column.name] = read_numbers(column, cells, cells, self._rows, faults)
            if len(faults) >= MAX_FAULTS:
                break
        if faults:
            raise refuse(faults)
        return table


def _is_finite(frame: pl.DataFrame) -> bool:
    """Whether all numbers are: " NaN" may be one to Polars, and a missing value here."""
    numbers = [cells for cells in frame if cells.dtype == pl.Float64]
    return all(
        bool(cells.is_finite().all()) if cells.null_count() else bool(np.isfinite(cells.to_numpy()).all())
        for cells in numbers
    )
