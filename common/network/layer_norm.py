"""Layer normalization."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from common.network.batch import Batch
from common.network.initializers import Initializer
from common.network.layer import BoundLayer, Layer
from common.network.operations import Operation
from common.network.parameters import Floats

EPSILON = 1e-5


class LayerNorm(Layer):
    """gain (x - mean) / sqrt(variance + 1e-5) + shift, mean and variance taken over each row.

    Ba, Kiros and Hinton (2016), equation 4. Gain and shift have shape (width,), and begin as 1 and 0.
    """

    def __init__(self, name: str, width: int) -> None:
        super().__init__(name, width, width)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Gain, then shift."""
        return {f"{self.name}.gain": (self.width,), f"{self.name}.shift": (self.width,)}

    def initialize(
        self,
        parameters: Mapping[str, Floats],
        initializer: Initializer,  # noqa: ARG002
        generator: np.random.Generator,  # noqa: ARG002
    ) -> None:
        """Nothing is drawn: the layer begins as plain normalization."""
        gain, shift = (parameters[name] for name in self.shapes)
        gain.fill(1)
        shift.fill(0)

    def bind(self, x: Floats, batch: Batch) -> BoundLayer:
        """The layer over these inputs."""
        return _BoundLayerNorm(self, x, batch)


class _BoundLayerNorm(BoundLayer):
    def __init__(self, layer: LayerNorm, x: Floats, batch: Batch) -> None:
        self._gain, shift = (batch.parameters[name] for name in layer.shapes)
        self._gradients = () if batch.gradients is None else tuple(batch.gradients[name] for name in layer.shapes)
        self._ones = batch.room.ones[: batch.rows]
        self._average = np.full(layer.width, 1 / layer.width, x.dtype)
        self._normal = batch.array(f"{layer.name}.normal", layer.width)
        self._scratch = batch.array("scratch", layer.width)
        self._inverse = batch.array(f"{layer.name}.inverse_deviation", 1)
        self._mean = batch.array("row", 1)
        outputs = batch.array(f"{layer.name}.outputs", layer.width)
        inverse, mean = self._inverse[:, 0], self._mean[:, 0]
        forward: list[Operation] = [
            partial(x.dot, self._average, mean),
            partial(np.subtract, x, self._mean, self._normal),
            partial(np.multiply, self._normal, self._normal, self._scratch),
            partial(self._scratch.dot, self._average, inverse),
            partial(np.add, inverse, np.array(EPSILON, x.dtype), inverse),
            partial(np.sqrt, inverse, inverse),
            partial(np.reciprocal, inverse, inverse),
            partial(np.multiply, self._normal, self._inverse, self._normal),
            partial(np.multiply, self._normal, self._gain, outputs),
            partial(np.add, outputs, shift, outputs),
        ]
        super().__init__(x, outputs, forward)

    def backward(self, gradient: Floats, out: Floats | None) -> list[Operation]:
        """With n the normalized inputs and d = gradient gain: (d - mean(d) - n mean(d n)) / deviation."""
        mean = self._mean[:, 0]
        operations: list[Operation] = []
        if self._gradients:
            gain, shift = self._gradients
            operations += [
                partial(self._ones.dot, gradient, shift),
                partial(np.multiply, gradient, self._normal, self._scratch),
                partial(self._ones.dot, self._scratch, gain),
            ]
        if out is None:
            return operations
        return [
            *operations,
            partial(np.multiply, gradient, self._gain, gradient),
            partial(np.multiply, gradient, self._normal, self._scratch),
            partial(self._scratch.dot, self._average, mean),
            partial(np.multiply, self._normal, self._mean, out),
            partial(gradient.dot, self._average, mean),
            partial(np.add, out, self._mean, out),
            partial(np.subtract, gradient, out, out),
            partial(np.multiply, out, self._inverse, out),
        ]
