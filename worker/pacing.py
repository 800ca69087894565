"""How much of an epoch to do in one go; pure."""

from __future__ import annotations

import math

SEGMENT_SECONDS = 0.75
"""That a segment should take: a pause waits for its end, and each costs a few calls of actors."""
_STRETCH = 2
"""By how much the last segment of an epoch may be longer, rather than leave a short one over."""
_GROWTH = 8


class Pacing:
    """Plans segments of some seconds by how long the ones before took.

    Args:
        multiple: lengths are multiples of it, but for the last of an epoch.
        first: how long to begin with.

    """

    def __init__(self, multiple: int = 1, first: int = 1) -> None:
        self._multiple = multiple
        self._next = first * multiple
        self._seconds = math.inf

    def take(self, left: int) -> int:
        """How many of the `left` steps of an epoch to take now."""
        return left if left <= _STRETCH * self._next else self._next

    def note(self, steps: int, seconds: float) -> None:
        """Learns that so many steps took so long."""
        self._seconds = seconds / steps
        wanted = SEGMENT_SECONDS / max(self._seconds, 1e-9)
        most = max(self._next, _GROWTH * steps)
        self._next = max(1, int(min(wanted, most)) // self._multiple) * self._multiple

    def expected(self, steps: int) -> float:
        """Seconds that so many steps should take; infinite while nothing is known."""
        return self._seconds * steps
