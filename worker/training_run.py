"""One job from start to end: data, processes, training, model."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version

from common.errors import Conflict, CorruptRecord
from common.identifiers import new_id
from common.learned import LearnedDocument, output_of, width_of
from common.network.saved import weights_to_bytes
from common.network.structure import parameter_count
from common.schemas.checkpoints import Checkpoint
from common.schemas.datasets import Dataset
from common.schemas.jobs import Job, StopReason, TrainingJob
from common.schemas.models import Evaluation, Lineage, Model
from common.schemas.training import DatasetSplit
from common.settings import Settings
from common.store.checkpoints import SavedTraining
from common.store.jobs import Claim
from common.store.models import StoredModel
from common.store.stores import Stores, utc_now
from worker.actors import ActorPool, Reservation, States
from worker.beside import beside
from worker.channel import FENCE_BYTES, Vector
from worker.final_evaluation import evaluate_wholly
from worker.run import LOOK_SECONDS, Run
from worker.schedules import plateau_of
from worker.standing import Standing
from worker.stopping import StoppingRule
from worker.task import TrainingTask
from worker.training import Training, states_of
from worker.training_data import Preparation, PreparedData
from worker.warm_start import warm_start

log = logging.getLogger("chainrule.run")

_RENEW_SECONDS = 5.0
"""Between looks at whether the cluster is still the one that the processors were asked of."""


class TrainingRun(Run):
    """Trains a model.

    Args:
        stores: records and data.
        claim: the job and the fence it is held with.
        pool: where its servers and workers come from.
        settings: the memory that data may take.
        abandon: ends this process; called from another thread when the job was taken from it while it was busy.
        clock: monotonic seconds.

    """

    def __init__(
        self,
        stores: Stores,
        claim: Claim,
        pool: ActorPool,
        settings: Settings,
        abandon: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(stores, claim, abandon)
        self._pool = pool
        self._settings = settings
        self._clock = clock

    def _carry_out(self, job: Job) -> None:
        assert isinstance(job, TrainingJob)
        dataset = self._stores.datasets.get(job.request.dataset_id)
        validation = job.request.validation
        judge = self._stores.datasets.get(validation.dataset_id) if isinstance(validation, DatasetSplit) else None
        preparation = Preparation(job.request, job.task, dataset, judge, self._settings)
        with beside(LOOK_SECONDS, self._look):
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
        self,
        reservation: Reservation,
        job: TrainingJob,
        dataset: Dataset,
        preparation: Preparation,
        prepared: PreparedData,
    ) -> None:
        for warning in prepared.warnings:
            self._stores.jobs.record(self._claim, kind="warning", event={"message": warning})
        renew_at = self._clock() + _RENEW_SECONDS
        while not reservation.wait(LOOK_SECONDS):
            if self._is_wanted_elsewhere():
                return
            if self._clock() >= renew_at:
                renew_at = self._clock() + _RENEW_SECONDS
                reservation.renew()
        found = self._newest_checkpoint(job)
        task = _task(job, prepared, None if found is None else found[1])
        plateau = plateau_of(job.request.schedule)
        standing = Standing(StoppingRule(job.request.stopping, job.request.training.epochs), plateau)
        start: States | Vector | None = None
        number = None
        if found is not None:
            standing = Standing.from_document(found[1].document["standing"], standing.rule, plateau)
            start, number = states_of(found[1], task), found[0].number
        elif job.request.base_model_id is not None:
            base = self._stores.models.load(job.request.base_model_id)
            start = warm_start(base, task, prepared.encoder, prepared.target)
        with beside(LOOK_SECONDS, self._look):
            group = self._pool.group(task, prepared.data, preparation, reservation, start)
        try:
            for process in group.processes():
                self._stores.jobs.record(self._claim, kind="worker", event={"phase": "started", **process})
            self._stores.jobs.begin(self._claim, standing.progress, standing.best_metrics, checkpoint=number)
            training = Training(
                self._stores,
                self._claim,
                job,
                task,
                prepared,
                group,
                standing,
                self._settings,
                self._clock,
            )
            stop_reason = training.run()
            if stop_reason is None:
                return
            training.settle(stop_reason)
            for process in group.processes():
                self._stores.jobs.record(self._claim, kind="worker", event={"phase": "finished", **process})
            self._finish(job, dataset, task, preparation, prepared, training, stop_reason)
        finally:
            group.close()

    def _newest_checkpoint(self, job: TrainingJob) -> tuple[Checkpoint, SavedTraining] | None:
        """The newest one that is intact; a damaged one is told of."""
        for checkpoint in self._stores.checkpoints.of_job(job.id):
            try:
                return checkpoint, self._stores.checkpoints.load(job.id, checkpoint)
            except CorruptRecord as error:
                log.warning("%s: %s", job.id, error.message)
                self._stores.jobs.record(self._claim, kind="warning", event={"message": error.message})
        return None

    def _finish(
        self,
        job: TrainingJob,
        dataset: Dataset,
        task: TrainingTask,
        preparation: Preparation,
        prepared: PreparedData,
        training: Training,
        stop_reason: StopReason,
    ) -> None:
        jobs = self._stores.jobs
        told = training.best_metrics
        if told is None:
            jobs.end_cancelled(self._claim)
            return
        weights, metrics, evaluation = training.best_weights(), told, None
        if stop_reason != "cancelled":  # who cancels does not wait for another pass over the rows
            numbers = preparation.validation_numbers() if job.task == "regression" else None
            found, evaluation = evaluate_wholly(task, prepared, weights, numbers)
            metrics = {**found, **told}  # the same to a rounding error, and what the epochs have shown stays
            if prepared.class_weights is not None:  # by which the loss of the epochs was weighed
                metrics["log_loss"] = found["log_loss"]
        model = _model(job, dataset, task, prepared, metrics, evaluation, weights, training.averaged_epochs)
        self._stores.models.save(model)
        published = (model.record.id, model.record.name)
        if stop_reason != "cancelled":
            try:
                jobs.succeed(self._claim, stop_reason, metrics, published)
            except Conflict:  # a cancel came in between
                stop_reason = "cancelled"
        if stop_reason == "cancelled":
            jobs.end_cancelled(self._claim, metrics, published)
        self._stores.checkpoints.discard(job.id)


def _task(job: TrainingJob, prepared: PreparedData, saved: SavedTraining | None) -> TrainingTask:
    """The task of a job; cut into the shards of a checkpoint where there is one."""
    request, encoder = job.request, prepared.encoder
    assert request.loss is not None
    outputs = width_of(prepared.target, request.loss)
    assert request.training.batch_size is not None
    assert request.training.seed is not None
    parameters = parameter_count(request.network, encoder.width, outputs, encoder.embeddings)
    lanes = _lanes(parameters // request.cluster.servers) if saved is None else saved.document["lanes"]
    return TrainingTask(
        task=job.task,
        shape=request.network,
        loss=request.loss,
        optimizer=request.optimizer,
        inputs=encoder.width,
        outputs=outputs,
        parameters=parameters,
        batch_size=request.training.batch_size,
        shuffle=request.training.shuffle,
        seed=request.training.seed,
        workers=request.cluster.workers,
        fence=os.urandom(FENCE_BYTES),
        synchrony=request.cluster.synchrony,
        reproducible=request.training.reproducible,
        regularization=request.regularization,
        schedule=request.schedule,
        epochs=request.training.epochs,
        steps_per_epoch=-(-len(prepared.data.x) // request.training.batch_size),
        embeddings=encoder.embeddings,
        servers=request.cluster.servers,
        lanes=1 if request.regularization.max_norm is not None else lanes,
        block_rows=prepared.data.block_rows,
    )


def _lanes(parameters: int) -> int:
    """Threads of each server: more where there is enough to do for each, and they have processors to do it."""
    return max(1, min(os.cpu_count() or 1, parameters // _PARAMETERS_OF_A_LANE, _MOST_LANES))


_PARAMETERS_OF_A_LANE = 65_536
_MOST_LANES = 4


def _model(
    job: TrainingJob,
    dataset: Dataset,
    task: TrainingTask,
    prepared: PreparedData,
    metrics: dict[str, float],
    evaluation: Evaluation | None,
    weights: Vector,
    averaged_epochs: int,
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
        evaluation=evaluation,
        parameters=task.parameters,
        created_at=utc_now(),
        lineage=Lineage(
            dataset_sha256=dataset.sha256,
            seed=task.seed,
            attempt=job.attempt,
            averaged_epochs=averaged_epochs,
            base_model_id=job.request.base_model_id,
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
    return StoredModel(record, document.model_dump(mode="json"), weights_to_bytes(weights))
