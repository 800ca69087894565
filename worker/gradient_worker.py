"""A gradient worker: forward and backward on its shard of every batch.

A plain class that knows neither Ray nor sockets; `actors.py` makes it a process of its own.
"""

from __future__ import annotations

import math

import numpy as np

from common.network.dropout import DropoutMasks
from common.network.metrics import MetricSums, classification_sums, regression_sums
from common.network.network import Network
from worker.channel import Halted, WorkerChannel
from worker.task import EpochSums, TrainingData, TrainingTask, epoch_order, share

_EVALUATION_ROWS = 1024


class GradientWorker:
    """Computes exact gradients of the loss on its part of each batch, and its part of every evaluation.

    Args:
        rank: its number among `task.workers`, from 0.
        task: what is trained.
        data: all rows; the worker reads those of its shard.
        channel: its end of the channel to the server.

    """

    def __init__(self, rank: int, task: TrainingTask, data: TrainingData, channel: WorkerChannel) -> None:
        self._rank = rank
        self._task = task
        self._data = data
        self._channel = channel
        largest = -(-min(task.batch_size, len(data.x)) // task.workers)
        self._network = self._make_network(largest, with_gradient=True)
        self._evaluator = self._make_network(min(_EVALUATION_ROWS, len(data.validation_x)), with_gradient=False)
        self._x = np.empty((largest, task.inputs), task.dtype)
        self._targets = np.empty((largest, *data.targets.shape[1:]), data.targets.dtype)
        self.gradients_pushed = 0
        self._has_dropout = any(layer.dropout for layer in task.shape.layers)

    def _make_network(self, rows: int, *, with_gradient: bool) -> Network:
        task = self._task
        return Network(
            task.shape,
            task.inputs,
            task.outputs,
            task.loss,
            max_rows=rows,
            parameters=self._channel.parameters,
            gradient=self._channel.gradient if with_gradient else None,
        )

    def run_epoch(self, epoch: int, version: int) -> EpochSums:
        """One pass over the training rows, beginning with parameters of `version`, then an evaluation.

        Raises:
            PeerLost: the server's process is gone.

        """
        try:
            rows, loss = self._train(epoch, version)
            self._channel.pull(version + self._task.steps(len(self._data.x)))
        except Halted:
            return EpochSums(0, 0.0, halted=True, evaluation=None)
        return EpochSums(rows, loss, halted=False, evaluation=self.evaluate())

    def _train(self, epoch: int, version: int) -> tuple[int, float]:
        order = epoch_order(self._task, len(self._data.x), epoch)
        masks = DropoutMasks(self._task.seed, epoch) if self._has_dropout else None
        rows, loss = 0, 0.0
        for begin in range(0, len(order), self._task.batch_size):
            end = min(begin + self._task.batch_size, len(order))
            start, stop = share(begin, end, self._rank, self._task.workers)
            x, targets = self._x[: stop - start], self._targets[: stop - start]
            # Gathered before waiting: the server is at work on the step before. mode="clip" writes without a copy.
            np.take(self._data.x, order[start:stop], axis=0, out=x, mode="clip")
            np.take(self._data.targets, order[start:stop], axis=0, out=targets, mode="clip")
            self._channel.pull(version)
            step_loss = self._network.gradients(x, targets, masks, start)
            version += 1
            # A weight that is no number tells the server that the training has diverged, at the step where it did.
            self.gradients_pushed += 1
            self._channel.push(version, stop - start if math.isfinite(step_loss) else math.nan)
            rows += stop - start
            loss += step_loss
        return rows, loss

    def evaluate(self) -> MetricSums:
        """The metrics' sums over its part of the validation rows, with the parameters as they are."""
        x, targets = self._data.validation_x, self._data.validation_targets
        start, stop = share(0, len(x), self._rank, self._task.workers)
        sums = MetricSums()
        measure = classification_sums if self._task.task == "classification" else regression_sums
        for begin in range(start, stop, _EVALUATION_ROWS):
            end = min(begin + _EVALUATION_ROWS, stop)
            outputs = self._evaluator.outputs(x[begin:end])
            loss = self._evaluator.loss.forward(outputs, targets[begin:end])
            sums = sums.merge(measure(outputs, targets[begin:end], loss))
        return sums
