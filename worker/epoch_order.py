"""In which order the training rows are read in an epoch: the same for all workers, however many there are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOW = 16
"""Blocks whose rows are mixed with each other, and so are read in turns."""
_SHUFFLE = 1  # keeps these draws apart from others made with the same seed
_LARGEST = np.iinfo(np.int32).max


def epoch_order(
    rows: int, epoch: int, seed: int, shuffle: bool, block_rows: int | None = None
) -> NDArray[np.signedinteger[Any]]:
    """A permutation of the numbers below `rows`, int32 where they fit; ascending without `shuffle`.

    With `block_rows` reading is local, for rows that lie on a disk: the rows are cut into blocks of so many that lie
    side by side, the blocks are shuffled, and then the rows within every `WINDOW` blocks that follow each other.
    """
    order: NDArray[np.signedinteger[Any]] = np.arange(rows, dtype=np.int32 if rows <= _LARGEST else np.int64)
    if not shuffle:
        return order
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_SHUFFLE, epoch)))
    if block_rows is None:
        generator.shuffle(order)
        return order
    blocks = generator.permutation(-(-rows // block_rows))
    filled = 0
    for first in range(0, len(blocks), WINDOW):
        starts = blocks[first : first + WINDOW] * block_rows
        parts = [np.arange(start, min(start + block_rows, rows), dtype=order.dtype) for start in starts]
        window = np.concatenate(parts)
        generator.shuffle(window)
        order[filled : filled + len(window)] = window
        filled += len(window)
    return order
