"""What supervisors report of themselves and of their cluster. For show: no decision rests on it."""

from __future__ import annotations

from pydantic import ValidationError

from common.schemas.cluster import SupervisorReport
from common.store import keys
from common.store.client import Client, stored, texts

FRESH_SECONDS = 10
"""A report counts for so long."""


class SupervisorStore:
    """Keeps each supervisor's last report until it is stale."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @stored
    def report(self, report: SupervisorReport) -> None:
        """Replaces the supervisor's earlier report."""
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.set(keys.supervisor(report.id), report.model_dump_json(), ex=FRESH_SECONDS)
            pipeline.zadd(keys.SUPERVISORS, {report.id: 0})
            pipeline.execute()

    @stored
    def leave(self, supervisor_id: str) -> None:
        """Forgets a supervisor that stops."""
        self._client.delete(keys.supervisor(supervisor_id))
        self._client.zrem(keys.SUPERVISORS, supervisor_id)

    @stored
    def fresh(self) -> list[SupervisorReport]:
        """The supervisors that live."""
        ids = texts(self._client.zrange(keys.SUPERVISORS, 0, -1))
        if not ids:
            return []
        reports = self._client.mget([keys.supervisor(i) for i in ids])
        stale = [i for i, report in zip(ids, reports, strict=True) if report is None]
        if stale:
            self._client.zrem(keys.SUPERVISORS, *stale)
        return [report for report in map(_read, reports) if report is not None]


def _read(raw: object) -> SupervisorReport | None:
    try:
        return SupervisorReport.model_validate_json(raw) if isinstance(raw, bytes) else None
    except ValidationError:
        return None
