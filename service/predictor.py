"""Finds what a reference stands for, loads a model once, and keeps it while it is used."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from common.errors import Conflict, CorruptRecord, NotFound, StoreUnavailable
from common.identifiers import is_id
from common.learned import LearnedNetwork
from common.network.saved import weights_to_bytes
from common.schemas.checkpoints import Checkpoint
from common.schemas.jobs import Job, TrainingJob
from common.store.stores import Stores

_MOST_REFERENCES = 10_000
_LOADING_AT_ONCE = 2
"""More would only take memory, and processor time from those who predict."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a reference stands for."""

    id: str
    """Of the model; of the job while that has no model yet."""
    network: LearnedNetwork
    job: TrainingJob | None = None
    """The job, while it has no model yet."""


class Predictor:
    """The network of every model; the most recently used ones are in memory. May be called from any thread.

    Args:
        stores: where models, jobs and checkpoints are.
        quick: the same, for one short question: asked in place of `stores` while Redis was away when last asked.
        most_bytes: of networks that are kept; the last one is always.

    """

    def __init__(self, stores: Stores, quick: Stores, most_bytes: int) -> None:
        self._stores = stores
        self._quick = quick
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, LearnedNetwork] = OrderedDict()
        self._bytes = 0
        self._known: OrderedDict[str, str] = OrderedDict()
        """What references stood for when they were last looked up."""
        self._deleted = 0
        """How often a model was forgotten."""
        self._is_away = False
        self._lock = threading.Lock()
        self._loading: dict[str, threading.Lock] = {}
        self._room_to_load = threading.BoundedSemaphore(_LOADING_AT_ONCE)

    def recall(self, ref: str) -> Found | None:
        """What the id of a model that is in memory stands for; never waits."""
        network = self._recall(ref)
        return None if network is None else Found(ref, network)

    def find(self, ref: str) -> Found:
        """The network that a reference to a model, or the id of a job, stands for.

        Names are looked up every time. While Redis is away they stand for what they stood for last, as long as
        that is in memory.

        Raises:
            NotFound: there is no such model or job.
            Conflict: the job has learned nothing, or nothing yet (`model_not_ready`).
            CorruptRecord: the model is damaged.
            StoreUnavailable: Redis is away, and the model is not in memory.

        """
        if is_id(ref, "mdl"):
            return Found(ref, self.network(ref))
        try:
            found = self._look_up(ref, self._quick if self._is_away else self._stores)
        except StoreUnavailable:
            self._is_away = True
            return self._last_known(ref)
        self._is_away = False
        return found

    def _look_up(self, ref: str, stores: Stores) -> Found:
        try:
            job = _training(stores.jobs.get(ref)) if is_id(ref, "job") else None
            model_id = stores.models.resolve(ref) if job is None else job.model_id
        except NotFound:
            with self._lock:
                self._known.pop(ref, None)
            raise
        if model_id is not None:
            network = self.network(model_id)
            with self._lock:
                self._known[ref] = model_id
                self._known.move_to_end(ref)
                while len(self._known) > _MOST_REFERENCES:
                    self._known.popitem(last=False)
            return Found(model_id, network)
        assert job is not None
        if job.state == "cancelled":
            raise Conflict("The job was cancelled before it had learned anything.", code="model_not_ready")
        return Found(job.id, self.running_network(job.id), job)

    def _last_known(self, ref: str) -> Found:
        found = self.recall(self._known.get(ref, ""))
        if found is None:
            raise StoreUnavailable("The store is out of reach.", hint="Try again in a few seconds.")
        return found

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
        for checkpoint in self._stores.checkpoints.of_job(job_id):
            key = f"{job_id}#{checkpoint.number}"
            try:
                return self._network(key, partial(self._load_running, job_id, checkpoint))
            except CorruptRecord:  # the one before it serves
                continue
        raise _not_ready()

    def _load(self, model_id: str) -> LearnedNetwork:
        stored = self._stores.models.load(model_id)
        return LearnedNetwork.load(stored.document, stored.weights)

    def _load_running(self, job_id: str, checkpoint: Checkpoint) -> LearnedNetwork:
        saved = self._stores.checkpoints.load(job_id, checkpoint)
        if saved.document["standing"]["best_metrics"] is None:
            raise _not_ready()
        network = LearnedNetwork.load(saved.document["learned"], weights_to_bytes(saved.best))
        with self._lock:  # what a newer checkpoint replaces is not asked for again
            for key in [key for key in self._kept if key.startswith(f"{job_id}#")]:
                self._drop(key)
        return network

    def forget(self, model_id: str) -> None:
        """Drops a model that was deleted."""
        with self._lock:
            self._deleted += 1
            if model_id in self._kept:
                self._drop(model_id)

    def look_again(self) -> None:
        """Drops what was deleted while nobody could be told of it.

        Raises:
            StoreUnavailable: Redis is away.

        """
        with self._lock:
            model_ids = [key for key in self._kept if is_id(key, "mdl")]
        for model_id in self._stores.models.missing(model_ids):
            self.forget(model_id)

    def _recall(self, key: str) -> LearnedNetwork | None:
        with self._lock:
            network = self._kept.get(key)
            if network is not None:
                self._kept.move_to_end(key)
            return network

    def _network(self, key: str, load: Callable[[], LearnedNetwork]) -> LearnedNetwork:
        network = self._recall(key)
        if network is not None:
            return network
        with self._lock:
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:  # one caller loads, the others wait for it
            network = self._recall(key)
            if network is None:
                try:
                    with self._room_to_load:
                        deleted = self._deleted
                        network = load()
                    self._keep(key, network, deleted)
                finally:
                    with self._lock:
                        self._loading.pop(key, None)
        return network

    def _keep(self, key: str, network: LearnedNetwork, deleted: int) -> None:
        """Keeps what was loaded when so many models had been deleted: since then it may have been itself."""
        with self._lock:
            if deleted != self._deleted:
                return
            if key in self._kept:
                self._drop(key)
            self._kept[key] = network
            self._bytes += network.nbytes
            while self._bytes > self._most_bytes and len(self._kept) > 1:
                self._drop(next(iter(self._kept)))

    def _drop(self, key: str) -> None:
        self._bytes -= self._kept.pop(key).nbytes


def _training(job: Job) -> TrainingJob:
    if not isinstance(job, TrainingJob):
        raise Conflict("The job predicts; it learns nothing.", code="model_not_ready")
    return job


def _not_ready() -> Conflict:
    return Conflict(
        "The job has no weights yet that were evaluated and written down.",
        code="model_not_ready",
        hint="Try again after its first checkpoint.",
    )
