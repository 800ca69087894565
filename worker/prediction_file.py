"""Predictions on their way into a file, in room that does not grow with them."""

from __future__ import annotations

from pathlib import Path

import polars as pl


class PredictionFile:
    """Takes frames one after the other and makes one canonical Parquet file of them.

    Args:
        folder: an empty one.
        height: most rows that are held in memory, and in a row group.

    """

    def __init__(self, folder: Path, height: int) -> None:
        self.height = height
        self._folder = folder
        self._parts: list[Path] = []
        self._waiting: list[pl.DataFrame] = []

    def add(self, frame: pl.DataFrame) -> None:
        """Takes the next rows, `height` at most."""
        if sum(map(len, self._waiting)) + len(frame) > self.height:
            self._write_part()
        self._waiting.append(frame.cast({pl.Float32: pl.Float64}))  # as numbers are kept in all data sets

    def finish(self) -> Path:
        """The file with all rows, at least one, in their order."""
        self._write_part()
        whole = self._folder / "whole.parquet"
        parts = pl.scan_parquet(self._parts, glob=False, hive_partitioning=False)
        parts.sink_parquet(whole, compression="zstd", row_group_size=self.height)
        return whole

    def _write_part(self) -> None:
        part = self._folder / f"{len(self._parts)}.part"
        pl.concat(self._waiting).write_parquet(part, compression="lz4")
        self._parts.append(part)
        self._waiting = []
