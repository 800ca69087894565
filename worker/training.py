"""The epochs of one run: segments, evaluation, stopping, progress, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from common.errors import Diverged, FilesUnavailable, StorageFull, TrainingFailure
from common.features.target import NumberTarget
from common.learned import LearnedDocument
from common.lifecycle import Wish
from common.network.health import LayerHealth, merge
from common.network.metrics import MetricSums
from common.schemas.jobs import EpochMetrics, Progress, StopReason, TrainingJob
from common.schemas.training import LocalSteps
from common.settings import Settings
from common.store.checkpoints import SavedTraining
from common.store.jobs import Claim
from common.store.stores import Stores
from worker.actors import ActorGroup, ProcessLost, States
from worker.channel import Vector
from worker.evaluator import Evaluator, pieces
from worker.pacing import Pacing
from worker.parameter_server import Told
from worker.standing import Standing, Tally
from worker.task import Segment, SegmentSums, TrainingTask
from worker.training_data import PreparedData

_LOOK_SECONDS = 0.2
"""Between looks at what is asked for, inside a segment."""
_TELL_SECONDS = 1.0
"""Between events of progress: epochs of a small set take milliseconds, and would crowd all else out of the events."""
_TELL_SHARE = 1 / 600
"""Of the training time, where that is more: the events of a long training should reach back to its beginning."""
_HALT_SECONDS = 10.0
"""How long everyone may take to notice that the segment was halted: a step, and some patience."""
_LEAST_PATIENCE_SECONDS, _PATIENCE = 20.0, 20.0
"""A segment that takes longer than both, the second in multiples of what is expected, has met a frozen process."""
_FIRST_CHECKPOINT_SECONDS = 1.0
_CHECKPOINT_SHARE = 0.02
"""Of the training time, at most, for checkpoints."""
_FAILED_SHARE = 0.2
"""The same for those that an object store does not take: waiting for it costs time, and going on without costs work."""
_FIRST_PIECES = 32


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was seen of an epoch, and decided on it."""

    stop: StopReason | None
    progress: Progress
    row: EpochMetrics
    metrics: dict[str, float]


