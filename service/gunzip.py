"""Bodies that come compressed by gzip, expanded as they come."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from common.errors import Invalid, TooLarge

_PIECE: Final = 1 << 20
"""Most bytes that are expanded at once: a chunk of zeros may hold a thousand times its size."""
_GZIP: Final = 31


class Gunzip:
    """Expands one body, of one gzip member or several, piece by piece.

    Args:
        limit: most bytes that it may expand to.

    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._member = zlib.decompressobj(_GZIP)
        self.began = False

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What more of the body expands to.

        Raises:
            Invalid: it is damaged, or something else follows (`malformed_gzip`).
            TooLarge: there is more of it than is allowed.

        """
        self.began = True
        while data:
            if self._member.eof:
                self._member = zlib.decompressobj(_GZIP)
            try:
                piece = self._member.decompress(data, _PIECE)
            except zlib.error:
                raise _malformed("is damaged, or something follows its end") from None
            self._size += len(piece)
            if self._size > self._limit:
                raise TooLarge(f"The body expands to more than the {self._limit} bytes allowed here.")
            if piece:
                yield piece
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail

    def end(self) -> None:
        """To be called when all has come.

        Raises:
            Invalid: the end is missing (`malformed_gzip`).

        """
        if not self._member.eof:
            raise _malformed("ends too early")


def _malformed(what: str) -> Invalid:
    return Invalid(f"The compressed body {what}.", code="malformed_gzip")
