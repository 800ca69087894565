"""What a layer is: a description that makes forward and backward operations, once its operands are known.

Backpropagation is the chain rule, layer by layer (Rumelhart, Hinton and Williams, Nature, 1986). A layer turns the
gradient of the loss with respect to its outputs into that with respect to its parameters, and to its inputs, which are
the outputs of the layer below.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from common.network.batch import Batch
from common.network.initializers import Initializer
from common.network.operations import Operation
from common.network.parameters import Floats


class Layer(ABC):
    """A layer's description; holds no numbers, so that any number of threads may share it.

    Args:
        name: begins the names of its parameters, and of its memory.
        inputs: numbers per row that come in.
        width: numbers per row that go out.

    """

    def __init__(self, name: str, inputs: int, width: int) -> None:
        self.name = name
        self.inputs = inputs
        self.width = width

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes of its parameters by name."""
        return {}

    def initialize(
        self, parameters: Mapping[str, Floats], initializer: Initializer, generator: np.random.Generator
    ) -> None:
        """Fill its parameters, views by name, with numbers to start from."""
        del parameters, initializer, generator  # a layer without parameters has none to fill

    @abstractmethod
    def bind(self, x: Floats, batch: Batch) -> BoundLayer:
        """The layer for inputs that will always lie in `x`, shape (rows, inputs)."""


class BoundLayer(ABC):
    """A layer whose inputs, outputs and parameters have their places in memory.

    Args:
        x: inputs, shape (rows, inputs).
        outputs: shape (rows, width).
        forward: what computes the outputs.

    """

    def __init__(self, x: Floats, outputs: Floats, forward: list[Operation]) -> None:
        self.x = x
        self.outputs = outputs
        self.forward = forward

    def units(self) -> Iterator[tuple[str, str, Floats]]:
        """Name, activation and outputs of every layer in it whose units have an activation."""
        yield from ()

    @abstractmethod
    def backward(self, gradient: Floats, out: Floats | None) -> list[Operation]:
        """What computes gradients of the summed loss, once `forward` has run.

        Given that with respect to the outputs, in `gradient`, it writes those of the layer's parameters, and that with
        respect to its inputs into `out` (None: nobody needs it). `gradient` and the layer's own memory are overwritten.
        """


class Chain(Layer):
    """Layers one after the other; raises ValueError when they do not fit each other."""

    def __init__(self, name: str, inputs: int, layers: Sequence[Layer]) -> None:
        width = inputs
        for layer in layers:
            if layer.inputs != width:
                raise ValueError(f"{layer.name} takes {layer.inputs} numbers per row, and gets {width}")
            width = layer.width
        if len({layer.name for layer in layers}) < len(layers):
            raise ValueError("two layers of one name would share their memory")
        super().__init__(name, inputs, width)
        self.layers = tuple(layers)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Those of all layers, in order."""
        return {name: shape for layer in self.layers for name, shape in layer.shapes.items()}

    def initialize(
        self, parameters: Mapping[str, Floats], initializer: Initializer, generator: np.random.Generator
    ) -> None:
        """Fill the parameters of all layers, in order."""
        for layer in self.layers:
            layer.initialize(parameters, initializer, generator)

    def bind(self, x: Floats, batch: Batch) -> BoundChain:
        """All layers, each bound to the outputs of the one below."""
        bound: list[BoundLayer] = []
        outputs = x
        for layer in self.layers:
            bound.append(layer.bind(outputs, batch))
            outputs = bound[-1].outputs
        return BoundChain(self.name, x, outputs, bound, batch)


class BoundChain(BoundLayer):
    """Bound layers one after the other."""

    def __init__(self, name: str, x: Floats, outputs: Floats, layers: Sequence[BoundLayer], batch: Batch) -> None:
        super().__init__(x, outputs, [operation for layer in layers for operation in layer.forward])
        self.layers = tuple(layers)
        self._name = name
        self._batch = batch

    def units(self) -> Iterator[tuple[str, str, Floats]]:
        """Those of all layers, in order."""
        for layer in self.layers:
            yield from layer.units()

    def backward(self, gradient: Floats, out: Floats | None) -> list[Operation]:
        """From the last layer to the first: the gradient of a layer's inputs is that of the outputs below."""
        operations: list[Operation] = []
        for i in reversed(range(len(self.layers))):
            layer = self.layers[i]
            # A layer reads one gradient and writes the next: two buffers take turns.
            below = self._batch.array(f"{self._name}gradient{i % 2}", layer.x.shape[1]) if i else out
            operations += layer.backward(gradient, below)
            gradient = below if below is not None else gradient
        return operations
