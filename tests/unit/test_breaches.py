"""What a server does with a worker that has the right key and talks nonsense: nothing of it is applied."""

from __future__ import annotations

import math
import threading
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import pytest

from common.schemas.training import BoundedStaleness, LocalSteps
from tests.unit.training import make_task
from worker.channel import PeerLost
from worker.channel.ends import BUSY, EXCHANGE, POSITION, WEIGHT, Place, ServerEnd, Surroundings
from worker.channel.shared_memory import SharedOutlet
from worker.channel.sockets import KeyPair, Sockets
from worker.parameter_server import initial_parameters, make_server

STALE, LOCAL, AUTO = BoundedStaleness(max_staleness=2), LocalSteps(steps=2), LocalSteps(steps="auto")
HONEST = {WEIGHT: 1.0, POSITION: 2.0, BUSY: 0.001, EXCHANGE: 0.001}

BREACHES: dict[str, tuple[dict[str, Any], int, dict[int, float]]] = {
    "synchronous: a post is skipped": ({}, 2, {}),
    "synchronous: a negative weight": ({}, 1, {WEIGHT: -1.0}),
    "staleness: posts are skipped": ({"synchrony": STALE}, 50, {}),
    "staleness: a post before its step was begun": ({"synchrony": STALE}, 2, {}),
    "staleness: a negative weight": ({"synchrony": STALE}, 1, {WEIGHT: -1.0}),
    "local steps: a post is skipped": ({"synchrony": LOCAL}, 2, {}),
    "local steps: no position": ({"synchrony": LOCAL}, 1, {POSITION: math.nan}),
    "local steps: no move": ({"synchrony": LOCAL}, 1, {POSITION: 0.0}),
    "local steps: beyond the end": ({"synchrony": LOCAL}, 1, {POSITION: 1e9}),
    "local steps: infinitely far": ({"synchrony": LOCAL}, 1, {POSITION: math.inf}),
    "measured steps: they took no time": ({"synchrony": AUTO}, 1, {BUSY: 0.0}),
    "measured steps: an exchange of no duration at all": ({"synchrony": AUTO}, 1, {EXCHANGE: math.nan}),
}


@pytest.mark.parametrize(("changes", "number", "remarks"), BREACHES.values(), ids=BREACHES)
def test_a_worker_that_breaks_the_protocol_is_lost(
    changes: dict[str, Any], number: int, remarks: dict[int, float]
) -> None:
    task, keys = make_task(1, **changes), KeyPair.generate()
    place = Place("here", "127.0.0.1", keys.public)
    with ExitStack() as stack:
        sockets = stack.enter_context(closing(Sockets()))
        worker = stack.enter_context(closing(SharedOutlet(1, task.parameters, np.dtype(task.dtype), task.fence)))
        here = Surroundings(place, keys, sockets, threading.Event())
        end = stack.enter_context(closing(ServerEnd(task, 0, here, [place])))
        end.attach([worker.address])
        server = make_server(task, end, initial_parameters(task), None)
        for which, value in {**HONEST, **remarks}.items():
            worker.remarks[which] = value
        worker.post(number)
        with pytest.raises(PeerLost, match=r"protocol|out of step"):
            server.serve(4)
