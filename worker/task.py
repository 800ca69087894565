"""What a run hands to its server and workers: plain numbers and arrays, nothing to execute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.network.metrics import MetricSums
from common.schemas import training
from common.schemas.models import Task


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """A training request resolved against its data set."""

    task: Task
    shape: training.NetworkShape
    loss: training.Loss
    optimizer: training.Optimizer
    inputs: int
    outputs: int
    parameters: int
    batch_size: int
    shuffle: bool
    seed: int
    workers: int
    dtype: str = "float32"

    def steps(self, rows: int) -> int:
        """Steps in an epoch over so many rows; the last batch may be a part of one."""
        return -(-rows // self.batch_size)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Encoded rows, shared by all workers of a machine and written by none."""

    x: NDArray[Any]
    """Shape (rows, inputs)."""
    targets: NDArray[Any]
    """Class numbers, shape (rows,), or standardized values, shape (rows, 1)."""
    validation_x: NDArray[Any]
    """Without validation rows: the training rows, so that the loss is that of the training."""
    validation_targets: NDArray[Any]


@dataclass(frozen=True, slots=True)
class EpochSums:
    """What one worker saw in an epoch: sums over its rows."""

    rows: int
    loss: float
    halted: bool
    evaluation: MetricSums | None


def epoch_order(task: TrainingTask, rows: int, epoch: int) -> NDArray[np.intp]:
    """The order of the training rows in an epoch: the same for all workers, however many there are."""
    if not task.shuffle:
        return np.arange(rows)
    return np.random.default_rng(np.random.SeedSequence(task.seed, spawn_key=(_SHUFFLE, epoch))).permutation(rows)


_SHUFFLE = 1


def share(start: int, stop: int, rank: int, workers: int) -> tuple[int, int]:
    """A worker's part of the rows `start` … `stop` - 1: sizes differ by one at most, and all parts cover them once."""
    rows = stop - start
    return start + rank * rows // workers, start + (rank + 1) * rows // workers
