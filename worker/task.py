"""What a run hands to its servers and workers: plain numbers and arrays, nothing to execute."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.network.embedding import Embedding
from common.network.health import LayerHealth
from common.network.metrics import MetricSums
from common.network.parameters import GRAIN, ParameterLayout
from common.network.structure import network_layout
from common.schemas import training
from common.schemas.losses import Loss
from common.schemas.models import Task
from common.schemas.network import NetworkShape
from common.schemas.optimizers import ConstantSchedule, Optimizer, Regularization, Schedule
from worker.optimizers import Penalties
from worker.schedules import Extent


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """A training request resolved against its data set."""

    task: Task
    shape: NetworkShape
    loss: Loss
    optimizer: Optimizer
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
    regularization: Regularization = field(default_factory=Regularization)
    schedule: Schedule = field(default_factory=ConstantSchedule)
    epochs: int = 1
    steps_per_epoch: int = 1
    """Batches in an epoch; with bounded staleness there are as many updates for each worker."""
    embeddings: tuple[Embedding, ...] = ()
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
    def clip_norm(self) -> float | None:
        """The longest that a gradient may be."""
        return self.regularization.clip_norm

    @property
    def extent(self) -> Extent:
        """How many updates the whole training has."""
        times = self.workers if self.synchrony.kind == "bounded_staleness" else 1
        return Extent(times * self.steps_per_epoch, self.epochs)

    @property
    def layout(self) -> ParameterLayout:
        """Where each layer's parameters lie in the flat vector."""
        return network_layout(self.shape, self.inputs, self.outputs, self.embeddings)

    @property
    def weights(self) -> tuple[slice, ...]:
        """The ranges of the flat vector that hold weights, and no biases, gains or shifts."""
        return tuple(span for name, span in self.layout.slices.items() if name.endswith(".weights"))

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
class Segment:
    """What is done of an epoch in one go. Between two segments a run can be written down, or paused."""

    epoch: int
    """From 1."""
    first: int
    """Steps of the epoch that are done already."""
    last: int
    """Steps of it that are done afterwards."""
    pieces: range = range(0)
    """Pieces of the validation rows that are evaluated then (see `Evaluator`)."""
    rate: float = 1.0
    """What the learning rate is multiplied by, beside what its schedule says."""

    @property
    def steps(self) -> int:
        """How many there are."""
        return self.last - self.first


@dataclass(frozen=True, slots=True)
class SegmentSums:
    """What one worker saw in a segment."""

    rows: int
    losses: tuple[float, ...]
    """Few numbers whose exact sum is that over all rows: it depends neither on who computed which, nor on segments."""
    weights: tuple[float, ...]
    """The same of the rows' weights."""
    seconds: float
    """From the first pull to the last."""
    waiting: float
    """Seconds of these in which the worker posted, waited or copied."""
    halted: bool
    evaluation: tuple[MetricSums, ...]
    """Piece by piece."""
    health: tuple[LayerHealth, ...] = ()
    """Of each layer, as far as this segment says; one worker looks."""


def share(start: int, stop: int, rank: int, workers: int) -> tuple[int, int]:
    """A worker's part of the rows `start` … `stop` - 1: sizes differ by one at most, and all parts cover them once."""
    rows = stop - start
    return start + rank * rows // workers, start + (rank + 1) * rows // workers


def penalties_of(task: TrainingTask) -> Penalties:
    """What keeps the whole flat vector small."""
    wanted = task.regularization
    return Penalties(wanted.l1, wanted.l2, wanted.weight_decay, wanted.clip_value, task.weights)
