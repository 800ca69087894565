"""How flat vectors travel between the parameter server and its workers; no step passes through Ray.

The server numbers its parameter vectors 0, 1, 2, …: its *versions*. A worker that has used version v pushes its
gradient for version v + 1, and the server publishes version v + 1 when it has taken everyone's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import ChainruleError

Vector = NDArray[np.floating]


class Halted(ChainruleError):
    """The training was halted while somebody waited for the next version."""

    code = "halted"


class PeerLost(ChainruleError):
    """The process at the other end is gone."""

    code = "worker_lost"


class ServerChannel(Protocol):
    """The server's end: it owns the parameters and reads everyone's gradient."""

    @property
    def address(self) -> str:
        """What a worker needs to attach."""

    @property
    def parameters(self) -> Vector:
        """The parameters of the version in work; only the server may write."""

    def attach(self, addresses: Sequence[str]) -> None:
        """Connects to the workers, in the order of their ranks."""

    def gradients(self, version: int) -> tuple[Sequence[Vector], Sequence[float]]:
        """Waits until every worker has pushed for `version`; their gradients (sums over rows) and summed row weights.

        Raises:
            Halted: `halt` was called.
            PeerLost: a worker's process is gone.

        """

    def publish(self, version: int) -> None:
        """Lets the workers see the parameters as `version`."""

    def halt(self) -> None:
        """Ends everyone's waiting; may be called from another thread."""

    def close(self) -> None:
        """Gives the memory back."""


class WorkerChannel(Protocol):
    """A worker's end: it reads parameters and owns one gradient."""

    @property
    def address(self) -> str:
        """What the server needs to attach."""

    @property
    def parameters(self) -> Vector:
        """The server's parameters, read-only."""

    @property
    def gradient(self) -> Vector:
        """Where the worker writes its gradient before it pushes."""

    def pull(self, version: int) -> None:
        """Waits until the parameters are those of `version`.

        Raises:
            Halted: the training was halted.
            PeerLost: the server's process is gone.

        """

    def push(self, version: int, weight: float) -> None:
        """Hands the gradient to the server: a sum over rows whose weights add up to `weight`."""

    def close(self) -> None:
        """Gives the memory back."""
