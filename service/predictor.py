"""Loads a model once, keeps it while it is used, and predicts with it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from common.learned import LearnedNetwork
from common.schemas.predictions import Prediction
from common.store.models import ModelStore

_MOST_KEPT = 50


class Predictor:
    """Answers for every model; the most recently used ones are in memory. May be called from any thread."""

    def __init__(self, models: ModelStore) -> None:
        self._models = models
        self._kept: OrderedDict[str, LearnedNetwork] = OrderedDict()
        self._lock = threading.Lock()
        self._loading: dict[str, threading.Lock] = {}

    def predict(self, model_id: str, instances: Sequence[object]) -> list[Prediction]:
        """One prediction per instance.

        Raises:
            NotFound: there is no such model.
            Invalid: an instance does not fit it.
            CorruptRecord: it is damaged.

        """
        return self._network(model_id).predict(instances)

    def forget(self, model_id: str) -> None:
        """Drops a model that was deleted."""
        with self._lock:
            self._kept.pop(model_id, None)

    def _network(self, model_id: str) -> LearnedNetwork:
        with self._lock:
            network = self._kept.get(model_id)
            if network is not None:
                self._kept.move_to_end(model_id)
                return network
            loading = self._loading.setdefault(model_id, threading.Lock())
        with loading:  # one caller loads, the others wait for it
            with self._lock:
                network = self._kept.get(model_id)
            if network is None:
                try:
                    stored = self._models.load(model_id)
                    network = LearnedNetwork.load(stored.document, stored.weights)
                finally:
                    with self._lock:
                        self._loading.pop(model_id, None)
                with self._lock:
                    self._kept[model_id] = network
                    while len(self._kept) > _MOST_KEPT:
                        self._kept.popitem(last=False)
        return network
