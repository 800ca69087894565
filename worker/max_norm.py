"""A limit on how long the incoming weights of a unit may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from worker.channel import Vector
from worker.task import TrainingTask


class MaxNorm:
    """Shortens the weights of each unit to a norm, where they are longer (Srivastava et al., JMLR 2014, section 5.1).

    Args:
        operations: see `of`.

    """

    def __init__(self, operations: Sequence[Callable[[], object]]) -> None:
        self._operations = tuple(operations)

    @classmethod
    def of(cls, task: TrainingTask, parameters: Vector) -> MaxNorm:
        """The limit that a task sets to `parameters`, the whole vector; nothing to do where it sets none.

        Raises ValueError where the vector is not the whole, for a unit's weights lie all over it.
        """
        largest = task.regularization.max_norm
        if largest is None:
            return cls([])
        views = task.layout.views(parameters)
        matrices = [view for name, view in views.items() if name.endswith(".weights") and "embedding" not in name]
        scratch = np.empty(max(matrix.size for matrix in matrices), parameters.dtype)
        return cls([operation for matrix in matrices for operation in _shorten(matrix, largest, scratch)])

    def apply(self) -> None:
        """Shortens what is too long; allocates nothing."""
        for operation in self._operations:
            operation()


def _shorten(matrix: Vector, largest: float, scratch: Vector) -> list[Callable[[], object]]:
    squares = scratch[: matrix.size].reshape(matrix.shape)
    factors = np.empty(matrix.shape[1], matrix.dtype)
    least, one, limit = (np.array(number, matrix.dtype) for number in (np.finfo(matrix.dtype).tiny, 1, largest))
    return [
        partial(np.multiply, matrix, matrix, squares),
        partial(np.ones(len(matrix), matrix.dtype).dot, squares, factors),
        partial(np.sqrt, factors, factors),
        partial(np.maximum, factors, least, out=factors),
        partial(np.divide, limit, factors, factors),
        partial(np.minimum, factors, one, out=factors),
        partial(np.multiply, matrix, factors, matrix),
    ]
