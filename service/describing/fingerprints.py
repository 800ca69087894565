"""Hashes by which rows that stand twice are counted, and columns that hold the same are found."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

_BLOCK: Final = 1 << 16
_ODD: Final = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio
_SHIFT: Final = np.uint64(32)
_WEIGHTS: Final = np.random.default_rng(0).integers(1 << 64, size=_BLOCK, dtype=np.uint64) | np.uint64(1)


class Fingerprints:
    """64 bits for each row, built up column by column in the room of one column, and 64 for each column.

    Two rows that differ are taken for the same with a chance of 2**-64: of ten million rows, that their number of
    repeated ones is wrong at all has a chance of 3 in a million.
    """

    def __init__(self, rows: int) -> None:
        self._rows = np.zeros(rows, np.uint64)

    def add(self, column: pl.Series) -> int:
        """Take the next column in; its own fingerprint, the same for columns of one type that hold the same."""
        hashes = column.hash().to_numpy()
        whole = 0
        for start in range(0, len(hashes), _BLOCK):
            block = hashes[start : start + _BLOCK]
            whole = (whole * int(_ODD) + int((block * _WEIGHTS[: len(block)]).sum())) % (1 << 64)
            rows = self._rows[start : start + _BLOCK]
            rows ^= block
            rows *= _ODD
            rows ^= rows >> _SHIFT  # the same value in another column must not do the same
        return whole

    def repeated_rows(self) -> int:
        """How many rows hold the same as an earlier one."""
        return len(self._rows) - pl.Series(self._rows).n_unique()
