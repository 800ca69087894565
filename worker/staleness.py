"""The clocks of bounded staleness (stale synchronous parallel: Ho et al., NeurIPS 2013, section 2); pure."""

from __future__ import annotations


class Clocks:
    """Who may begin a step.

    A worker's clock is the number of its gradients that have been applied. It may begin its next step while its
    clock is at most `bound` ahead of the slowest; that lead is the step's *staleness*: the worker's parameters hold
    everybody's gradients but, of each, the last `bound` at most.

    Args:
        workers: how many there are.
        bound: the greatest lead; 0 keeps all in step.

    """

    def __init__(self, workers: int, bound: int) -> None:
        self._bound = bound
        self._clocks = [0] * workers
        self._begun = [0] * workers
        self._end = 0
        self.counts = [0] * (bound + 1)
        """How many steps began with a lead of 0, 1, …, `bound`."""

    @property
    def is_epoch_done(self) -> bool:
        """Whether every gradient of the epoch has been applied."""
        return min(self._clocks) == self._end

    def clock(self, rank: int) -> int:
        """How many of a worker's gradients have been applied."""
        return self._clocks[rank]

    def begun(self, rank: int) -> int:
        """How many steps a worker has begun: the number of its newest gradient at most."""
        return self._begun[rank]

    def begin_epoch(self, steps: int) -> list[int]:
        """Adds so many steps for everyone; the workers that may begin one now: all of them."""
        self._end += steps
        return self._granted()

    def applied(self, rank: int) -> list[int]:
        """Notes that a worker's gradient was applied; the workers that may begin a step now.

        Raises:
            ValueError: the worker has not begun a step.

        """
        if self._begun[rank] == self._clocks[rank]:
            raise ValueError(f"worker {rank} has not begun a step")
        self._clocks[rank] += 1
        return self._granted()

    def _granted(self) -> list[int]:
        slowest = min(self._clocks)
        granted = []
        for rank, clock in enumerate(self._clocks):
            if self._begun[rank] == clock < self._end and clock - slowest <= self._bound:
                self._begun[rank] += 1
                self.counts[clock - slowest] += 1
                granted.append(rank)
        return granted
