"""The states of a job, and every move between them."""

from __future__ import annotations

import pytest

from common.lifecycle import HELD, STATES, TERMINAL, State, sources

MOVES: dict[State, set[State]] = {
    "starting": {"queued"},
    "running": {"starting"},
    "paused": {"queued", "starting", "running"},
    "queued": {"starting", "running", "paused"},
    "succeeded": {"running"},
    "failed": {"queued", "starting", "running", "paused"},
    "cancelled": {"queued", "starting", "running", "paused"},
}
"""From where a job may come into a state."""


@pytest.mark.parametrize("target", STATES)
def test_a_state_is_reached_from_these_and_no_others(target: State) -> None:
    assert set(sources(target)) == MOVES[target]


def test_a_terminal_state_never_changes() -> None:
    assert {"succeeded", "failed", "cancelled"} == TERMINAL
    assert not [target for target in STATES if TERMINAL & set(sources(target))]


def test_no_state_is_its_own_source() -> None:
    assert not [state for state in STATES if state in sources(state)]


def test_every_state_is_reached_from_the_queue_and_leads_to_every_end() -> None:
    def reachable(start: State) -> set[State]:
        found: set[State] = {start}
        while more := {state for state in STATES if state not in found and found & set(sources(state))}:
            found |= more
        return found

    assert reachable("queued") == set(STATES)
    for state in set(STATES) - TERMINAL:
        assert reachable(state) >= TERMINAL


def test_whoever_holds_a_lease_can_give_the_job_back_or_end_it() -> None:
    assert {"starting", "running"} == HELD
    for target in ("queued", "paused", "failed", "cancelled"):
        assert set(sources(target)) >= HELD
