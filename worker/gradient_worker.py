"""A gradient worker: forward and backward on its shard of every batch.

Plain classes that know neither Ray nor sockets; `actors.py` gives them processes of their own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.exact_sum import exact_parts
from common.network.health import LayerHealth, gradient_norms, update_norms
from common.network.masks import DropoutMasks
from common.network.metrics import MetricSums
from common.network.network import Network
from common.network.quiet import quiet
from common.schemas import training
from worker.channel import Halted, Vector
from worker.channel.ends import BUSY, EXCHANGE, NORM, POSITION, WEIGHT, WEIGHTS, WorkerEnd
from worker.epoch_order import epoch_order
from worker.evaluator import Evaluator
from worker.max_norm import MaxNorm
from worker.norm import GrainSums, clipping, is_finite
from worker.optimizers import State, make_optimizer
from worker.schedules import make_schedule
from worker.shared_rows import SharedRows
from worker.task import Segment, SegmentSums, TrainingTask, penalties_of, share
from worker.tree_sum import LEAVES, nodes


@dataclass(frozen=True, slots=True)
class Batch:
    """A worker's part of a batch."""

    x: Vector
    targets: NDArray[Any]
    weights: Vector | None
    start: int
    """The position of its first row in the epoch's order over all workers."""
    weight: float
    """The rows' summed weight."""


