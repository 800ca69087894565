"""Dropout, as a layer of its own."""

from __future__ import annotations

from functools import partial

import numpy as np

from common.network.batch import Batch
from common.network.layer import BoundLayer, Layer
from common.network.masks import Mask
from common.network.operations import Operation
from common.network.parameters import Floats


class Dropout(Layer):
    """x times a mask that every training step draws anew (see `DropoutMasks`); in evaluation, x itself.

    Args:
        name: of its memory.
        width: numbers per row.
        rate: the share of them set to zero.
        stream: tells its masks from those of the network's other dropouts.

    """

    def __init__(self, name: str, width: int, rate: float, stream: int) -> None:
        super().__init__(name, width, width)
        self._rate = rate
        self._stream = stream

    def bind(self, x: Floats, batch: Batch) -> BoundLayer:
        """The layer over these inputs; adds its mask to those of the batch."""
        if batch.gradients is None:
            return _BoundDropout(x, x, None)
        mask = batch.array(f"{self.name}.mask", self.width)
        batch.masks.append(Mask(self._stream, self._rate, mask))
        return _BoundDropout(x, batch.array(f"{self.name}.outputs", self.width), mask)


class _BoundDropout(BoundLayer):
    def __init__(self, x: Floats, outputs: Floats, mask: Floats | None) -> None:
        self._mask = mask
        super().__init__(x, outputs, [] if mask is None else [partial(np.multiply, x, mask, outputs)])

    def backward(self, gradient: Floats, out: Floats | None) -> list[Operation]:
        """What was dropped takes no part, and the rest as much as it was multiplied by."""
        if out is None:
            return []
        if self._mask is None:
            return [partial(np.copyto, out, gradient)]
        return [partial(np.multiply, gradient, self._mask, out)]
