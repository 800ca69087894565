"""One job from start to end: data, actors, epochs, evaluation, stopping, status, model."""

from __future__ import annotations

import logging
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from common.errors import Conflict, Diverged, FenceLost, OutOfMemory, StorageFull, StoreUnavailable, TrainingFailure
from common.features.target import NumberTarget
from common.identifiers import new_id
from common.learned import LearnedDocument, output_of, width_of
from common.network.metrics import MetricSums
from common.network.parameters import parameter_count
from common.network.saved import weights_to_bytes
from common.schemas.datasets import Dataset
from common.schemas.jobs import EpochMetrics, Job, JobError, Progress, StopReason
from common.schemas.models import Lineage, Model
from common.settings import Settings
from common.store.jobs import Claim
from common.store.models import StoredModel
from common.store.stores import Stores, utc_now
from worker.actors import ActorGroup, ActorPool, ProcessLost, Reservation
from worker.channel import FENCE_BYTES
from worker.evaluator import Evaluator
from worker.stopping import StoppingRule
from worker.task import EpochSums, TrainingTask
from worker.training_data import Preparation, PreparedData

log = logging.getLogger("chainrule.run")

_LOOK_SECONDS = 0.2
"""Between looks at whether a cancel was asked for, inside an epoch."""
_TELL_SECONDS = 1.0
"""Between events of progress: epochs of a small set take milliseconds, and would crowd all else out of the events."""
_RENEW_SECONDS = 5.0
"""Between looks at whether the cluster is still the one that the processors were asked of."""
_HALT_SECONDS = 10.0
"""How long everyone may take to notice that the epoch was halted: a step, and some patience."""

_HINTS = {
    "diverged": "Use a smaller learning rate, or look for extreme values in the data.",
    "out_of_memory": "Use a smaller network or batch, fewer workers, or a machine with more memory.",
}


