"""Predictions as a Parquet file, whose end tells where its parts are: it can only go out when all is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import polars as pl

from common.errors import StorageFull, TooLarge, lacks_disk
from service.parsing.canonical import sink
from service.parsing.faults import POLARS_ERRORS

_PART: Final = 64 << 20
"""Bytes in memory that make a file of their own."""
_CHUNK: Final = 1 << 20


class ParquetWriter:
    """Keeps rows in files on disk, and joins them in the end."""

    def __init__(self, place: Callable[[], Path], limit: int) -> None:
        self._place = place
        self._limit = limit
        self._frames: list[pl.DataFrame] = []
        self._size = 0
        self._parts: list[Path] = []
        self._written = 0

    def rows(self, frame: pl.DataFrame) -> bytes:
        """Keeps some rows.

        Raises:
            StorageFull: the disk has no room.
            TooLarge: there are more bytes of them than may be kept.

        """
        self._frames.append(frame)
        self._size += int(frame.estimated_size())
        if self._size >= _PART:
            self._write(pl.concat(self._frames).lazy())
            self._frames, self._size = [], 0
        return b""

    def end(self) -> Iterator[bytes]:
        """The whole file."""
        if self._parts:
            if self._frames:
                self._write(pl.concat(self._frames).lazy())
            self._write(pl.scan_parquet(self._parts, glob=False, hive_partitioning=False))
        else:
            self._write(pl.concat(self._frames).lazy())
        with self._parts[-1].open("rb") as file:
            self.close()
            while chunk := file.read(_CHUNK):
                yield chunk

    def failure(self, _: bytes) -> bytes:
        """Nothing: the answer begins when all has gone well."""
        return b""

    def close(self) -> None:
        """Removes the files."""
        for part in self._parts:
            part.unlink(missing_ok=True)
        self._parts = []

    def _write(self, frame: pl.LazyFrame) -> None:
        path = self._place()
        self._parts.append(path)
        try:
            sink(frame, path)
        except (OSError, *POLARS_ERRORS) as error:
            if lacks_disk(error):
                raise StorageFull("There is no room left to keep the answer.") from None
            raise
        self._written += path.stat().st_size
        if self._written > self._limit:
            raise TooLarge(f"The answer is larger than the {self._limit} bytes allowed here.")
