"""What a run hands to its servers and workers: plain numbers and arrays, nothing to execute."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.network.metrics import MetricSums
from common.network.parameters import GRAIN
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
    fence: bytes
    """Tells this incarnation of the run from all others."""
    synchrony: training.Synchrony = field(default_factory=training.Synchronous)
    reproducible: bool = False
    clip_norm: float | None = None
    servers: int = 1
    lanes: int = 1
    """Threads of each server, every one with a shard of its own."""
    block_rows: int | None = None
    """Rows that lie side by side on a disk are shuffled in blocks of so many; None: all with all."""
    dtype: str = "float32"

    def steps(self, rows: int) -> int:
        """Steps in an epoch over so many rows; the last batch may be a part of one."""
        return -(-rows // self.batch_size)

    @property
    def clips_whole_gradient(self) -> bool:
        """Whether shards must add up their parts of the norm: otherwise a worker knows the whole norm itself."""
        return self.clip_norm is not None and self.synchrony.kind == "synchronous"

    @property
    def shards(self) -> tuple[slice, ...]:
        """The ranges of the flat vector that the servers' threads keep, whole grains of it, in order."""
        count, grains = self.servers * self.lanes, -(-self.parameters // GRAIN)
        bounds = [min(share(0, grains, shard, count)[0] * GRAIN, self.parameters) for shard in range(count)]
        return tuple(slice(*pair) for pair in zip(bounds, [*bounds[1:], self.parameters], strict=True))


@dataclass(frozen=True, slots=True)
class EpochSums:
    """What one worker saw in an epoch."""

    rows: int
    losses: tuple[float, ...]
    """Sums over rows, in pieces whose exact total does not depend on who computed which."""
    weight: float
    """The summed weight of the rows."""
    seconds: float
    """From the first pull to the last."""
    waiting: float
    """Seconds of these in which the worker posted, waited or copied."""
    halted: bool
    evaluation: tuple[MetricSums, ...]
    """Piece by piece."""


def share(start: int, stop: int, rank: int, workers: int) -> tuple[int, int]:
    """A worker's part of the rows `start` … `stop` - 1: sizes differ by one at most, and all parts cover them once."""
    rows = stop - start
    return start + rank * rows // workers, start + (rank + 1) * rows // workers
