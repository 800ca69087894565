"""The states of a job and the only legal moves between them."""

from __future__ import annotations

from typing import Literal, get_args

State = Literal["queued", "starting", "running", "paused", "succeeded", "failed", "cancelled"]
STATES: tuple[State, ...] = get_args(State)

TERMINAL: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})
HELD: frozenset[State] = frozenset({"starting", "running"})
"""States in which a supervisor holds a lease."""

Wish = Literal["cancel", "pause"]
"""What the holder of a job may be asked for."""

_MOVES: dict[State, frozenset[State]] = {
    "queued": frozenset({"starting", "paused", "cancelled", "failed"}),
    "starting": frozenset({"running", "queued", "paused", "failed", "cancelled"}),
    "running": frozenset({"succeeded", "failed", "cancelled", "queued", "paused"}),
    "paused": frozenset({"queued", "cancelled", "failed"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}


def sources(target: State) -> tuple[State, ...]:
    """The states from which a job may move to `target`; a compare-and-set accepts these and no others."""
    return tuple(state for state in STATES if target in _MOVES[state])
