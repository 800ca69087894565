"""Finds what a reference stands for, loads a model once, and keeps it while it is used."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from common.errors import Conflict, CorruptRecord
from common.identifiers import is_id
from common.learned import LearnedNetwork
from common.network.saved import weights_to_bytes
from common.schemas.checkpoints import Checkpoint
from common.schemas.jobs import Job
from common.store.checkpoints import CheckpointStore
from common.store.jobs import JobStore
from common.store.models import ModelStore

_MOST_KEPT = 50


@dataclass(frozen=True, slots=True)
class Found:
    """What a reference stands for."""

    id: str
    """Of the model; of the job while that has no model yet."""
    network: LearnedNetwork
    job: Job | None = None
    """The job, while it has no model yet."""


class Predictor:
    """The network of every model; the most recently used ones are in memory. May be called from any thread."""

    def __init__(self, models: ModelStore, jobs: JobStore, checkpoints: CheckpointStore) -> None:
        self._models = models
        self._jobs = jobs
        self._checkpoints = checkpoints
        self._kept: OrderedDict[str, LearnedNetwork] = OrderedDict()
        self._lock = threading.Lock()
        self._loading: dict[str, threading.Lock] = {}

    def find(self, ref: str) -> Found:
        """The network that a reference to a model, or the id of a job, stands for.

        Raises:
            NotFound: there is no such model or job.
            Conflict: the job has learned nothing, or nothing yet (`model_not_ready`).
            CorruptRecord: the model is damaged.

        """
        if not is_id(ref, "job"):
            model_id = self._models.resolve(ref)
            return Found(model_id, self.network(model_id))
        job = self._jobs.get(ref)
        if job.model_id is not None:
            return Found(job.model_id, self.network(job.model_id))
        if job.state == "cancelled":
            raise Conflict("The job was cancelled before it had learned anything.", code="model_not_ready")
        return Found(job.id, self.running_network(job.id), job)

    def network(self, model_id: str) -> LearnedNetwork:
        """The network of a model.

        Raises:
            NotFound: there is no such model.
            CorruptRecord: it is damaged.

        """
        return self._network(model_id, lambda: self._load(model_id))

    def running_network(self, job_id: str) -> LearnedNetwork:
        """The best weights of a job's newest checkpoint.

        Raises:
            Conflict: no checkpoint holds weights that were evaluated (`model_not_ready`).

        """
        for checkpoint in self._checkpoints.of_job(job_id):
            key = f"{job_id}#{checkpoint.number}"
            try:
                return self._network(key, partial(self._load_running, job_id, checkpoint))
            except CorruptRecord:  # the one before it serves
                continue
        raise _not_ready()

    def _load(self, model_id: str) -> LearnedNetwork:
        stored = self._models.load(model_id)
        return LearnedNetwork.load(stored.document, stored.weights)

    def _load_running(self, job_id: str, checkpoint: Checkpoint) -> LearnedNetwork:
        saved = self._checkpoints.load(job_id, checkpoint)
        if saved.document["standing"]["best_metrics"] is None:
            raise _not_ready()
        network = LearnedNetwork.load(saved.document["learned"], weights_to_bytes(saved.best))
        with self._lock:  # what a newer checkpoint replaces is not asked for again
            for key in [key for key in self._kept if key.startswith(f"{job_id}#")]:
                del self._kept[key]
        return network

    def forget(self, model_id: str) -> None:
        """Drops a model that was deleted."""
        with self._lock:
            self._kept.pop(model_id, None)

    def _network(self, key: str, load: Callable[[], LearnedNetwork]) -> LearnedNetwork:
        with self._lock:
            network = self._kept.get(key)
            if network is not None:
                self._kept.move_to_end(key)
                return network
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:  # one caller loads, the others wait for it
            with self._lock:
                network = self._kept.get(key)
            if network is None:
                try:
                    network = load()
                finally:
                    with self._lock:
                        self._loading.pop(key, None)
                with self._lock:
                    self._kept[key] = network
                    while len(self._kept) > _MOST_KEPT:
                        self._kept.popitem(last=False)
        return network


def _not_ready() -> Conflict:
    return Conflict(
        "The job has no weights yet that were evaluated and written down.",
        code="model_not_ready",
        hint="Try again after its first checkpoint.",
    )
