"""The residual block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from common.network.batch import Batch
from common.network.initializers import Initializer
from common.network.layer import BoundLayer, Chain, Layer
from common.network.operations import Operation
from common.network.parameters import Floats


class Residual(Layer):
    """x + f(x), f being layers in a chain that is as wide at its end as at its beginning (He et al., CVPR 2016)."""

    def __init__(self, chain: Chain) -> None:
        if chain.width != chain.inputs:
            raise ValueError(f"{chain.name} gets {chain.inputs} numbers per row and gives {chain.width}")
        super().__init__(chain.name, chain.inputs, chain.width)
        self.chain = chain

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Those of the layers inside."""
        return self.chain.shapes

    def initialize(
        self, parameters: Mapping[str, Floats], initializer: Initializer, generator: np.random.Generator
    ) -> None:
        """Those of the layers inside."""
        self.chain.initialize(parameters, initializer, generator)

    def bind(self, x: Floats, batch: Batch) -> BoundLayer:
        """The block over these inputs."""
        return _BoundResidual(self, x, batch)


class _BoundResidual(BoundLayer):
    def __init__(self, layer: Residual, x: Floats, batch: Batch) -> None:
        self._chain = layer.chain.bind(x, batch)
        self._gradient = batch.array(f"{layer.name}.gradient", layer.width)
        outputs = batch.array(f"{layer.name}.outputs", layer.width)
        super().__init__(x, outputs, [*self._chain.forward, partial(np.add, x, self._chain.outputs, outputs)])

    def units(self) -> Iterator[tuple[str, str, Floats]]:
        """Those of the layers inside."""
        yield from self._chain.units()

    def backward(self, gradient: Floats, out: Floats | None) -> list[Operation]:
        """Both ways through the block pass the gradient on: it is added up where they part."""
        operations: list[Operation] = [partial(np.copyto, self._gradient, gradient)]
        operations += self._chain.backward(self._gradient, out)
        return operations if out is None else [*operations, partial(np.add, out, gradient, out)]
