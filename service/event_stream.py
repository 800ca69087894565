"""The events of a job as server-sent events (WHATWG HTML, section 9.2): each once, from where the client stopped."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from fastapi.concurrency import run_in_threadpool
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from common.errors import Fault, Invalid, NotFound, StoreUnavailable
from common.lifecycle import TERMINAL
from common.schemas.jobs import JobEvent
from common.store.client import to_json
from common.store.history import HistoryStore
from service.changes import Changes

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


def is_last(event: JobEvent) -> bool:
    """Whether nothing follows this event."""
    return event.kind == "state" and event.data.get("state") in TERMINAL


async def stream(history: HistoryStore, changes: Changes, job_id: str, after: str) -> AsyncIterator[bytes]:
    """The events after `after`, as they happen, until the job has ended or is deleted, or the server stops."""
    with changes.of(job_id) as changed:
        while not changes.is_stopping:
            try:
                events = await run_in_threadpool(history.events, job_id, after)
            except NotFound:
                return
            except StoreUnavailable:
                events = []
            for event in events:
                after = event.id
                yield _encode(event)
                if is_last(event):
                    return
            if not events and not await changed.wait(_LOOK_SECONDS):
                yield KEEPALIVE_COMMENT


def _encode(event: JobEvent) -> bytes:
    record = event.model_dump(mode="json")
    return format_sse_event(data_str=to_json({**record["data"], "at": record["at"]}), event=event.kind, id=event.id)
