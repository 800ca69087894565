"""Jobs as callers see them: those that train, and those that predict a whole data set."""

from __future__ import annotations

from typing import Literal

from common.lifecycle import State
from common.schemas.batch_predictions import BatchPredictionRequest
from common.schemas.models import Task
from common.schemas.record import Listed, Record, Time
from common.schemas.training import TrainingRequest

StopReason = Literal["target_reached", "epochs_done", "patience", "time_limit", "cancelled", "rows_done"]
FailureCode = Literal[
    "diverged",
    "out_of_memory",
    "bad_data",
    "worker_lost",
    "operator_limit",
    "cluster_too_small",
    "state_lost",
    "internal",
]
EventKind = Literal["state", "progress", "checkpoint", "warning", "worker"]


class Progress(Record):
    """Where a run stands after its last whole epoch."""

    fraction: float
    """Of the epochs asked for; an early stop jumps to 1."""
    epoch: int
    """Epochs done."""
    epochs: int
    step: int
    """Updates applied."""
    rows_seen: int
    rows_per_second: float
    """Training rows over wall time since the first step, waits included."""
    eta_seconds: float | None
    """If all epochs are run."""
    train_loss: float
    validation_loss: float | None
    best_epoch: int


class PredictionProgress(Record):
    """Where a run that predicts stands; its names are those of `Progress`, where both have them."""

    fraction: float
    """Of the rows."""
    rows_seen: int
    """Rows predicted."""
    rows: int
    """Rows of the data set."""
    rows_per_second: float
    """Over the wall time since the first row."""
    eta_seconds: float | None
    """Null before the first rows."""


class JobError(Record):
    """Why a job failed."""

    code: FailureCode
    message: str
    hint: str | None = None


class JobRecord(Record):
    """What all jobs tell."""

    id: str
    name: str | None
    state: State
    revision: int
    """Rises with every change."""
    attempt: int
    created_at: Time
    started_at: Time | None = None
    finished_at: Time | None = None
    queue_position: int | None = None
    """0: next to start. Null when not queued."""
    waiting_for: str | None = None
    """Why a queued job does not start although others may; null when it only waits for its turn."""
    task: Task
    metrics: dict[str, float] | None = None
    """Of the best weights so far, on the validation rows; of predictions there are none."""
    stop_reason: StopReason | None = None
    model_id: str | None = None
    """The model that was learned."""
    result_dataset_id: str | None = None
    """The data set that the predictions became."""
    error: JobError | None = None
    labels: dict[str, str] = {}
    warnings: Listed[str] = ()
    """What is worth knowing of the request, as a dry run says it."""


class TrainingJob(JobRecord):
    """A job that learns a model."""

    kind: Literal["training"] = "training"
    request: TrainingRequest
    """In full, every default filled in."""
    progress: Progress | None = None

    @property
    def workers(self) -> int:
        """Processes that need a processor each, or a share of one."""
        return self.request.cluster.workers


class PredictionJob(JobRecord):
    """A job that predicts the rows of a data set."""

    kind: Literal["prediction"]
    request: BatchPredictionRequest
    progress: PredictionProgress | None = None

    @property
    def workers(self) -> int:
        """Processes that need a processor: its run."""
        return 1


Job = TrainingJob | PredictionJob


class JobEvent(Record):
    """Something that happened to a job."""

    id: str
    """Rises with every event of a job."""
    kind: EventKind
    at: Time
    data: dict[str, object]


class EpochMetrics(Record):
    """One epoch of a run."""

    epoch: int
    seconds: float
    """Since the first step."""
    train_loss: float
    validation_loss: float | None
    metrics: dict[str, float]
    communication: float | None = None
    """The share of the workers' time in which they waited or exchanged numbers instead of computing."""
    staleness: tuple[int, ...] | None = None
    """With bounded staleness: how many steps began 0, 1, 2, … steps ahead of the slowest worker."""
    local_steps: float | None = None
    """With local steps: how many were taken between two averages, in the mean."""
    layers: dict[str, dict[str, float]] | None = None
    """Of each layer: `gradient_norm`, of the mean gradient over the first worker's rows of the last batch; `update_norm`,
    how far its parameters moved in the epoch; `dead`, the share of relus that are 0 for all of the first validation
    rows, 512 at most; `saturated`, the share of sigmoid or tanh outputs within 0.01 of a limit."""


class DryRun(Record):
    """What a training request would do."""

    valid: bool
    errors: list[dict[str, str]]
    task: Task | None = None
    parameters: int | None = None
    memory_bytes: int | None = None
    rows: int | None = None
    features: int | None = None
    classes: int | None = None
    warnings: list[str] = []