class GradientWorker:
    """Computes exact gradients of the loss on its part of each batch, and its part of every evaluation.

    Args:
        rank: its number among `task.workers`, from 0.
        task: what is trained.
        data: all rows; the worker reads those of its shard.
        end: its side of the traffic with the servers.

    """

    def __init__(self, rank: int, task: TrainingTask, data: SharedRows, end: WorkerEnd) -> None:
        self._rank = rank
        self._task = task
        self._data = data
        self._end = end
        parts = LEAVES if task.reproducible else task.workers
        self._largest = -(-min(task.batch_size, len(data.x)) // parts)
        self._network = Network(
            task.shape,
            task.inputs,
            task.outputs,
            task.loss,
            max_rows=self._largest,
            parameters=self._parameters,
            gradient=self._gradient,
            embeddings=task.embeddings,
        )
        self._network.loss.check(len(data.targets), data.targets, data.weights)  # once: steps rely on it
        self._evaluator = Evaluator(task, data, end.parameters)
        self._layout = task.layout
        self._grains = None if task.clip_norm is None else GrainSums(self._gradient)
        self._targets = np.empty((self._largest, *data.targets.shape[1:]), data.targets.dtype)
        self._weights = None if data.weights is None else np.empty(self._largest, task.dtype)
        self._number = 1
        """Of the post that comes next, from the servers and then to them."""
        self._waited = 0.0
        self._epoch = 0
        """Whose order and masks are at hand."""
        self._before: Vector | None = None
        """The parameters at the beginning of the epoch, with the worker that looks at everyone's health."""
        self._weight = 0.0
        """Of the rows whose gradient was computed last."""
        self.gradients_computed = 0

    @property
    def _parameters(self) -> Vector:
        """What gradients are computed from."""
        return self._end.parameters

    @property
    def _gradient(self) -> Vector:
        """Where gradients are computed."""
        gradient: Vector = self._end.gradient[0]
        return gradient

    def run(self, segment: Segment) -> SegmentSums:
        """Takes the steps of a segment, then its part of the evaluation.

        Raises:
            PeerLost: a server's process is gone.

        """
        self._rows, self._losses, self._weights_seen, self._waited = 0, list[float](), list[float](), 0.0
        self._is_beginning = segment.steps > 0 and segment.first == 0
        evaluation, health = list[MetricSums](), list[LayerHealth]()
        began = time.perf_counter()
        try:
            with quiet():
                self._train(segment)
            self._pull()
            seconds = time.perf_counter() - began
            if self._rank == 0 and segment.steps and segment.last == self._task.steps(len(self._data.x)):
                health += self._look_at_gradients()
            for piece in range(*share(segment.pieces.start, segment.pieces.stop, self._rank, self._task.workers)):
                self._end.look()
                evaluation.append(self._evaluator.evaluate(piece))
                if not piece:
                    health += self._evaluator.health()
        except BaseException as error:
            self._end.halt()  # a server must not wait for a worker that lives and sends no more
            if isinstance(error, Halted):
                return SegmentSums(0, (), (), 0.0, 0.0, halted=True, evaluation=())
            raise
        return SegmentSums(
            rows=self._rows,
            losses=exact_parts(self._losses),
            weights=exact_parts(self._weights_seen),
            seconds=seconds,
            waiting=self._waited,
            halted=False,
            evaluation=tuple(evaluation),
            health=tuple(health),
        )

    def _look_at_gradients(self) -> list[LayerHealth]:
        """How long each layer's last gradient was, and how far its parameters went in the epoch."""
        health = list(gradient_norms(self._layout, self._gradient, self._weight))
        if self._before is not None:
            health += update_norms(self._layout, self._before, self._end.parameters)
            self._before = None
        return health

    def state(self) -> State:
        """What a worker that takes this one's place needs to go on, beside the servers' parameters."""
        return {}

    def _train(self, segment: Segment) -> None:
        for batch in self._batches(segment):
            self._pull()
            loss = self._compute(batch)
            self._end.remarks[WEIGHT] = batch.weight if math.isfinite(loss) else math.nan
            if self._grains is not None and not self._task.clips_whole_gradient:
                self._end.remarks[NORM] = self._grains.norm()
            self._push()

    def _compute(self, batch: Batch) -> float:
        """The loss of a part of a batch; its gradient is left in `_gradient`."""
        loss = self._network.gradients(batch.x, batch.targets, self._masks, batch.start, batch.weights)
        self._rows += len(batch.x)
        self._weights_seen.append(batch.weight)
        self._weight = batch.weight
        self._losses.append(loss)
        self.gradients_computed += 1
        return loss

    def _pull(self) -> None:
        began = time.perf_counter()
        self._end.pull(self._number)
        self._waited += time.perf_counter() - began
        if self._is_beginning:  # of an epoch
            self._is_beginning = False
            if self._rank == 0:
                self._before = self._end.parameters.copy()

    def _push(self) -> None:
        began = time.perf_counter()
        self._end.push(self._number)
        self._number += 1
        self._waited += time.perf_counter() - began

    def _batches(self, segment: Segment) -> Iterator[Batch]:
        """The worker's part of each batch, gathered while the servers are still at work on the one before."""
        order = self._begin(segment.epoch)
        for begin, end in self._spans(segment):
            yield self._gather(order, *share(begin, end, self._rank, self._task.workers))

    def _spans(self, segment: Segment) -> Iterator[tuple[int, int]]:
        """Where each batch of a segment begins and ends in the epoch's order."""
        size, rows = self._task.batch_size, len(self._data.x)
        for step in range(segment.first, segment.last):
            yield step * size, min((step + 1) * size, rows)

    def _begin(self, epoch: int) -> NDArray[Any]:
        """The order of an epoch's rows, made when the epoch begins."""
        task = self._task
        if self._epoch != epoch:
            self._masks = DropoutMasks(task.seed, epoch) if task.shape.has_dropout else None
            self._order = epoch_order(len(self._data.x), epoch, task.seed, task.shuffle, task.block_rows)
            self._epoch = epoch
        return self._order

    def _gather(self, order: NDArray[Any], start: int, stop: int) -> Batch:
        rows = order[start:stop]
        x, targets, weights = self._network.x(len(rows)), self._targets[: len(rows)], None
        # "clip" writes without a copy in between
        self._data.x.take(rows, 0, x, "clip")
        self._data.targets.take(rows, 0, targets, "clip")
        weight = float(len(rows))
        if self._weights is not None and self._data.weights is not None:
            weights = self._weights[: len(rows)]
            self._data.weights.take(rows, 0, weights, "clip")
            weight = float(weights.sum(dtype=np.float64))
        return Batch(x, targets, weights, start, weight)


class ReproducibleWorker(GradientWorker):
    """Computes the gradients of whole leaves, and adds them along the one tree (see `tree_sum`)."""

    def __init__(self, rank: int, task: TrainingTask, data: SharedRows, end: WorkerEnd) -> None:
        self._leaf = np.empty(task.parameters, task.dtype)
        self._nodes = nodes(rank, task.workers)
        depth = max((node.size.bit_length() - 1 for node in self._nodes), default=0)
        self._partial = np.empty((depth, task.parameters), task.dtype)
        super().__init__(rank, task, data, end)

    @property
    def _gradient(self) -> Vector:
        return self._leaf

    def _train(self, segment: Segment) -> None:
        order, weights = self._begin(segment.epoch), self._end.remarks[WEIGHTS]
        for begin, end in self._spans(segment):
            self._pull()
            weights[:] = 0
            for slot, node in enumerate(self._nodes):
                for place in range(node.size):
                    leaf = node.start + place
                    batch = self._gather(order, *share(begin, end, leaf, LEAVES))
                    loss = self._compute(batch)
                    weights[leaf] = batch.weight if math.isfinite(loss) else math.nan
                    self._add(place, self._end.gradient[slot], is_last=place == node.size - 1)
                self._weight = float(weights[node.start : node.start + node.size].sum())  # of the sum in `_leaf`
            self._push()

    def _add(self, place: int, out: Vector, *, is_last: bool) -> None:
        """Adds a leaf to what is complete on its left, as a binary counter carries."""
        level = 0
        while place >> level & 1:
            np.add(self._partial[level], self._leaf, out=self._leaf)
            level += 1
        np.copyto(out if is_last else self._partial[level], self._leaf)


class LocalWorker(GradientWorker):
    """Takes steps of its own from the servers' parameters, then sends how far it went."""

    def __init__(
        self, rank: int, task: TrainingTask, data: SharedRows, end: WorkerEnd, state: State | None = None
    ) -> None:
        self._own = np.empty(task.parameters, task.dtype)
        self._own_gradient = np.empty(task.parameters, task.dtype)
        self._sending = self._exchange = 0.0
        """Seconds that the last sending took, and the last exchange as a whole."""
        super().__init__(rank, task, data, end)
        self._optimizer = make_optimizer(task.optimizer, self._own, self._own_gradient, penalties_of(task))
        self._schedule = make_schedule(task.schedule, task.extent)
        self._limit = MaxNorm.of(task, self._own)
        if state is not None:
            self._optimizer.restore(state)

    def state(self) -> State:
        return self._optimizer.state()

    @property
    def _parameters(self) -> Vector:
        return self._own

    @property
    def _gradient(self) -> Vector:
        return self._own_gradient

    def _train(self, segment: Segment) -> None:
        total, batches, done = segment.steps, self._batches(segment), 0
        self._position = (segment.epoch - 1) * self._task.steps_per_epoch + segment.first
        self._rate = segment.rate
        while done < total:
            self._pull()
            steps = min(int(self._end.note), total - done)
            began = time.perf_counter()
            weight = sum(self._step(batch) for batch in islice(batches, steps))
            busy = (time.perf_counter() - began) / steps
            done += steps
            self._end.remarks[WEIGHT], self._end.remarks[POSITION] = weight, done
            self._end.remarks[BUSY], self._end.remarks[EXCHANGE] = busy, self._exchange
            self._send(weight)

    def _pull(self) -> None:
        before = self._waited
        super()._pull()
        began = time.perf_counter()
        np.copyto(self._own, self._end.parameters)
        self._waited += time.perf_counter() - began
        self._exchange = self._sending + self._waited - before

    def _step(self, batch: Batch) -> float:
        """A step of the worker's own; the rows' weight, or no number where the loss is none."""
        self._end.look()
        loss = self._compute(batch)
        rate = self._rate * self._schedule.factor(self._position)
        self._position += 1
        if not (math.isfinite(loss) and is_finite(self._own_gradient)):
            return math.nan
        if batch.weight:
            scale = 1 / batch.weight
            if self._grains is not None and self._task.clip_norm is not None:
                norm = scale * self._grains.norm()
                if not math.isfinite(norm):
                    return math.nan
                scale *= clipping(self._task.clip_norm, norm)
            self._optimizer.step(scale, rate)
            self._limit.apply()
        return batch.weight

    def _send(self, weight: float) -> None:
        """Posts the way from the servers' parameters to the worker's, backwards as a gradient points, by weight."""
        before = self._waited
        began = time.perf_counter()
        moved = self._end.gradient[0]
        np.subtract(self._end.parameters, self._own, out=moved)
        np.multiply(moved, weight, out=moved)
        self._waited += time.perf_counter() - began
        self._push()
        self._sending = self._waited - before


def make_worker(
    rank: int, task: TrainingTask, data: SharedRows, end: WorkerEnd, state: State | None = None
) -> GradientWorker:
    """The worker that the task's synchrony demands; `state`: of the one whose place it takes."""
    if task.reproducible:
        return ReproducibleWorker(rank, task, data, end)
    if isinstance(task.synchrony, training.LocalSteps):
        return LocalWorker(rank, task, data, end, state)
    return GradientWorker(rank, task, data, end)