class TrainingRun:
    """Carries out a claimed job.

    Args:
        stores: records and data.
        claim: the job and the fence it is held with.
        pool: where its servers and workers come from.
        settings: the memory that data may take.
        clock: monotonic seconds.

    """

    def __init__(
        self,
        stores: Stores,
        claim: Claim,
        pool: ActorPool,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stores = stores
        self._claim = claim
        self._pool = pool
        self._settings = settings
        self._clock = clock

    def run(self) -> None:
        """Trains until a reason to stop, and ends the job: succeeded, cancelled or failed.

        Raises:
            FenceLost: the job has passed to another holder; nothing more was written.
            ProcessLost: a process died; the job is as it was.
            StoreUnavailable, StorageFull: Redis was away, or full, for too long.

        """
        jobs = self._stores.jobs
        try:
            job = jobs.get(self._claim.job_id)
            if jobs.cancel_asked(self._claim):
                jobs.end_cancelled(self._claim)
                return
            self._train(job)
        except TrainingFailure as error:
            self._fail(error)
        except (FenceLost, ProcessLost, StoreUnavailable, StorageFull):
            raise
        except MemoryError:
            self._fail(OutOfMemory("The run could not get the memory it needed."))
        except Exception:
            log.exception("%s failed", self._claim.job_id)
            self._fail(
                TrainingFailure(
                    "Something went wrong inside the run.",
                    code="internal",
                    hint="The operator's log has the details.",
                )
            )

    def _train(self, job: Job) -> None:
        dataset = self._stores.datasets.get(job.request.dataset_id)
        preparation = Preparation(job.request, job.task, dataset, self._settings)
        prepared = preparation.prepare()
        try:
            reservation = Reservation(job.request.cluster.workers)
            try:
                self._train_on(reservation, job, dataset, preparation, prepared)
            finally:
                reservation.release()
        finally:
            prepared.data.close()

    def _train_on(
        self, reservation: Reservation, job: Job, dataset: Dataset, preparation: Preparation, prepared: PreparedData
    ) -> None:
        for warning in prepared.warnings:
            self._stores.jobs.record(self._claim, kind="warning", event={"message": warning})
        renew_at = self._clock() + _RENEW_SECONDS
        while not reservation.wait(_LOOK_SECONDS):
            if self._stores.jobs.cancel_asked(self._claim):
                self._stores.jobs.end_cancelled(self._claim)
                return
            if self._clock() >= renew_at:
                renew_at = self._clock() + _RENEW_SECONDS
                reservation.renew()
        task = _task(job, prepared)
        group = self._pool.group(task, prepared.data, preparation, reservation)
        try:
            for process in group.processes():
                self._stores.jobs.record(self._claim, kind="worker", event={"phase": "started", **process})
            self._stores.jobs.begin(self._claim)
            training = _Training(self._stores, self._claim, job, task, prepared, group, self._clock)
            stop_reason = training.run()
            for process in group.processes():
                self._stores.jobs.record(self._claim, kind="worker", event={"phase": "finished", **process})
            self._finish(job, dataset, task, prepared, training, stop_reason)
        finally:
            group.close()

    def _finish(
        self,
        job: Job,
        dataset: Dataset,
        task: TrainingTask,
        prepared: PreparedData,
        training: _Training,
        stop_reason: StopReason,
    ) -> None:
        jobs = self._stores.jobs
        metrics = training.best_metrics
        if metrics is None:
            jobs.end_cancelled(self._claim)
            return
        model = _model(job, dataset, task, prepared, metrics, training.best_weights())
        self._stores.models.save(model)
        published = (model.record.id, model.record.name)
        if stop_reason != "cancelled":
            try:
                jobs.succeed(self._claim, stop_reason, metrics, published)
            except Conflict:  # a cancel came in between
                stop_reason = "cancelled"
        if stop_reason == "cancelled":
            jobs.end_cancelled(self._claim, metrics, published)

    def _fail(self, error: TrainingFailure) -> None:
        failure = JobError.model_validate(
            {
                "code": error.stable_code,
                "message": error.message,
                "hint": error.hint or _HINTS.get(error.stable_code),
            }
        )
        self._stores.jobs.fail(self._claim, failure)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was seen of an epoch, and decided on it."""

    stop: StopReason | None
    progress: Progress
    seconds: float
    """Since the first step."""
    metrics: dict[str, float]
    communication: float


class _Training:
    """The epochs of one run, and what is known of them."""

    def __init__(
        self,
        stores: Stores,
        claim: Claim,
        job: Job,
        task: TrainingTask,
        prepared: PreparedData,
        group: ActorGroup,
        clock: Callable[[], float],
    ) -> None:
        self._stores = stores
        self._claim = claim
        self._request = job.request
        self._task = task
        self._data = prepared.data
        self._rows = len(prepared.data.x)
        self._has_validation = prepared.has_validation
        self._scale = prepared.target.scale if isinstance(prepared.target, NumberTarget) else 1.0
        self._group = group
        self._clock = clock
        self._rule = StoppingRule(job.request.stopping, job.request.training.epochs)
        self._rows_seen = 0
        self._told = 0.0
        self.best_metrics: dict[str, float] | None = None

    def run(self) -> StopReason:
        """Trains; answers why it stopped."""
        steps = self._task.steps(self._rows)
        self._began = self._clock()
        epoch = 1
        self._group.begin_epoch(epoch, steps)
        while True:
            interruption = self._await_epoch()
            sums, told = self._group.finish_epoch()
            if any(part.halted for part in sums):
                assert interruption is not None
                return self._interrupted(interruption)
            seen = self._judge(epoch, sums)
            if seen.stop is None and interruption is None:
                self._group.begin_epoch(epoch + 1, steps)  # nobody waits while this one is written down
            is_cancelled = self._record(seen, told)
            if stop := seen.stop or interruption:
                return stop
            if is_cancelled:
                self._halt()
                return "cancelled"
            epoch += 1

    def best_weights(self) -> bytes:
        """The saved form of the best parameters."""
        best = self._group.best()
        if not np.isfinite(best).all():
            raise TrainingFailure("The weights are no finite numbers.", code="diverged")
        return weights_to_bytes(best)

    def _await_epoch(self) -> StopReason | None:
        """Waits for the epoch's end, or halts it when a cancel or the time limit comes first."""
        limit = self._request.stopping.max_seconds
        while not self._group.wait(_LOOK_SECONDS):
            reason: StopReason | None = None
            if self._stores.jobs.cancel_asked(self._claim):
                reason = "cancelled"
            elif limit is not None and self._clock() - self._began >= limit:
                reason = "time_limit"
            if reason is not None:
                self._halt()
                return reason
        return None

    def _halt(self) -> None:
        self._group.halt()
        if not self._group.wait(_HALT_SECONDS):
            raise ProcessLost("A process of the run does not answer.")

    def _interrupted(self, reason: StopReason) -> StopReason:
        """Before the first epoch's end there is no best yet: then the weights as they are must do."""
        if self.best_metrics is None:
            self._group.remember_best()
            evaluator = Evaluator(self._task, self._data, self._group.best())
            evaluation = MetricSums.total(map(evaluator.evaluate, evaluator.pieces()))
            if np.isfinite(evaluation.loss):
                self.best_metrics = self._metrics(evaluation)
            elif reason != "cancelled":
                raise Diverged("The validation loss is no finite number.")
        return reason

    def _judge(self, epoch: int, sums: list[EpochSums]) -> _Seen:
        """Judges a whole epoch, keeps its weights if they are the best, and decides whether to go on."""
        evaluation = MetricSums.total(piece for part in sums for piece in part.evaluation)
        loss = evaluation.loss
        # Without validation rows the evaluation is that of the training rows, and exact: the running mean is not.
        train_loss = _mean_loss(sums) if self._has_validation else loss
        seconds = self._clock() - self._began
        self._rule.check_growth(train_loss)
        metrics = self._metrics(evaluation)
        if self._rule.is_best(epoch, loss):
            self._group.remember_best()
            self.best_metrics = metrics
        self._rows_seen += sum(part.rows for part in sums)
        error = 1 - metrics["accuracy"] if self._task.task == "classification" else metrics["rmse"]
        stop = self._rule.decide(epoch, loss, error, seconds)
        progress = self._progress(epoch, train_loss, loss, seconds, is_last=stop is not None)
        return _Seen(stop, progress, seconds, metrics, _communication(sums))

    def _record(self, seen: _Seen, told: dict[str, Any]) -> bool:
        """Writes down what was seen of an epoch; whether a cancel was asked for."""
        progress = seen.progress
        is_told = seen.stop is not None or progress.epoch == 1 or seen.seconds - self._told >= _TELL_SECONDS
        if is_told:
            self._told = seen.seconds
        return self._stores.jobs.record(
            self._claim,
            kind="progress" if is_told else None,
            event=progress.model_dump(mode="json") if is_told else None,
            epoch=EpochMetrics(
                epoch=progress.epoch,
                seconds=seen.seconds,
                train_loss=progress.train_loss,
                validation_loss=progress.validation_loss,
                metrics=seen.metrics,
                communication=seen.communication,
                **told,
            ),
            progress=progress,
            metrics=self.best_metrics,
        )

    def _progress(self, epoch: int, train_loss: float, loss: float, seconds: float, *, is_last: bool) -> Progress:
        epochs = self._request.training.epochs
        return Progress(
            fraction=1.0 if is_last else epoch / epochs,
            epoch=epoch,
            epochs=epochs,
            step=epoch * self._task.steps(self._rows),
            rows_seen=self._rows_seen,
            rows_per_second=self._rows_seen / max(seconds, 1e-9),
            eta_seconds=0.0 if is_last else seconds / epoch * (epochs - epoch),
            train_loss=train_loss,
            validation_loss=loss if self._has_validation else None,
            best_epoch=self._rule.best_epoch,
        )

    def _metrics(self, evaluation: MetricSums) -> dict[str, float]:
        metrics = evaluation.metrics(self._task.task, self._scale)
        if not all(map(math.isfinite, metrics.values())):
            raise Diverged("The metrics of the validation rows are no finite numbers.")
        return metrics


def _mean_loss(sums: list[EpochSums]) -> float:
    return math.fsum(loss for part in sums for loss in part.losses) / math.fsum(part.weight for part in sums)


def _communication(sums: list[EpochSums]) -> float:
    return sum(part.waiting for part in sums) / max(sum(part.seconds for part in sums), 1e-9)


def _task(job: Job, prepared: PreparedData) -> TrainingTask:
    request, outputs = job.request, width_of(prepared.target)
    assert request.loss is not None
    assert request.training.batch_size is not None
    assert request.training.seed is not None
    parameters = parameter_count(request.network, prepared.encoder.width, outputs)
    return TrainingTask(
        task=job.task,
        shape=request.network,
        loss=request.loss,
        optimizer=request.optimizer,
        inputs=prepared.encoder.width,
        outputs=outputs,
        parameters=parameters,
        batch_size=request.training.batch_size,
        shuffle=request.training.shuffle,
        seed=request.training.seed,
        workers=request.cluster.workers,
        fence=os.urandom(FENCE_BYTES),
        synchrony=request.cluster.synchrony,
        reproducible=request.training.reproducible,
        clip_norm=request.regularization.clip_norm,
        servers=request.cluster.servers,
        lanes=_lanes(parameters // request.cluster.servers),
        block_rows=prepared.data.block_rows,
    )


def _lanes(parameters: int) -> int:
    """Threads of each server: more where there is enough to do for each, and they have processors to do it."""
    return max(1, min(os.cpu_count() or 1, parameters // _PARAMETERS_OF_A_LANE, _MOST_LANES))


_PARAMETERS_OF_A_LANE = 65_536
_MOST_LANES = 4


def _model(
    job: Job,
    dataset: Dataset,
    task: TrainingTask,
    prepared: PreparedData,
    metrics: dict[str, float],
    weights: bytes,
) -> StoredModel:
    assert job.request.model_name is not None
    assert job.request.loss is not None
    record = Model(
        id=new_id("mdl"),
        name=job.request.model_name,
        version=0,  # given when it is published
        job_id=job.id,
        dataset_id=dataset.id,
        task=job.task,
        inputs=prepared.encoder.inputs,
        output=output_of(job.request.target, prepared.target),
        metrics=metrics,
        parameters=task.parameters,
        created_at=utc_now(),
        lineage=Lineage(
            dataset_sha256=dataset.sha256,
            seed=task.seed,
            attempt=job.attempt,
            request=job.request.model_dump(mode="json"),
            versions={
                "python": platform.python_version(),
                **{name: version(name) for name in ("chainrule", "numpy", "ray")},
            },
        ),
    )
    document = LearnedDocument(
        network=job.request.network,
        loss=job.request.loss,
        encoder=prepared.encoder.to_document(),
        target=prepared.target.to_document(),
    )
    return StoredModel(record, document.model_dump(mode="json"), weights)
