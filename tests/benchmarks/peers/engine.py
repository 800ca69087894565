"""Chainrule's own arithmetic in one process: gradients and updates on whole batches."""

from __future__ import annotations

from common.network.quiet import quiet
from tests.benchmarks.peers.blas import blas
from tests.benchmarks.peers.own_loop import Loop
from tests.benchmarks.peers.task import answer, read_task

WARM_UP_SHARE, FORWARD_SHARE = 0.2, 0.3


def main() -> None:
    """Measures."""
    task = read_task()
    loop = Loop(task, task.batch)
    with quiet():
        loop.run(WARM_UP_SHARE * task.seconds)
        rate = loop.run(task.seconds)
        share = loop.forward_share(FORWARD_SHARE * task.seconds)
    answer({"rows_per_second": rate, "over_forward": share, "blas": blas()})


if __name__ == "__main__":
    main()