class Training:
    """The epochs of one run, and what is known of them.

    Args:
        stores: records and checkpoints.
        claim: the job and the fence it is held with.
        job: what was asked for.
        task: the same, resolved.
        prepared: the rows.
        group: the processes, which stand where `standing` does.
        standing: where to begin.
        settings: the time between checkpoints, and the operator's limit.
        clock: monotonic seconds.

    """

    def __init__(
        self,
        stores: Stores,
        claim: Claim,
        job: TrainingJob,
        task: TrainingTask,
        prepared: PreparedData,
        group: ActorGroup,
        standing: Standing,
        settings: Settings,
        clock: Callable[[], float],
    ) -> None:
        self._stores = stores
        self._claim = claim
        self._job = job
        self._task = task
        self._prepared = prepared
        self._data = prepared.data
        self._group = group
        self._standing = standing
        self._clock = clock
        self._steps = task.steps(len(self._data.x))
        self._pieces = pieces(self._data)
        self._pacing = Pacing(_multiple(task))
        self._evaluation_pacing = Pacing(first=_FIRST_PIECES)
        self._scale = prepared.target.scale if isinstance(prepared.target, NumberTarget) else 1.0
        self._segment = Segment(standing.epoch, standing.step, standing.step)
        self._wish: Wish | None = None
        self._told_at = 0.0
        self._warnings: list[str] = []
        """To be told of."""
        self._settings = settings
        self._checkpoint_at = self._began = self._segment_began = 0.0
        self._mean: Vector | None = None
        self.averaged_epochs = 1
        """How many epochs the best weights are the mean of."""

    @property
    def best_metrics(self) -> dict[str, float] | None:
        """Of the best weights so far; None while no epoch has been evaluated."""
        return self._standing.best_metrics

    def run(self) -> StopReason | None:
        """Trains; answers why it ended, or None when it was paused."""
        self._began = self._clock() - self._standing.seconds
        self._checkpoint_at = self._clock() + min(_FIRST_CHECKPOINT_SECONDS, self._settings.checkpoint_seconds)
        self._begin()
        while True:
            interruption = self._await()
            sums, told = self._group.finish()
            if any(part.halted for part in sums):
                assert interruption is not None
                return self._end(interruption)
            seen = self._take_in(sums, told)
            if stop := (seen.stop if seen else None) or interruption:
                self._record(seen)
                return self._end(stop)
            if self._wish == "pause" or self._clock() >= self._checkpoint_at:
                self._record(seen)
                self._save()
                if self._wish == "pause":
                    if self._stores.jobs.end_paused(self._claim):
                        return None
                    self._wish = self._stores.jobs.asked(self._claim)  # something else, meanwhile
                self._begin()
            else:
                self._begin()  # nobody waits while what was seen is written down
                self._record(seen)

    def settle(self, reason: StopReason) -> None:
        """Takes the mean of the best weights and those of all epochs after them, where that is better still.

        Once a training has run its course its weights wander around a minimum that lies nearer to their mean (Polyak
        and Juditsky, 1992; over the ends of epochs as Izmailov et al., UAI 2018, section 3). One evaluation tells.
        """
        at = self._standing
        epochs = at.epoch - at.rule.best_epoch
        if reason not in ("patience", "epochs_done") or epochs < 2 or not self._prepared.has_validation:
            return
        mean = self._group.mean()
        evaluator, sums = Evaluator(self._task, self._data, mean), list[MetricSums]()
        look_at = self._clock() + _LOOK_SECONDS
        for piece in self._pieces:
            sums.append(evaluator.evaluate(piece))
            if self._clock() >= look_at:
                if self._stores.jobs.asked(self._claim) == "cancel":
                    return
                look_at = self._clock() + _LOOK_SECONDS
        evaluation = MetricSums.total(sums)
        if evaluation.loss < at.rule.best_loss:
            self._mean, self.averaged_epochs = mean, epochs
            at.best_metrics = self._metrics(evaluation)

    def best_weights(self) -> Vector:
        """The best parameters."""
        best = self._group.best() if self._mean is None else self._mean
        if not np.isfinite(best).all():
            raise TrainingFailure("The weights are no finite numbers.", code="diverged")
        return best

    # Segments

    def _begin(self) -> None:
        """Sets everyone to work on what comes next."""
        at = self._standing
        if at.step < self._steps:
            last = at.step + self._pacing.take(self._steps - at.step)
            is_whole = (at.step, last) == (0, self._steps)
            self._segment = Segment(
                at.epoch,
                at.step,
                last,
                self._pieces if is_whole else range(0),
                rate=at.plateau.factor if at.plateau else 1.0,
            )
        else:
            first = len(at.tally.evaluation)
            count = self._evaluation_pacing.take(len(self._pieces) - first)
            self._segment = Segment(at.epoch, at.step, at.step, self._pieces[first : first + count])
        self._segment_began = self._clock()
        self._group.begin(self._segment)

    def _await(self) -> StopReason | None:
        """Waits for the segment's end, or halts it when a cancel or the time limit comes first."""
        limit, operators = self._job.request.stopping.max_seconds, self._settings.max_job_seconds
        deadline = self._segment_began + self._patience()
        while True:
            reason: StopReason | None = None
            seconds = self._clock() - self._began
            if self._wish == "cancel":
                reason = "cancelled"
            elif limit is not None and seconds >= limit:
                reason = "time_limit"
            elif operators is not None and seconds >= operators:
                raise TrainingFailure(
                    f"The training took longer than the {operators:g} seconds allowed here.",
                    code="operator_limit",
                    hint="Use fewer epochs, fewer rows or a smaller network, or ask the operator.",
                )
            if reason is not None:
                self._group.halt()
                if not self._group.wait(_HALT_SECONDS):
                    raise ProcessLost("A process of the run does not answer.")
                return reason
            if self._group.wait(_LOOK_SECONDS):
                return None
            if self._clock() >= deadline:
                raise ProcessLost("A process of the run does not answer.")
            self._wish = self._stores.jobs.asked(self._claim)

    def _patience(self) -> float:
        """Seconds after which somebody must be frozen; infinite for what was never done before: the channels look there."""
        segment = self._segment
        if segment.steps:
            expected = self._pacing.expected(segment.steps)
        else:
            expected = self._evaluation_pacing.expected(len(segment.pieces))
        return max(_LEAST_PATIENCE_SECONDS, _PATIENCE * expected)

    def _end(self, reason: StopReason) -> StopReason:
        """Ends the training. Before the first epoch's end there is no best yet: then the weights as they are must do."""
        if self._standing.best_metrics is None:
            self._group.remember(1)
            evaluator = Evaluator(self._task, self._data, self._group.best())
            evaluation = MetricSums.total(map(evaluator.evaluate, self._pieces))
            if np.isfinite(evaluation.loss):
                self._standing.best_metrics = self._metrics(evaluation)
            elif reason != "cancelled":
                raise Diverged("The validation loss is no finite number.")
        return reason

    def _take_in(self, sums: list[SegmentSums], told: Told) -> _Seen | None:
        """Adds a segment to what is known; what was seen of the epoch, when that ended it."""
        at, segment = self._standing, self._segment
        if segment.steps:
            self._pacing.note(segment.steps, max(part.seconds for part in sums))
        else:
            self._evaluation_pacing.note(len(segment.pieces), self._clock() - self._segment_began)
        at.tally.add(sums, told)
        at.step = segment.last
        at.seconds = self._clock() - self._began
        if len(at.tally.evaluation) < len(self._pieces):
            return None
        seen = self._judge(at)
        at.rows_seen += at.tally.rows
        at.epoch, at.step, at.tally = at.epoch + 1, 0, Tally()
        return seen

    # Epochs

    def _judge(self, at: Standing) -> _Seen:
        """Judges a whole epoch, keeps its weights if they are the best, and decides whether to go on."""
        evaluation = MetricSums.total(at.tally.evaluation)
        loss = evaluation.loss
        # Without validation rows the evaluation is that of the training rows, and exact: the running mean is not.
        train_loss = at.tally.loss if self._prepared.has_validation else loss
        at.rule.check_growth(train_loss)
        metrics = self._metrics(evaluation)
        if at.rule.is_best(at.epoch, loss):
            at.best_metrics = metrics
        self._group.remember(1 + at.epoch - at.rule.best_epoch)
        if at.plateau is not None and at.plateau.note(loss):
            self._warnings.append(
                f"The loss has stopped falling: the learning rate is now {at.plateau.factor:.3g} times the given one."
            )
        error = 1 - metrics["accuracy"] if self._task.task == "classification" else metrics["rmse"]
        stop = at.rule.decide(at.epoch, loss, error, at.seconds)
        validation_loss = loss if self._prepared.has_validation else None
        layers = merge(at.tally.health)
        self._warnings += at.health.note(layers)
        row = EpochMetrics(
            epoch=at.epoch,
            seconds=at.seconds,
            train_loss=train_loss,
            validation_loss=validation_loss,
            metrics=metrics,
            communication=at.tally.communication,
            staleness=at.tally.told.staleness or None,
            local_steps=self._steps / at.tally.told.rounds if at.tally.told.rounds else None,
            layers={layer.name: _rounded(layer) for layer in layers} or None,
        )
        return _Seen(stop, self._progress(at.epoch, train_loss, validation_loss, stop), row, metrics)

    def _record(self, seen: _Seen | None) -> None:
        """Writes down what was seen of an epoch, or where one that takes long has got to."""
        at = self._standing
        while self._warnings:
            self._stores.jobs.record(self._claim, kind="warning", event={"message": self._warnings.pop(0)})
        is_told = at.seconds - self._told_at >= max(_TELL_SECONDS, _TELL_SHARE * at.seconds)
        if seen is None:
            if not is_told:
                return
            validation_loss = at.progress.validation_loss if at.progress else None
            at.progress = self._progress(at.epoch - 1, at.tally.loss, validation_loss)
        else:
            at.progress = seen.progress
            is_told = is_told or seen.stop is not None or seen.row.epoch == 1
        if is_told:
            self._told_at = at.seconds
        self._wish = self._stores.jobs.record(
            self._claim,
            kind="progress" if is_told else None,
            event=at.progress.model_dump(mode="json") if is_told else None,
            epoch=None if seen is None else seen.row,
            progress=at.progress,
            metrics=at.best_metrics,
        )

    def _progress(
        self, epoch: int, train_loss: float, validation_loss: float | None, stop: StopReason | None = None
    ) -> Progress:
        """Where the run stands after so many whole epochs, and a part of the next."""
        at, epochs = self._standing, self._job.request.training.epochs
        done = (at.epoch - 1) * self._steps + at.step
        rows = at.rows_seen + at.tally.rows
        return Progress(
            fraction=1.0 if stop else done / (epochs * self._steps),
            epoch=epoch,
            epochs=epochs,
            step=done,
            rows_seen=rows,
            rows_per_second=rows / max(at.seconds, 1e-9),
            eta_seconds=0.0 if stop else at.seconds / done * (epochs * self._steps - done),
            train_loss=train_loss,
            validation_loss=validation_loss,
            best_epoch=at.rule.best_epoch,
        )

    def _metrics(self, evaluation: MetricSums) -> dict[str, float]:
        metrics = evaluation.metrics(self._task.task, self._scale)
        if not all(map(math.isfinite, metrics.values())):
            raise Diverged("The metrics of the validation rows are no finite numbers.")
        return metrics

    # Checkpoints

    def _save(self) -> None:
        """Writes a checkpoint; a full disk, or an object store that is away, is told of, and the training goes on without."""
        began, at, share = self._clock(), self._standing, _CHECKPOINT_SHARE
        saved = _saved(self._group.states(), at, self._task, self._prepared)
        try:
            self._stores.checkpoints.save(
                self._claim,
                saved,
                attempt=self._job.attempt,
                epoch=at.epoch - 1,
                step=at.step,
                seconds=lambda: self._clock() - began,
            )
        except (StorageFull, FilesUnavailable) as error:
            if self._wish == "pause":  # without one, all since the last would be lost
                raise
            self._stores.jobs.record(self._claim, kind="warning", event={"message": error.message})
            share = _FAILED_SHARE
        took = self._clock() - began
        self._checkpoint_at = self._clock() + max(self._settings.checkpoint_seconds, took / share)


