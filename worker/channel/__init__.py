"""How flat vectors travel between parameter servers and workers; no step passes through Ray.

An *outlet* is where one process posts a vector, an *inlet* is where another one reads it. Posts are numbered 1, 2,
3, …, and a reader names the number it waits for. Who may post when follows from the protocol of the training
(`worker.parameter_server`, `worker.gradient_worker`): nobody posts number n + 1 before everyone has done with number n.

There are two implementations, shared memory on one machine and sockets between machines, chosen for each pair of
processes by where they are.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import ChainruleError

Vector = NDArray[np.floating]

FENCE_BYTES = 16
"""Of the name of a run's incarnation."""
LOOK_SECONDS = 0.05
"""Between looks at whether a peer lives."""
LONGEST_STEP_SECONDS = 300.0
"""After which a peer that lives counts as frozen."""

REMARKS = 16
"""Numbers that accompany each post, float64: row weights, seconds, what the synchrony needs."""


class Halted(ChainruleError):
    """The training was halted while somebody waited."""

    code = "halted"


class PeerLost(ChainruleError):
    """The process at the other end is gone, does not answer, or breaks the protocol."""

    code = "worker_lost"


class Outlet(Protocol):
    """The writing end.

    `vector`, shape (slots, size), is written by the owner between its posts. `remarks`, shape (REMARKS,), goes along.
    """

    @property
    def vector(self) -> Vector: ...

    @property
    def remarks(self) -> NDArray[np.float64]: ...

    def post(self, number: int) -> None:
        """Hands the vector and the remarks to every reader as number `number`.

        Raises:
            PeerLost: a reader is gone. (Shared memory has no way to notice, and need not.)

        """

    def halt(self) -> None:
        """Tells the readers that nothing more will come: their waiting ends with `Halted`."""

    def close(self) -> None:
        """Gives memory and connections back."""


class Inlet(Protocol):
    """The reading end. `vector` and `remarks` are as posted, from the end of `wait` until the peer posts again."""

    @property
    def vector(self) -> Vector: ...

    @property
    def remarks(self) -> NDArray[np.float64]: ...

    def arrived(self) -> int:
        """The number of the last post, without waiting; 0 before the first.

        Raises:
            Halted: the peer said so.
            PeerLost: the peer is gone, where that shows at once.

        """

    def check(self) -> None:
        """Looks after a peer from which nothing has come for a while.

        Raises:
            PeerLost: it is gone.

        """

    def wait(self, number: int) -> None:
        """Waits for post `number`.

        Raises:
            Halted: the peer said so, or this process was told to stop.
            PeerLost: the peer is gone or silent for too long, or has posted a later number.

        """

    def close(self) -> None:
        """Gives memory and connections back."""
