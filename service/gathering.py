"""Predictions that are asked for at the same moment, computed together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from common.learned import Answer, LearnedNetwork

_MOST_ROWS = 64
"""That are computed together."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """Instances that somebody asked about, and where the answer goes."""

    instances: Sequence[object]
    answer: asyncio.Future[Answer]


class Gathering:
    """Computes together what is asked of a network within one turn of the event loop.

    Nobody waits for others to come: the turn takes in the requests that are there already, which would be computed one
    after the other. To be used in the event loop.
    """

    def __init__(self) -> None:
        self._asked: dict[int, tuple[LearnedNetwork, list[_Asked]]] = {}

    async def answer(self, network: LearnedNetwork, instances: Sequence[object], *, alone: bool = False) -> Answer:
        """What the network answers; raises what `LearnedNetwork.answer` raises. `alone`: there is no other request."""
        if alone:
            return network.answer(instances)
        loop = asyncio.get_running_loop()
        asked = _Asked(instances, loop.create_future())
        if not self._asked:
            loop.call_soon(self._work_off)
        self._asked.setdefault(id(network), (network, []))[1].append(asked)
        return await asked.answer

    def _work_off(self) -> None:
        asked, self._asked = self._asked, {}
        for network, several in asked.values():
            rows, first = 0, 0
            for place, one in enumerate(several):
                rows += len(one.instances)
                if rows > _MOST_ROWS and place > first:
                    _tell(network, several[first:place])
                    rows, first = len(one.instances), place
            _tell(network, several[first:])


def _tell(network: LearnedNetwork, several: Sequence[_Asked]) -> None:
    """Answers all of these; where that fails one by one, so that each hears what is wrong with its own."""
    try:
        answers = network.answer_together([one.instances for one in several])
    except Exception as error:  # it belongs to whoever asked
        if len(several) > 1:
            for one in several:
                _tell(network, [one])
        elif not several[0].answer.done():
            several[0].answer.set_exception(error)
        return
    for one, answer in zip(several, answers, strict=True):
        if not one.answer.done():  # else nobody waits for it any more
            one.answer.set_result(answer)
