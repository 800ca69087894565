"""A data set on its way in: streamed to a file, read in a child process, published."""

from __future__ import annotations

import asyncio
import errno
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import polars as pl
from starlette.concurrency import run_in_threadpool

from common.errors import (
    CorruptRecord,
    FilesUnavailable,
    Invalid,
    NotFound,
    Stalled,
    StorageFull,
    StoreUnavailable,
)
from common.identifiers import new_id
from common.schemas.datasets import DataFormat, Dataset
from common.settings import Settings
from common.store.datasets import Created
from common.store.stores import Stores
from service.gunzip import Gunzip
from service.ingest import Parsed, ParseLimits, ParseOptions, parse_in_child

_PARSERS = asyncio.Semaphore(2)
"""So many uploads are read at once; others wait their turn, already on disk."""


_READING = 1
"""To be raised when files come to be understood in another way: what was read before is then not shared any more."""

_SAME = "the same bytes as"

_STALL_SECONDS = 60.0
"""How long a caller may send nothing before its upload is given up."""


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes that have come in whole."""

    path: Path
    size: int
    sha256: str


async def receive(chunks: AsyncIterator[bytes], path: Path, expanded: Gunzip | None = None) -> Received:
    """Streams a body to a file, in constant memory, expanded if it is compressed; on any error nothing is left of it.

    Raises:
        StorageFull: the disk has no room.
        Invalid: there was no body, or it is not compressed as it says (`malformed_gzip`).
        TooLarge: it expands to more than is allowed.

    """
    sink = _Sink()
    try:
        with path.open("xb") as file:
            while chunk := await asyncio.wait_for(anext(chunks, b""), _STALL_SECONDS):
                pieces = expanded.pieces(chunk) if expanded else (chunk,)
                await run_in_threadpool(sink.write, file, pieces)
            if expanded and expanded.began:
                expanded.end()
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, TimeoutError):
            raise Stalled(f"Nothing came for {_STALL_SECONDS:.0f} seconds; the upload was given up.") from error
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise StoreUnavailable("Too many uploads are open.", hint="Try again in a few seconds.") from error
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageFull(
                "The disk of the data sets has no room left.", hint="Delete data sets or free some space."
            ) from error
        raise
    if sink.size == 0:
        path.unlink()
        raise Invalid("The body is empty; a file was expected.", code="empty_body")
    return Received(path, sink.size, sink.checksum.hexdigest())


class _Sink:
    """Counts and sums up what is written."""

    def __init__(self) -> None:
        self.checksum = hashlib.sha256()
        self.size = 0

    def write(self, file: BinaryIO, pieces: Iterable[bytes]) -> None:
        """Writes them all."""
        for piece in pieces:
            self.checksum.update(piece)
            self.size += len(piece)
            file.write(piece)


async def publish(
    stores: Stores,
    settings: Settings,
    received: Received,
    options: ParseOptions,
    *,
    name: str,
    now: Callable[[], datetime],
    idempotency_key: str | None,
) -> Created:
    """Reads what has come in and makes it a data set; the upload itself is removed in any case.

    Bytes that were read with the same options before are not read again: both data sets share the file of their rows.

    Raises:
        Invalid: it is no file of that format, or its Idempotency-Key was used for another.
        Unreadable: it is no JSON, where that was sent.
        TooLarge: it has more cells than allowed.
        StorageFull: there is no room for its rows.
        FilesUnavailable: an object store does not take them.

    """
    dataset_id = new_id("ds")
    destination = stores.files.dataset(dataset_id)
    limits = ParseLimits(
        max_columns=settings.max_columns,
        max_cells=settings.max_cells,
        memory_bytes=settings.parser_memory_bytes,
        cpu_seconds=settings.parser_seconds,
        wall_seconds=settings.parser_seconds,
    )
    content = hashlib.sha256(f"{_READING}\0{options.model_dump_json()}\0{received.sha256}".encode()).hexdigest()
    try:
        parsed = await run_in_threadpool(_share, stores, content, options, destination)
        if parsed is None:
            async with _PARSERS:
                parsed = await run_in_threadpool(parse_in_child, received.path, destination, options, limits)
        name = parsed.name or name
        await run_in_threadpool(stores.files.keep_dataset, dataset_id)
        dataset = _describe(dataset_id, name, options.format, received, parsed, now())
        digest = hashlib.sha256(f"{name}\0{options.model_dump_json()}\0{received.sha256}".encode()).hexdigest()
        created = await run_in_threadpool(
            stores.datasets.create, dataset, idempotency_key=idempotency_key, digest=digest, content=content
        )
    except BaseException:
        with suppress(FilesUnavailable):
            await run_in_threadpool(stores.files.discard_dataset, dataset_id)
        raise
    finally:
        received.path.unlink(missing_ok=True)
    if created.id != dataset_id:  # an earlier request with the same key made it
        await run_in_threadpool(stores.files.discard_dataset, dataset_id)
    return created


def _share(stores: Stores, content: str, options: ParseOptions, destination: Path) -> Parsed | None:
    """Makes `destination` another name of the rows of a data set that was made of the same; None if there is none."""
    earlier = stores.datasets.of_content(content)
    if earlier is None or options.format == "rows":  # a name may stand in it, which only a reader finds
        return None
    try:
        with stores.files.rows(earlier.id) as rows:
            destination.hardlink_to(rows)
        if not _has_rows(destination, earlier.rows):
            destination.unlink()
            return None
    except (OSError, NotFound, CorruptRecord, FilesUnavailable):  # gone by now, or a file system without links
        return None
    note = f"{_SAME} version {earlier.version} ({earlier.id}), whose rows are shared"
    warnings = (*(warning for warning in earlier.warnings if not warning.startswith(_SAME)), note)
    return Parsed(rows=earlier.rows, columns=earlier.columns, warnings=warnings)


def _has_rows(file: Path, rows: int) -> bool:
    """Whether a file has kept its footer."""
    try:
        found: int = pl.scan_parquet(file, glob=False, hive_partitioning=False).select(pl.len()).collect().item()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return False
    return found == rows


def _describe(
    dataset_id: str,
    name: str,
    data_format: DataFormat,
    received: Received,
    parsed: Parsed,
    created_at: datetime,
) -> Dataset:
    return Dataset(
        id=dataset_id,
        name=name,
        version=1,  # the store gives the real one
        format=data_format,
        bytes=received.size,
        sha256=received.sha256,
        rows=parsed.rows,
        columns=parsed.columns,
        warnings=parsed.warnings,
        created_at=created_at,
    )
