"""All numbers that a network learns, as one flat vector with named views.

One vector is what a server adds, updates and stores, and what workers map into their memory; the layers see
matrices in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from common.schemas.training import NetworkShape

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


def network_layout(shape: NetworkShape, inputs: int, outputs: int) -> ParameterLayout:
    """`layer{i}.weights`, shape (inputs, units), and `layer{i}.bias`, shape (units,), layer by layer."""
    widths = (inputs, *(layer.units for layer in shape.layers), outputs)
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (width_in, units) in enumerate(pairwise(widths)):
        shapes[f"layer{i}.weights"] = (width_in, units)
        shapes[f"layer{i}.bias"] = (units,)
    return ParameterLayout(shapes)


def parameter_count(shape: NetworkShape, inputs: int, outputs: int) -> int:
    """How many numbers the network learns; allocates none of them."""
    return network_layout(shape, inputs, outputs).size
