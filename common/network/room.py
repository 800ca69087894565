"""The memory of a network: allocated once for the most rows, handed out as views of the first ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from common.network.parameters import Floats


class Room:
    """Arrays by name, each with space for `max_rows` rows of the dtype.

    Whoever asks twice for a name gets the same memory: so batches of different sizes share their buffers, and so do
    layers whose values nobody needs at the same time.
    """

    def __init__(self, max_rows: int, dtype: DTypeLike) -> None:
        self.max_rows = max_rows
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.ones = np.ones(max_rows, self.dtype)
        self._arrays: dict[str, NDArray[Any]] = {}

    def array(self, name: str, rows: int, width: int, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """Shape (rows, width), in C order; its numbers are those that the name last held."""
        return self._numbers(name, rows, width, dtype).reshape(rows, width)

    def by_output(self, name: str, rows: int, width: int) -> Floats:
        """The same in Fortran order: one output of all rows after the other."""
        return self._numbers(name, rows, width, None).reshape(width, rows).T

    def _numbers(self, name: str, rows: int, width: int, dtype: DTypeLike | None) -> NDArray[Any]:
        held = self._arrays.get(name)
        if held is None or held.size < self.max_rows * width:
            held = self._arrays[name] = np.empty(self.max_rows * width, self.dtype if dtype is None else dtype)
        return held[: rows * width]