def _multiple(task: TrainingTask) -> int:
    """What lengths of segments are multiples of: a given number of local steps is not cut short."""
    steps = task.synchrony.steps if isinstance(task.synchrony, LocalSteps) else 1
    return steps if isinstance(steps, int) else 1


def _rounded(layer: LayerHealth) -> dict[str, float]:
    """What is known of a layer, to four digits."""
    known = {field.name: getattr(layer, field.name) for field in fields(layer) if field.name != "name"}
    return {name: float(f"{value:.4g}") for name, value in known.items() if value is not None and math.isfinite(value)}


def _saved(states: States, standing: Standing, task: TrainingTask, prepared: PreparedData) -> SavedTraining:
    learned = LearnedDocument(
        network=task.shape,
        loss=task.loss,
        encoder=prepared.encoder.to_document(),
        target=prepared.target.to_document(),
    )
    arrays = {f"shard.{i}.{name}": array for i, state in enumerate(states.shards) for name, array in state.items()}
    arrays |= {f"worker.{i}.{name}": array for i, state in enumerate(states.workers) for name, array in state.items()}
    document = {
        "standing": standing.document(),
        "lanes": task.lanes,
        "parameters": task.parameters,
        "learned": learned.model_dump(mode="json"),
    }
    return SavedTraining(document, arrays)


def states_of(saved: SavedTraining, task: TrainingTask) -> States:
    """The states of servers and workers in a checkpoint."""
    return States(saved.states("shard", len(task.shards)), saved.states("worker", task.workers))
