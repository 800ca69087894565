"""The fully connected layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from common.network.activations import ACTIVATIONS, Activation
from common.network.batch import Batch
from common.network.initializers import Initializer, Place
from common.network.layer import BoundLayer, Layer
from common.network.operations import Operation, product
from common.network.parameters import Floats


class Dense(Layer):
    """activation(x @ weights + bias); weights have shape (inputs, width), the bias (width,)."""

    def __init__(self, name: str, inputs: int, width: int, activation: str, place: Place = "hidden") -> None:
        super().__init__(name, inputs, width)
        self.activation = activation
        self._place = place

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Weights, then bias."""
        return {f"{self.name}.weights": (self.inputs, self.width), f"{self.name}.bias": (self.width,)}

    def initialize(
        self, parameters: Mapping[str, Floats], initializer: Initializer, generator: np.random.Generator
    ) -> None:
        """As the initializer has it for a layer with this activation, at this place."""
        weights, bias = (parameters[name] for name in self.shapes)
        is_rectified = ACTIVATIONS[self.activation].is_rectifier
        initializer.fill(weights, bias, generator, is_rectified=is_rectified, place=self._place)

    def bind(self, x: Floats, batch: Batch) -> BoundLayer:
        """The outputs of the last layer lie in Fortran order, as losses want them."""
        make = batch.room.by_output if self._place == "output" else batch.room.array
        return _BoundDense(self, x, make(f"{self.name}.outputs", batch.rows, self.width), batch)


class _BoundDense(BoundLayer):
    def __init__(self, layer: Dense, x: Floats, outputs: Floats, batch: Batch) -> None:
        self._name, self._kind = layer.name, layer.activation
        self._weights, bias = (batch.parameters[name] for name in layer.shapes)
        self._activation: Activation = ACTIVATIONS[layer.activation](outputs.dtype)
        self._kept, self._ones = outputs, batch.room.ones[: batch.rows]
        self._gradients: tuple[Floats, ...] = ()
        derivative = None
        if batch.gradients is not None:
            self._gradients = tuple(batch.gradients[name] for name in layer.shapes)
        if batch.has_backward and self._activation.keeps_derivative:
            self._kept = derivative = batch.array(f"{layer.name}.derivative", layer.width)
        forward: list[Operation] = [product(x, self._weights, outputs), partial(np.add, outputs, bias, outputs)]
        forward += self._activation.forward(outputs, batch.array("scratch", layer.width), derivative)
        super().__init__(x, outputs, forward)

    def units(self) -> Iterator[tuple[str, str, Floats]]:
        """The layer itself."""
        yield self._name, self._kind, self.outputs

    def backward(self, gradient: Floats, out: Floats | None) -> list[Operation]:
        """Through the activation, then to bias, inputs and weights."""
        weights, bias = self._gradients or (None, None)
        operations = self._activation.backward(self._kept, gradient, scratch=self._kept)
        if bias is not None:
            operations.append(self._to_bias(gradient, bias))
        if out is not None:
            operations.append(self._to_inputs(gradient, out))
        if weights is not None:
            operations.append(self._to_weights(gradient, weights))
        return operations

    # With d the gradient of the loss with respect to z = x @ weights + bias:

    def _to_bias(self, d: Floats, out: Floats) -> Operation:
        """The sum of d over the rows."""
        return partial(self._ones.dot, d, out)  # a fifth of the time of a sum over axis 0

    def _to_inputs(self, d: Floats, out: Floats) -> Operation:
        """D weights^T."""
        return product(d, self._weights.T, out)

    def _to_weights(self, d: Floats, out: Floats) -> Operation:
        """x^T d."""
        return product(self.x.T, d, out)
