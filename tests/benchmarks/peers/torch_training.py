"""The training loop of all PyTorch contenders: one process alone, or one of several that average their gradients.

Written for speed: rows gathered into buffers made beforehand, denormals flushed, and of Adam's implementations the
one that is quickest here.
"""

from __future__ import annotations

import copy
import math
import re
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]

from tests.benchmarks.peers.task import Goal, Task

ADAMS: dict[str, dict[str, bool]] = {"default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}
TRIAL_SHARE = 0.05


def alone(network: Any) -> Any:
    """A network that shares its gradients with nobody."""
    return network


class Training:
    """One process of a training.

    Args:
        task: what to do.
        rank: its number.
        processes: how many there are.
        wrap: makes the network share its gradients.
        agree: the first process's number, in all of them.

    """

    def __init__(
        self,
        task: Task,
        rank: int = 0,
        processes: int = 1,
        wrap: Callable[[Any], Any] = alone,
        agree: Callable[[int], int] = lambda number: number,
    ) -> None:
        torch.set_num_threads(task.threads)
        torch.set_flush_denormal(True)
        torch.manual_seed(task.seed)
        self._task, self._rank, self._processes, self._agree = task, rank, processes, agree
        self._network = wrap(_network(task.sizes, task.goal.dropout if task.goal else 0.0))
        torch.manual_seed(task.seed * processes + rank)  # dropout differs from process to process
        self._all_x = torch.from_numpy(np.load(task.file("x.npy")))
        self._all_y = torch.from_numpy(np.load(task.file("y.npy")))
        self._x = torch.empty((task.batch // processes, task.sizes[0]))
        self._y = torch.empty(task.batch // processes, dtype=torch.int64)
        self._loss = torch.nn.CrossEntropyLoss()
        self._shuffle = torch.Generator().manual_seed(task.seed)
        self._order = torch.randperm(len(self._all_x), generator=self._shuffle)
        self._place = 0
        self._use("default")

    def throughput(self) -> dict[str, Any]:
        """Rows per second over all processes."""
        adam, step_seconds = self._choose_adam()
        steps = self._agree(math.ceil(self._task.seconds / step_seconds))
        return {"rows_per_second": steps * self._task.batch / self._timed(steps), **self._describe(adam)}

    def race(self, goal: Goal) -> dict[str, Any]:
        """Epochs until the goal is reached; neither warm-up nor evaluation counts."""
        initial = copy.deepcopy(self._network.state_dict())
        adam, _ = self._choose_adam()
        self._network.load_state_dict(initial)
        self._use(adam)
        test_x = torch.from_numpy(np.load(self._task.file("test_x.npy")))
        test_y = torch.from_numpy(np.load(self._task.file("test_y.npy")))
        seconds, epoch, right = 0.0, 0, 0
        wanted = math.ceil(goal.accuracy * len(test_y))
        while right < wanted and epoch < goal.epochs and not self._agree(int(seconds > goal.seconds)):
            epoch += 1
            began = time.perf_counter()
            self._epoch()
            seconds += time.perf_counter() - began
            right = self._agree(self._right(test_x, test_y))
        return {
            "seconds": seconds,
            "epochs": epoch,
            "test_accuracy": right / len(test_y),
            **self._describe(adam),
        }

    def _describe(self, adam: str) -> dict[str, Any]:
        library = re.search(r"(Math Kernel Library) Version (\S+)", torch.__config__.show())
        return {
            "note": f"Adam: {adam}",
            "versions": {"torch": str(torch.__version__)},
            "blas": f"{' '.join(library.groups()) if library else 'BLAS'} with {torch.get_num_threads()} threads",
        }

    def _use(self, adam: str) -> None:
        self._optimizer = torch.optim.Adam(self._network.parameters(), lr=1e-3, **ADAMS[adam])

    def _choose_adam(self) -> tuple[str, float]:
        """The quickest of Adam's implementations, and the seconds that a step takes with it. Warms up."""
        self._timed(10)
        steps = self._agree(max(10, math.ceil(TRIAL_SHARE * self._task.seconds / (self._timed(10) / 10))))
        costs = []
        for adam in ADAMS:
            self._use(adam)
            self._timed(10)
            costs.append(self._timed(steps) / steps)
        best = self._agree(costs.index(min(costs)))
        adam = list(ADAMS)[best]
        self._use(adam)
        return adam, costs[best]

    def _timed(self, steps: int) -> float:
        """So many whole batches in random order; seconds."""
        share = self._task.batch // self._processes
        began = time.perf_counter()
        for _ in range(steps):
            if self._place + self._task.batch > len(self._order):
                self._place = 0
            start = self._place + self._rank * share
            self._place += self._task.batch
            self._step(self._order[start : start + share])
        return time.perf_counter() - began

    def _epoch(self) -> None:
        """Every row once."""
        order = torch.randperm(len(self._all_x), generator=self._shuffle)
        for begin in range(0, len(order), self._task.batch):
            rows = min(self._task.batch, len(order) - begin)
            start, stop = (begin + rank * rows // self._processes for rank in (self._rank, self._rank + 1))
            self._step(order[start:stop])

    def _step(self, rows: Any) -> None:
        x, y = self._x[: len(rows)], self._y[: len(rows)]
        torch.index_select(self._all_x, 0, rows, out=x)
        torch.index_select(self._all_y, 0, rows, out=y)
        self._optimizer.zero_grad()
        self._loss(self._network(x), y).backward()
        self._optimizer.step()

    def _right(self, x: Any, y: Any) -> int:
        network = getattr(self._network, "module", self._network)
        network.eval()
        with torch.no_grad():
            right = int((network(x).argmax(1) == y).sum())
        network.train()
        return right


def _network(sizes: tuple[int, ...], dropout: float) -> Any:
    layers: list[Any] = []
    for inputs, units in pairwise(sizes[:-1]):
        layers += [torch.nn.Linear(inputs, units), torch.nn.ReLU()]
        if dropout:
            layers.append(torch.nn.Dropout(dropout))
    return torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-2], sizes[-1]))


def carry_out(task: Task, training: Training) -> dict[str, Any]:
    """What the task asks for."""
    return training.race(task.goal) if task.goal else training.throughput()


def agree_by_broadcast(number: int) -> int:
    """The first process's number, in all processes of the default group."""
    shared = torch.tensor([number])
    torch.distributed.broadcast(shared, 0)
    return int(shared)
