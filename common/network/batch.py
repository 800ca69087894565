"""What a network's layers are bound to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.network.masks import Mask
from common.network.parameters import Floats
from common.network.room import Room


@dataclass(frozen=True, slots=True)
class Batch:
    """What layers are bound to: so many rows, for training, for evaluation, or for slopes along the inputs."""

    rows: int
    room: Room
    parameters: Mapping[str, Floats]
    """Named views of the flat vector."""
    gradients: Mapping[str, Floats] | None = None
    """The same of the gradient; None: nobody needs it, and dropout does nothing."""
    to_inputs: bool = False
    """Whether a backward pass will follow without it, to the inputs alone."""
    masks: list[Mask] = field(default_factory=list)

    @property
    def has_backward(self) -> bool:
        """Whether layers must keep what a backward pass takes."""
        return self.gradients is not None or self.to_inputs

    def array(self, name: str, width: int) -> Floats:
        """The rows' part of the memory of that name, shape (rows, width)."""
        return self.room.array(name, self.rows, width)
