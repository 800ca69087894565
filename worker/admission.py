"""How many processors a job is to have; pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST_WORKERS_PER_CPU = 4
_UNITS = 10_000  # Ray counts processors in ten-thousandths


def cpus_of_worker(workers: int, machines: Sequence[float]) -> float | None:
    """The share of a processor that each worker of a job gets on machines with so many processors each.

    A whole one, where there are enough; a job with more workers than that gets the largest share that all can have,
    a quarter at least, no worker spanning machines. None: the job is too large. Servers work while workers wait, and
    get none of their own.
    """
    shares = {1.0} | {cpus / count for cpus in machines for count in range(1, int(cpus * MOST_WORKERS_PER_CPU) + 1)}
    for share in sorted(shares, reverse=True):
        rounded = math.floor(share * _UNITS) / _UNITS
        if share <= 1 and sum(math.floor(cpus / rounded) for cpus in machines) >= workers:
            return rounded
    return None


def too_large_now(workers: int, needed: float, cpus: float) -> str:
    """Why the next job waits although processors are free."""
    return (
        f"The job is next: its {workers} workers need {needed:g} CPUs at once, and running jobs leave less of the "
        f"cluster's {cpus:g}. It starts when they end; jobs behind it wait too."
    )


def too_large_for(workers: int, machines: Sequence[float]) -> str:
    """Why a job waits that `cpus_of_worker` finds too large."""
    return (
        f"The job waits: {workers} workers need {workers / MOST_WORKERS_PER_CPU:g} CPUs at least, and the cluster has "
        f"{sum(machines):g}. It starts when machines join; or ask for fewer workers."
    )
