"""The maxout layer: a fully connected one whose units each learn their own activation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from common.network.batch import Batch
from common.network.initializers import Initializer
from common.network.layer import BoundLayer, Layer
from common.network.operations import Operation, product
from common.network.parameters import Floats


class Maxout(Layer):
    """The largest of `pieces` linear functions of x, for each unit (Goodfellow et al., ICML 2013).

    Weights have shape (inputs, pieces x width), one piece of all units after the other, the bias (pieces x width,).
    """

    def __init__(self, name: str, inputs: int, width: int, pieces: int) -> None:
        super().__init__(name, inputs, width)
        self.pieces = pieces

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Weights, then bias."""
        width = self.pieces * self.width
        return {f"{self.name}.weights": (self.inputs, width), f"{self.name}.bias": (width,)}

    def initialize(
        self, parameters: Mapping[str, Floats], initializer: Initializer, generator: np.random.Generator
    ) -> None:
        """As the initializer has it for a rectifier."""
        weights, bias = (parameters[name] for name in self.shapes)
        initializer.fill(weights, bias, generator, is_rectified=True, place="hidden")

    def bind(self, x: Floats, batch: Batch) -> BoundLayer:
        """The layer over these inputs."""
        return _BoundMaxout(self, x, batch)


class _BoundMaxout(BoundLayer):
    def __init__(self, layer: Maxout, x: Floats, batch: Batch) -> None:
        self._weights, bias = (batch.parameters[name] for name in layer.shapes)
        self._gradients = () if batch.gradients is None else tuple(batch.gradients[name] for name in layer.shapes)
        self._ones = batch.room.ones[: batch.rows]
        self._z = batch.array(f"{layer.name}.pieces", layer.pieces * layer.width)
        self._pieces = [self._z[:, i * layer.width : (i + 1) * layer.width] for i in range(layer.pieces)]
        self._taken = batch.array("scratch", layer.width)
        outputs = batch.array(f"{layer.name}.outputs", layer.width)
        forward: list[Operation] = [
            product(x, self._weights, self._z),
            partial(np.add, self._z, bias, self._z),
            partial(np.maximum, self._pieces[0], self._pieces[1], out=outputs),
            *(partial(np.maximum, outputs, piece, out=outputs) for piece in self._pieces[2:]),
        ]
        super().__init__(x, outputs, forward)

    def backward(self, gradient: Floats, out: Floats | None) -> list[Operation]:
        """Each unit's gradient goes to the piece that was the largest, the first of equal ones, and no other."""
        weights, bias = self._gradients or (None, None)
        operations: list[Operation] = []
        for piece in self._pieces:
            operations += [
                partial(np.equal, piece, self.outputs, self._taken),
                partial(np.multiply, gradient, self._taken, piece),
                partial(np.subtract, gradient, piece, gradient),  # what is taken is left to no other
            ]
        if bias is not None:
            operations.append(partial(self._ones.dot, self._z, bias))
        if out is not None:
            operations.append(product(self._z, self._weights.T, out))
        if weights is not None:
            operations.append(product(self.x.T, self._z, weights))
        return operations
