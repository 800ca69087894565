"""What happened to jobs: their events and the metrics of their epochs; compressed when they have ended."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

from common.errors import CorruptRecord, NotFound
from common.schemas.jobs import EpochMetrics, JobEvent
from common.store import keys
from common.store.client import Client, Script, raw, stored, text, texts, to_json
from common.store.jobs import damage, require_job


class HistoryStore:
    """Reads events and metrics, which `JobStore` writes with the moves that they tell of, and compresses them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._archive = Script(client, "archive_job")

    @stored
    def events(self, job_id: str, after: str | None = None) -> list[JobEvent]:
        """What happened to a job, oldest first (the last 2,000 or so); `after`: only later than this event's id."""
        found = self._client.xrange(keys.job_events(job_id), f"({after}" if after else "-") or ()
        with damage("The events of a job are damaged."):
            events = [_read_event(event_id, fields) for event_id, fields in found if fields is not None]
            if events:
                return events
            earlier = [JobEvent.model_validate(event) for event in self._history(job_id).get("events", ())]
            return [event for event in earlier if after is None or _place(event.id) > _place(after)]

    @stored
    def metrics(self, job_id: str) -> list[EpochMetrics]:
        """One entry per epoch, in order."""
        rows = self._client.hgetall(keys.job_metrics(job_id))
        with damage("The metrics of a job are damaged."):
            if rows:
                return [EpochMetrics.model_validate_json(rows[epoch]) for epoch in sorted(rows, key=int)]
            return [EpochMetrics.model_validate_json(to_json(row)) for row in self._history(job_id).get("metrics", ())]

    def _history(self, job_id: str) -> dict[str, Any]:
        """Events and metrics of a job that ended some time ago; empty where they have a place of their own."""
        require_job(self._client, job_id)
        compressed = self._client.get(keys.job_history(job_id))
        return {} if compressed is None else dict(json.loads(zlib.decompress(raw(compressed))))

    @stored
    def to_archive(self, most: int) -> list[str]:
        """Jobs that have ended, and whose history can be compressed."""
        return texts(self._client.srandmember(keys.TO_ARCHIVE, most) or ())

    @stored
    def archive(self, job_id: str) -> None:
        """Compresses the history of an ended job, which does not change any more."""
        try:
            events, metrics = self.events(job_id), self.metrics(job_id)
        except (NotFound, CorruptRecord):  # there is nothing to save
            self._client.srem(keys.TO_ARCHIVE, job_id)
            return
        history = {
            name: [one.model_dump(mode="json") for one in all_]
            for name, all_ in (("events", events), ("metrics", metrics))
        }
        self._archive(
            [
                keys.job(job_id),
                keys.job_events(job_id),
                keys.job_metrics(job_id),
                keys.TO_ARCHIVE,
                keys.job_history(job_id),
            ],
            [job_id, zlib.compress(to_json(history).encode(), level=9)],
        )


def _place(event_id: str) -> tuple[int, ...]:
    """An event's place among others."""
    return tuple(map(int, event_id.split("-")))


def _read_event(event_id: object, fields: Mapping[Any, Any]) -> JobEvent:
    return JobEvent.model_validate(
        {
            "id": text(event_id),
            "kind": text(fields[b"kind"]),
            "at": text(fields[b"at"]),
            "data": json.loads(fields[b"data"]),
        }
    )
