"""The cells of blocks of CSV: as texts, or as numbers where they are written as Polars reads them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

import polars as pl

from service.ingest import ParseOptions
from service.parsing.csv_structure import Block


class CsvCells:
    """Reads blocks.

    Attributes:
        empty_is_null: whether an empty cell means a missing value.

    """

    def __init__(self, options: ParseOptions) -> None:
        self._delimiter = options.delimiter
        self._nulls = list(options.null)
        self.empty_is_null = "" in options.null

    def quick(
        self, block: Block, schema: Mapping[str, pl.DataType], places: Sequence[int] | None = None
    ) -> pl.DataFrame:
        """The cells of a plain block in the types of `schema`, of the columns at those `places` only.

        Raises:
            PolarsError, PanicException: a cell is not of its type.

        """
        return pl.read_csv(
            block.data,
            has_header=False,
            columns=places,
            separator=self._delimiter,
            schema=schema,
            null_values=self._nulls if self.empty_is_null else None,
            empty_string_is_null=self.empty_is_null,
            glob=False,
        )

    def exact(self, block: Block) -> pl.DataFrame:
        """The cells of any block as texts, missing ones too."""
        lines = (line.decode() for line in io.BytesIO(block.data))
        records = csv.reader(lines, delimiter=self._delimiter, strict=True)
        cells = zip(*(record or [""] for record in records), strict=True)
        return pl.DataFrame([pl.Series(str(place), column, pl.String) for place, column in enumerate(cells)])

    def clean(self, values: pl.Series, *, certain: bool) -> tuple[pl.Series, bool]:
        """The texts without spaces around, null where a value is missing; whether there were spaces.

        `certain` says that Polars did not look for missing values, or not in quotes.
        """
        texts = values.str.strip_chars()
        padded = texts.str.len_bytes().sum() != values.str.len_bytes().sum()
        if certain or padded or not self.empty_is_null:
            texts = texts.set(texts.is_in(self._nulls), None)
        return texts, padded
