"""A data set on its way in: streamed to a file, read in a child process, published."""

from __future__ import annotations

import asyncio
import errno
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from common.errors import Invalid, Stalled, StorageFull, StoreUnavailable
from common.identifiers import new_id
from common.schemas.datasets import DataFormat, Dataset
from common.settings import Settings
from common.store.datasets import Created
from common.store.stores import Stores
from service.ingest import Parsed, ParseLimits, ParseOptions, parse_in_child

_PARSERS = asyncio.Semaphore(2)
"""So many uploads are read at once; others wait their turn, already on disk."""


_STALL_SECONDS = 60.0
"""How long a caller may send nothing before its upload is given up."""


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes that have come in whole."""

    path: Path
    size: int
    sha256: str


async def receive(chunks: AsyncIterator[bytes], path: Path) -> Received:
    """Streams a body to a file, in constant memory; on any error nothing is left of it.

    Raises:
        StorageFull: the disk has no room.
        Invalid: there was no body.

    """
    checksum, size = hashlib.sha256(), 0
    try:
        with path.open("xb") as file:
            while chunk := await asyncio.wait_for(anext(chunks, b""), _STALL_SECONDS):
                checksum.update(chunk)
                size += len(chunk)
                await run_in_threadpool(file.write, chunk)
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
    if size == 0:
        path.unlink()
        raise Invalid("The body is empty; a file was expected.", code="empty_body")
    return Received(path, size, checksum.hexdigest())


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

    Raises:
        Invalid: it is no file of that format, or its Idempotency-Key was used for another.
        TooLarge: it has more cells than allowed.
        StorageFull: there is no room for its rows.

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
    try:
        async with _PARSERS:
            parsed = await run_in_threadpool(parse_in_child, received.path, destination, options, limits)
        dataset = _describe(dataset_id, name, options.format, received, parsed, now())
        digest = hashlib.sha256(f"{name}\0{options.model_dump_json()}\0{received.sha256}".encode()).hexdigest()
        created = await run_in_threadpool(
            stores.datasets.create, dataset, idempotency_key=idempotency_key, digest=digest
        )
    except BaseException:
        destination.unlink(missing_ok=True)
        raise
    finally:
        received.path.unlink(missing_ok=True)
    if created.id != dataset_id:  # an earlier request with the same key made it
        destination.unlink(missing_ok=True)
    return created


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
