"""When a holder counts as silent, by the watcher's own clock."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from common.store.jobs import Lease
from worker.supervisor import LeaseWatch


def lease(job_id: str = "a", fence: int = 1, counter: int = 0) -> Lease:
    return Lease(job_id, fence, counter)


def test_a_lease_expires_when_it_has_not_changed_for_the_lease_time() -> None:
    watch = LeaseWatch(10)
    assert watch.expired([lease()], 100) == []
    assert watch.expired([lease()], 109.9) == []
    assert watch.expired([lease()], 110) == [lease()]
    assert watch.expired([lease()], 200) == [lease()]


def test_a_renewed_lease_counts_anew_from_when_that_was_seen() -> None:
    watch = LeaseWatch(10)
    watch.expired([lease()], 100)
    assert watch.expired([lease(counter=1)], 109) == []
    assert watch.expired([lease(counter=1)], 118) == []
    assert watch.expired([lease(counter=1)], 119) == [lease(counter=1)]


def test_a_new_holder_counts_anew_even_with_the_same_counter() -> None:
    watch = LeaseWatch(10)
    watch.expired([lease(fence=1)], 100)
    assert watch.expired([lease(fence=2)], 111) == []


def test_a_lease_that_was_gone_meanwhile_counts_anew() -> None:
    watch = LeaseWatch(10)
    watch.expired([lease()], 100)
    watch.expired([], 105)
    assert watch.expired([lease()], 111) == []
    assert watch.expired([lease()], 121) == [lease()]


def test_each_lease_is_watched_on_its_own() -> None:
    watch = LeaseWatch(10)
    watch.expired([lease("a"), lease("b")], 100)
    assert watch.expired([lease("a"), lease("b", counter=1)], 110) == [lease("a")]


def test_a_watcher_that_slept_takes_nothing_at_first_sight() -> None:
    watch = LeaseWatch(10)
    assert watch.expired([lease()], 1e9) == []


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 9.9), st.booleans()), max_size=30))
def test_nobody_who_renews_within_the_lease_time_ever_loses_a_job(steps: list[tuple[float, bool]]) -> None:
    watch, now, counter, renewed = LeaseWatch(10), 0.0, 0, 0.0
    watch.expired([lease()], now)
    for pause, renews in steps:
        now += pause
        if renews or now - renewed > 9.9:
            counter, renewed = counter + 1, now
        assert watch.expired([lease(counter=counter)], now) == []
