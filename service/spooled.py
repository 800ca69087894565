"""A large answer: it waits on disk, not in memory, while its caller takes it as slowly as it likes."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from fastapi.responses import StreamingResponse

from common.errors import StorageFull

_PIECE_BYTES = 2**20


def spooled(content: bytes, folder: Path, media_type: str, headers: Mapping[str, str]) -> StreamingResponse:
    """An answer with that content, which lies in a file without a name until it is sent or given up.

    Raises:
        StorageFull: the disk has no room for it.

    """
    file = TemporaryFile(dir=folder)  # noqa: SIM115 # `_pieces` closes it
    try:
        file.write(content)
        file.seek(0)
    except OSError as error:
        file.close()
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageFull("The disk of the data sets has no room left.") from error
        raise
    length = {"Content-Length": str(len(content))}
    return StreamingResponse(_pieces(file), headers={**headers, **length}, media_type=media_type)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(_PIECE_BYTES):
            yield piece
