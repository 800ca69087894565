"""All numbers that a network learns, as one flat vector with named views.

One vector is what a server adds, updates and stores, and what workers map into their memory; the layers see
matrices in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.floating]
"""An array of float32 (training, prediction) or float64 (checks of the arithmetic)."""

GRAIN = 1024
"""Numbers of the flat vector that are never split between servers: whole pages of memory."""


class ParameterLayout:
    """Where every named array lies in the flat vector: back to back, in the order of the names."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = dict(shapes)
        self.slices: dict[str, slice] = {}
        self.size = 0
        for name, shape in self.shapes.items():
            stop = self.size + math.prod(shape)
            self.slices[name] = slice(self.size, stop)
            self.size = stop

    def views(self, vector: Floats) -> dict[str, Floats]:
        """The named arrays inside `vector`, shape (size,): views, no copies.

        Raises ValueError when the vector has another shape or does not lie in one piece.
        """
        if vector.shape != (self.size,) or not vector.flags.c_contiguous:
            raise ValueError(
                f"a contiguous vector of shape ({self.size},) is needed, "
                f"not shape {vector.shape} with strides {vector.strides}"
            )
        return {name: vector[self.slices[name]].reshape(shape) for name, shape in self.shapes.items()}
