"""Segments take about as long as planned, and cover every step of an epoch once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.pacing import SEGMENT_SECONDS, Pacing


def segments(pacing: Pacing, steps: int, seconds_per_step: float) -> list[int]:
    taken: list[int] = []
    while left := steps - sum(taken):
        taken.append(pacing.take(left))
        pacing.note(taken[-1], taken[-1] * seconds_per_step)
    return taken


@given(
    steps=st.lists(st.integers(1, 5000), min_size=1, max_size=5),
    seconds=st.floats(1e-5, 5.0),
    multiple=st.integers(1, 50),
)
def test_every_step_is_taken_once_in_segments_of_whole_multiples(
    steps: list[int], seconds: float, multiple: int
) -> None:
    pacing = Pacing(multiple)
    for count in steps:
        taken = segments(pacing, count, seconds)
        assert sum(taken) == count
        assert all(part > 0 for part in taken)
        assert all(part % multiple == 0 for part in taken[:-1])


@pytest.mark.parametrize("seconds", [0.0001, 0.005, 0.1, 0.7])
def test_segments_soon_take_as_long_as_planned_and_never_twice_that(seconds: float) -> None:
    pacing = Pacing()
    first = segments(pacing, 20_000, seconds)
    assert first[0] == 1
    later = [count * seconds for count in segments(pacing, 20_000, seconds)]
    assert max(later) <= 2 * SEGMENT_SECONDS
    assert sum(later) / len(later) >= SEGMENT_SECONDS / 2


def test_a_step_that_takes_longer_than_a_segment_is_taken_alone() -> None:
    assert segments(Pacing(), 5, 10.0) == [1, 1, 1, 2]


def test_small_epochs_are_not_cut() -> None:
    pacing = Pacing()
    segments(pacing, 5, 0.001)
    for _ in range(5):
        assert segments(pacing, 5, 0.001) == [5]
