"""Predictions that are asked for at the same moment are computed together, and nobody notices."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Invalid
from common.features.categories import OneHot
from common.features.numbers import Scaled
from common.learned import Answer, LearnedNetwork
from service.gathering import Gathering
from tests.learned import TARGETS, network_of

COLUMNS = (
    Scaled(name="age", kind="numeric", mean=40.0, scale=12.0, seen=(0.0, 100.0)),
    OneHot(name="city", categories=("Oslo", "Rome"), missing=False),
)
NETWORKS = [network_of(COLUMNS, target, loss) for target, loss in TARGETS]
INSTANCES = st.one_of(
    st.tuples(st.floats(-50, 500) | st.none(), st.sampled_from(["Oslo", "Rome", "Bern", None])).map(list),
    st.fixed_dictionaries({"age": st.integers(0, 90), "city": st.sampled_from(["Oslo", "Rome"])}),
)
Asked = tuple[LearnedNetwork, Sequence[object]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows went through a network together, time by time."""
    found: list[int] = []
    answers = LearnedNetwork.answers

    def counted(network: LearnedNetwork, x: np.ndarray) -> np.ndarray:
        found.append(len(x))
        return answers(network, x)

    monkeypatch.setattr(LearnedNetwork, "answers", counted)
    return found


def at_once(asked: Sequence[Asked]) -> list[Answer | BaseException]:
    """What those hear who ask in the same turn of the event loop."""

    async def all_of_them() -> list[Answer | BaseException]:
        gathering = Gathering()
        waiting: list[Awaitable[Answer]] = [gathering.answer(network, instances) for network, instances in asked]
        return list(await asyncio.gather(*waiting, return_exceptions=True))

    return asyncio.run(all_of_them())


def assert_alike(told: Answer | BaseException, alone: Answer) -> None:
    assert isinstance(told, Answer)
    assert told.warnings == alone.warnings
    assert [p.label for p in told.predictions] == [p.label for p in alone.predictions]
    for one, other in zip(told.predictions, alone.predictions, strict=True):
        for name in ("probabilities", "quantiles"):
            mine, theirs = getattr(one, name), getattr(other, name)
            assert mine == (theirs if theirs is None else pytest.approx(theirs, abs=1e-6, rel=1e-6))
        assert one.value == (other.value if other.value is None else pytest.approx(other.value, rel=1e-6))


@given(st.lists(st.tuples(st.sampled_from(NETWORKS), st.lists(INSTANCES, min_size=1, max_size=40)), max_size=12))
def test_each_hears_what_it_would_have_heard_alone(asked: list[Asked]) -> None:
    for told, (network, instances) in zip(at_once(asked), asked, strict=True):
        assert_alike(told, network.answer(instances))


def test_rows_of_one_turn_go_through_their_network_together_and_not_too_many(calls: list[int]) -> None:
    first, second = NETWORKS[:2]
    row = [[31.0, "Oslo"]]
    at_once([(first, row), (second, row), (first, row), (first, row * 2)])
    assert calls == [4, 1]
    calls.clear()
    at_once([(first, row * 30)] * 5 + [(first, row * 100)])
    assert calls == [60, 60, 30, 100]


def test_what_is_wrong_with_one_is_told_to_it_alone() -> None:
    network = NETWORKS[0]
    bad: list[Sequence[object]] = [[["old", "Oslo"]], [[1.0]], [], [[1e300, "Rome"]]]
    asked = [(network, [[31.0, "Oslo"]]), *((network, one) for one in bad), (network, [[32.0, "Rome"]])]
    first, *refused, last = at_once(asked)
    assert_alike(first, network.answer([[31.0, "Oslo"]]))
    assert_alike(last, network.answer([[32.0, "Rome"]]))
    for told, instances in zip(refused, bad, strict=True):
        with pytest.raises(Invalid) as alone:
            network.answer(instances)
        assert isinstance(told, Invalid)
        assert told.faults == alone.value.faults


def test_who_asks_nothing_is_refused_among_others_too() -> None:
    nothing, something = at_once([(NETWORKS[0], []), (NETWORKS[0], [[31.0, "Oslo"]])])
    assert isinstance(nothing, Invalid)
    assert isinstance(something, Answer)


def test_who_does_not_wait_any_more_is_passed_over() -> None:
    async def one_leaves() -> Answer:
        gathering = Gathering()
        leaves, stays = (asyncio.ensure_future(gathering.answer(NETWORKS[0], [[31.0, "Oslo"]])) for _ in range(2))
        await asyncio.sleep(0)
        leaves.cancel()
        return await stays

    assert_alike(asyncio.run(one_leaves()), NETWORKS[0].answer([[31.0, "Oslo"]]))
