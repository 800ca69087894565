"""The events of a job as server-sent events (WHATWG HTML, section 9.2): each once, from where the client stopped."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from common.errors import Fault, Invalid, NotFound, StoreUnavailable
from common.lifecycle import TERMINAL
from common.schemas.jobs import JobEvent
from common.store.client import to_json
from common.store.history import HistoryStore
from common.store.jobs import JobStore
from service.changes import Changes
from service.shared_reads import SharedReads

BEGINNING = "0-0"
"""Before all events."""
_LOOK_SECONDS = 5.0
"""After so long without a change the store is looked into unasked, and a comment is sent: proxies end connections that
say nothing."""
_EVENT_ID = re.compile(r"[0-9]{1,16}-[0-9]{1,16}\Z")


def read_event_id(value: str | None) -> str:
    """Where a client stopped.

    Raises:
        Invalid: it is no id of an event.

    """
    if not value:
        return BEGINNING
    if not _EVENT_ID.match(value):
        fault = Fault("Last-Event-ID", "invalid_event_id", "must be the `id` of an event")
        raise Invalid("The request has a fault.", [fault])
    return value


@dataclass(frozen=True, slots=True)
class News:
    """What is new of a job."""

    events: list[JobEvent]
    encoded: bytes
    """The same as server-sent events."""
    is_all: bool
    """Whether nothing will follow."""


class EventReader:
    """Looks for the news of jobs, once for all who are at the same place."""

    def __init__(self, jobs: JobStore, history: HistoryStore, reads: SharedReads) -> None:
        self._jobs = jobs
        self._history = history
        self._reads = reads

    async def after(self, job_id: str, place: str) -> News:
        """The news after the event of that id.

        Raises:
            NotFound: there is no such job.

        """
        return await self._reads.read(("events", job_id, place), partial(self._look, job_id, place))

    def _look(self, job_id: str, place: str) -> News:
        has_ended = self._jobs.has_ended(job_id)  # before the events: its last one is then among them
        events = self._history.events(job_id, place)
        is_all = has_ended or any(map(_is_last, events[-1:]))
        return News(events, b"".join(map(_encode, events)), is_all)


async def stream(reader: EventReader, changes: Changes, job_id: str, after: str) -> AsyncIterator[bytes]:
    """The events after `after`, as they happen, until the job has ended or is deleted, or the server stops."""
    with changes.of(job_id) as changed:
        while not changes.is_stopping:
            try:
                news = await reader.after(job_id, after)
            except NotFound:
                return
            except StoreUnavailable:
                news = News([], b"", is_all=False)
            if news.events:
                after = news.events[-1].id
                yield news.encoded
            if news.is_all:
                return
            if not await changed.wait(_LOOK_SECONDS):
                yield KEEPALIVE_COMMENT


def _is_last(event: JobEvent) -> bool:
    return event.kind == "state" and event.data.get("state") in TERMINAL


def _encode(event: JobEvent) -> bytes:
    record = event.model_dump(mode="json")
    return format_sse_event(data_str=to_json({**record["data"], "at": record["at"]}), event=event.kind, id=event.id)
