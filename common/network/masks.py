"""Dropout masks that do not depend on how rows are spread over workers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.network.parameters import Floats

_STREAM = 0x64726F70
"""Keeps these random numbers apart from others that are drawn from the same seed."""


@dataclass(slots=True)
class _LayerStream:
    """The random numbers of one layer: where the generator stands, and room to draw into."""

    bits: np.random.PCG64DXSM
    generator: np.random.Generator
    position: int = 0
    room: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))


@dataclass(frozen=True, slots=True)
class Mask:
    """A dropout mask that every step draws anew."""

    stream: int
    """Which of the network's dropouts it is."""
    rate: float
    numbers: Floats
    """Shape (rows, units): 0, or 1 / (1 - rate)."""


class DropoutMasks:
    """The masks of one epoch (inverted dropout: Srivastava et al., JMLR 2014, section 10).

    What a mask says about a unit follows from (seed, epoch, position of the row in the epoch's order over all
    workers, layer, unit) alone. Each layer has a generator that can jump ahead, and each row takes the same
    number of draws from it.
    """

    def __init__(self, seed: int, epoch: int) -> None:
        self.seed = seed
        self.epoch = epoch
        self._layers: dict[int, _LayerStream] = {}

    def fill(self, layer: int, rate: float, first_position: int, out: Floats) -> None:
        """Write the mask of the rows from `first_position` on into `out`, shape (rows, units).

        Each number is 0 with probability `rate`, else 1 / (1 - rate), so that the expected output of a unit
        is the same with and without dropout.
        """
        rows, units = out.shape
        # The generator makes two float32 of every 64-bit draw: an odd row would end in the middle of one.
        draws_per_row = (units + 1) // 2
        stream = self._layers.get(layer) or self._open(layer)
        if first_position != stream.position:
            stream.bits.advance((first_position - stream.position) * draws_per_row)
        stream.position = first_position + rows
        size = rows * 2 * draws_per_row
        if stream.room.size < size:
            stream.room = np.empty(size, np.float32)
        numbers = stream.room[:size].reshape(rows, 2 * draws_per_row)
        stream.generator.random(out=numbers, dtype=np.float32)
        np.greater_equal(numbers[:, :units], rate, out=out)
        np.multiply(out, 1 / (1 - rate), out=out)

    def _open(self, layer: int) -> _LayerStream:
        seeds = np.random.SeedSequence(self.seed, spawn_key=(_STREAM, layer, self.epoch))
        bits = np.random.PCG64DXSM(seeds)
        stream = self._layers[layer] = _LayerStream(bits, np.random.Generator(bits))
        return stream
