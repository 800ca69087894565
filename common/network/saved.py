"""Weights as bytes: the flat vector as little-endian float32. Whoever stores them adds a checksum."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.errors import CorruptRecord
from common.network.parameters import Floats


def weights_to_bytes(vector: Floats) -> bytes:
    """The saved form of a flat parameter vector; rounds to float32."""
    return vector.astype("<f4").tobytes()


def weights_from_bytes(saved: bytes, size: int) -> NDArray[np.float32]:
    """The flat vector of `size` parameters, read-only.

    Raises CorruptRecord when the bytes are not `size` numbers, or one of them is not finite.
    """
    if len(saved) != 4 * size:
        raise CorruptRecord(f"saved weights of {size} parameters take {4 * size} bytes, not {len(saved)}")
    stored = np.frombuffer(saved, "<f4")
    if not np.isfinite(stored).all():
        raise CorruptRecord("saved weights hold a number that is not finite")
    vector = stored.astype(np.float32, copy=False)
    vector.flags.writeable = False
    return vector
