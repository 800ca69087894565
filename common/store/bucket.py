"""A bucket that speaks S3: how long it is waited for, and what its errors mean here.

Credentials, region and endpoint come from the usual AWS_* variables of each process.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from common.errors import FilesUnavailable

log = logging.getLogger("chainrule.store")

_CHUNK_BYTES = 8 << 20
_UPLOADS_AT_ONCE = 4
"""Parts of one file on their way: with their size, what an upload takes of memory."""
_CONNECT = timedelta(seconds=3)
_WHOLE = timedelta(hours=1)
"""For one request: a large file may take its time as long as something of it comes."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object that is being read."""

    size: int
    media_type: str | None
    sha256: str | None
    """What was noted of it when it was written by `put`."""
    chunks: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class Bucket:
    """Objects by their keys below a prefix. Can be sent to another process, which connects by itself.

    Args:
        url: s3://bucket or s3://bucket/prefix.
        patience: seconds for which a request is repeated, and for which silence is borne.

    """

    url: str
    patience: float

    def put(self, key: str, content: bytes | Path, sha256: str) -> None:
        """Writes an object, which is there whole or not at all.

        Raises:
            FilesUnavailable: it was not taken.

        """
        with _explained():
            obstore.put(
                self._store,
                key,
                content,
                attributes={"sha256": sha256},
                chunk_size=_CHUNK_BYTES,
                max_concurrency=_UPLOADS_AT_ONCE,
            )

    def get(self, key: str) -> Found:
        """An object from its beginning.

        Raises:
            FileNotFoundError: there is none.
            FilesUnavailable: the bucket does not answer, now or while the chunks are read.

        """
        with _explained():
            found = obstore.get(self._store, key)
            attributes = found.attributes
            stream = iter(found.stream(min_chunk_size=_CHUNK_BYTES))

        def chunks() -> Iterator[bytes]:
            while True:
                with _explained():
                    chunk = next(stream, None)
                if chunk is None:
                    return
                yield bytes(chunk)

        return Found(found.meta["size"], attributes.get("Content-Type"), attributes.get("sha256"), chunks())

    def delete(self, key: str) -> None:
        """Removes an object, if there is one."""
        with _explained():
            try:
                obstore.delete(self._store, key)
            except FileNotFoundError:
                return

    def names(self, folder: str) -> list[str]:
        """The names of the objects in a folder."""
        with _explained():
            found = obstore.list_with_delimiter(self._store, folder)["objects"]
            return [meta["path"].rpartition("/")[2] for meta in found]

    def folders(self, folder: str) -> list[str]:
        """The names of the folders in a folder."""
        with _explained():
            found = obstore.list_with_delimiter(self._store, folder)["common_prefixes"]
            return [path.rstrip("/").rpartition("/")[2] for path in found]

    @property
    def _store(self) -> S3Store:
        return _connect(self.url, self.patience)


@lru_cache(maxsize=64)
def _connect(url: str, patience: float) -> S3Store:
    where = urlsplit(url)
    limit = timedelta(seconds=patience)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    with _explained():
        return S3Store(
            where.netloc,
            prefix=where.path.strip("/") or None,
            client_options={
                "allow_http": endpoint.startswith("http://"),  # as the operator wrote it
                "connect_timeout": min(_CONNECT, limit),
                "read_timeout": limit,
                "timeout": _WHOLE,
            },
            retry_config={
                "max_retries": 100,
                "retry_timeout": limit,
                "backoff": {
                    "init_backoff": timedelta(milliseconds=100),
                    "max_backoff": timedelta(seconds=2),
                    "base": 2,
                },
            },
        )


@contextmanager
def _explained() -> Iterator[None]:
    """Errors of the client as this product's; what the server said goes to the log, never to a caller."""
    try:
        yield
    except BaseError as error:
        log.warning("the object store: %s", str(error).partition("\n")[0][:500])
        raise FilesUnavailable(
            "The object store of the data sets is out of reach, or refuses.", hint="Try again in a few seconds."
        ) from error
