"""The limit: two processes that compute gradients and update their own weights, without a word between them.

The same arithmetic as two workers and a server do, in the project's own code and environment, and no communication.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from typing import Any

from common.network.quiet import quiet
from tests.benchmarks.peers.blas import blas
from tests.benchmarks.peers.own_loop import Loop
from tests.benchmarks.peers.task import Task, answer, read_task

PROCESSES = 2
WARM_UP_SHARE = 0.2


_barriers: list[Barrier] = []


def share(barrier: Barrier) -> None:
    """Gives a process the barrier: it can only be handed over at its start."""
    _barriers.append(barrier)


def measure(task: Task, rank: int) -> dict[str, Any]:
    """One process: waits for the other, warms up, measures."""
    loop = Loop(task, task.batch // PROCESSES, rank)
    _barriers[0].wait(60)
    with quiet():
        loop.run(WARM_UP_SHARE * task.seconds)
        rate = loop.run(task.seconds)
    return {
        "rows_per_second": rate,
        "blas": blas(),
    }


def main() -> None:
    """Measures both at once."""
    task = read_task()
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    with ProcessPoolExecutor(PROCESSES, context, share, (barrier,)) as pool:
        found = list(pool.map(measure, [task] * PROCESSES, range(PROCESSES)))
    answer({"rows_per_second": sum(part["rows_per_second"] for part in found), "blas": found[0]["blas"]})


if __name__ == "__main__":
    main()
