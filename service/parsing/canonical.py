"""The canonical Parquet file that every form of data ends up in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import polars as pl
from polars.io.plugins import register_io_source

from common.errors import StorageFull, lacks_disk
from common.schemas.datasets import ColumnKind
from service.ingest import partial_path
from service.parsing.faults import POLARS_ERRORS


class Table(Protocol):
    """A file that can be read.

    Attributes:
        name: of the data set, where the file tells it.

    """

    name: str | None

    def write(self, partial: Path) -> int:
        """Writes its rows to `partial` as canonical Parquet and answers how many; raises when it is wrong."""

    def warnings(self, kinds: dict[str, ColumnKind]) -> list[str]:
        """What its sender should know of; `kinds` are those that its columns were found to be of."""


@contextmanager
def whole_file(destination: Path) -> Iterator[Path]:
    """Gives the place to write to; what was written stands at `destination` when, and only when, all went well.

    Raises:
        StorageFull: the disk has no room.

    """
    partial = partial_path(destination)
    try:
        yield partial
        partial.replace(destination)
    except (OSError, *POLARS_ERRORS) as error:
        partial.unlink(missing_ok=True)
        if lacks_disk(error):
            raise StorageFull("there is no room left to store the data set") from None
        raise
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sink(frame: pl.LazyFrame, partial: Path) -> None:
    """Writes rows in the form that is stored, a batch at a time."""
    frame.sink_parquet(partial, compression="zstd")


def sink_all(frames: Callable[[], Iterator[pl.DataFrame]], partial: Path) -> None:
    """Writes what `frames` yields, a batch at a time.

    It may find out late that a column holds something else than it seemed, and go on with another schema. All is then
    read to its end and, with what is known by then, once more.
    """
    if not _sink_once(frames(), partial) and not _sink_once(frames(), partial):
        raise AssertionError("a second reading has changed the schema")


def _sink_once(frames: Iterator[pl.DataFrame], partial: Path) -> bool:
    """Whether all frames had one schema; if not, what was written is of no use."""
    first = next(frames, None)
    if first is None:
        return True
    failures: list[BaseException] = []
    same = True

    def batches(*_: object) -> Iterator[pl.DataFrame]:
        nonlocal same
        try:
            yield first
            for frame in frames:
                same = same and frame.schema == first.schema
                if same:
                    yield frame
        except GeneratorExit:
            raise
        except BaseException as error:  # Polars would make another of it
            failures.append(error)

    sink(register_io_source(batches, schema=first.schema), partial)
    if failures:
        raise failures[0]
    return same
