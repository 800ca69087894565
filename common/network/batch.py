"""What a network's layers are bound to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.network.masks import Mask
from common.network.parameters import Floats
from common.network.room import Room


@dataclass(frozen=True, slots=True)
class Batch:
    """What layers are bound to: so many rows, for training or for evaluation."""

    rows: int
    room: Room
    parameters: Mapping[str, Floats]
    """Named views of the flat vector."""
    gradients: Mapping[str, Floats] | None = None
    """The same of the gradient; None: no backward pass will follow, and dropout does nothing."""
    masks: list[Mask] = field(default_factory=list)

    def array(self, name: str, width: int) -> Floats:
        """The rows' part of the memory of that name, shape (rows, width)."""
        return self.room.array(name, self.rows, width)
