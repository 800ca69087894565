"""Bounded staleness under thousands of schedules: nobody runs ahead further than allowed, and nobody starves."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.staleness import Clocks


def play(seed: int) -> None:
    """A training whose workers take steps of random length, in an order drawn from `seed`."""
    draw = random.Random(seed)
    workers, bound, epochs = draw.randint(1, 9), draw.randint(0, 6), draw.randint(1, 3)
    speeds = [draw.choice([1, 1, 1, 5, 50]) for _ in range(workers)]
    clocks = Clocks(workers, bound)
    applied, begun = [0] * workers, [0] * workers
    end = 0
    for _ in range(epochs):
        steps = draw.randint(1, 12)
        end += steps
        granted = clocks.begin_epoch(steps)
        assert granted == list(range(workers))
        at_work = set(granted)
        for rank in granted:
            begun[rank] += 1
        while not clocks.is_epoch_done:
            assert at_work, "nobody may go on, and the epoch is not done"
            rank = draw.choices(sorted(at_work), [1 / speeds[rank] for rank in sorted(at_work)])[0]
            at_work.remove(rank)
            applied[rank] += 1
            for other in clocks.applied(rank):
                assert other not in at_work
                assert applied[other] - min(applied) <= bound, f"seed {seed}"
                begun[other] += 1
                at_work.add(other)
        assert applied == begun == [end] * workers
    assert len(clocks.counts) == bound + 1
    assert sum(clocks.counts) == workers * end


def test_no_step_begins_further_ahead_than_the_bound_in_any_of_5000_schedules() -> None:
    for seed in range(5000):
        play(seed)


@given(workers=st.integers(1, 6), steps=st.integers(1, 10))
def test_a_bound_of_zero_keeps_all_in_step(workers: int, steps: int) -> None:
    clocks = Clocks(workers, 0)
    clocks.begin_epoch(steps)
    for step in range(1, steps + 1):
        for rank in range(workers - 1):
            assert clocks.applied(rank) == []
        granted = clocks.applied(workers - 1)
        assert granted == ([] if step == steps else list(range(workers)))
    assert clocks.counts == [workers * steps]


def test_a_slow_worker_holds_the_others_at_the_bound_and_lets_them_go_on() -> None:
    clocks = Clocks(2, 3)
    clocks.begin_epoch(10)
    for ahead in range(1, 4):
        assert clocks.applied(0) == [0], ahead
    assert clocks.applied(0) == []  # four ahead of the other, which has applied none
    assert clocks.applied(1) == [0, 1]
    assert clocks.counts == [3, 1, 1, 2]


def test_a_gradient_that_nobody_was_granted_is_refused() -> None:
    clocks = Clocks(2, 0)
    clocks.begin_epoch(3)
    clocks.applied(0)
    with pytest.raises(ValueError, match="worker 0"):
        clocks.applied(0)
