"""Processors are shared out so that every job which fits the cluster at all can be placed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.admission import cpus_of_worker, too_large_for, too_large_now


@pytest.mark.parametrize(
    ("workers", "machines", "share"),
    [
        (1, [2.0], 1.0),
        (2, [2.0], 1.0),
        (4, [2.0], 0.5),
        (8, [2.0], 0.25),
        (9, [2.0], None),
        (2, [1.0, 1.0], 1.0),
        (5, [1.0, 1.0], 0.3333),  # two fifths each would leave no machine with room for a third worker
        (3, [2.0, 0.5], 0.6666),
        (1, [], None),
        (16, [64.0], 1.0),
    ],
)
def test_a_worker_gets_a_whole_processor_or_the_largest_share_that_all_can_have(
    workers: int, machines: list[float], share: float | None
) -> None:
    assert cpus_of_worker(workers, machines) == share


@given(
    workers=st.integers(1, 64),
    machines=st.lists(st.integers(1, 16).map(float), max_size=5),
)
def test_what_is_admitted_can_be_placed_and_what_is_not_needs_more_than_there_is(
    workers: int, machines: list[float]
) -> None:
    share = cpus_of_worker(workers, machines)
    if share is None:
        assert workers > 4 * sum(machines)
        assert f"{workers} workers" in too_large_for(workers, machines)
    else:
        assert 0.25 <= share <= 1
        assert sum(math.floor(cpus / share) for cpus in machines) >= workers


def test_a_job_that_is_next_is_told_how_many_processors_it_waits_for() -> None:
    reason = too_large_now(3, 1.5, 2.0)
    assert "its 3 workers need 1.5 CPUs at once" in reason
    assert "the cluster's 2." in reason
