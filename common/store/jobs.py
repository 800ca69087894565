"""Jobs in Redis: submission, the queue, leases, moves from state to state, events and metrics.

Every move is one compare-and-set guarded by the fence of the job's holder; see `scripts/move_job.lua`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from common.errors import Conflict, CorruptRecord, FenceLost, NotFound
from common.identifiers import is_id
from common.lifecycle import HELD, STATES, TERMINAL, State, sources
from common.schemas.jobs import EpochMetrics, EventKind, Job, JobError, JobEvent, Progress, StopReason
from common.schemas.models import Task
from common.schemas.training import TrainingRequest
from common.store import keys
from common.store.client import Client, Script, new_token, pairs, stored, text, to_json
from common.store.datasets import Created, reused
from common.store.page import Page, newest_first, readable

_ENDED = ",".join(sorted(TERMINAL))


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that is its holder's as long as the fence has not passed on."""

    job_id: str
    fence: int


@dataclass(frozen=True, slots=True)
class Lease:
    """What a contender sees of a held job: two numbers that a living holder keeps changing."""

    job_id: str
    fence: int
    counter: int
    attempt: int
    cancel_asked: bool


class JobStore:
    """All that is kept of jobs. `now` gives the time written into records; no decision rests on it."""

    def __init__(self, client: Client, now: Callable[[], datetime]) -> None:
        self._client = client
        self._now = now
        self._submit = Script(client, "submit_job")
        self._explain_wait = Script(client, "explain_wait")
        self._move = Script(client, "move_job")
        self._record = Script(client, "record_job")
        self._renew = Script(client, "renew_lease")
        self._ask_cancel = Script(client, "ask_cancel")
        self._delete = Script(client, "delete_job")

    @stored
    def submit(
        self,
        job_id: str,
        request: TrainingRequest,
        task: Task,
        *,
        max_queued: int,
        idempotency_key: str | None = None,
        digest: str = "",
    ) -> Created:
        """Puts a job into the queue, on disk before this returns.

        Raises:
            NotFound: the data set is gone.
            Conflict: the queue is full (`queue_full`).
            Invalid: the Idempotency-Key was used for something else.

        """
        fields: dict[str, str | int | float | bytes] = {
            "request": request.model_dump_json(),
            "task": task,
            "labels": to_json(request.labels),
        }
        if request.name is not None:
            fields["name"] = request.name
        answer = self._submit(
            [
                keys.job(job_id),
                keys.JOBS,
                keys.QUEUE,
                keys.jobs_in_state("queued"),
                keys.dataset(request.dataset_id),
                keys.dataset_jobs(request.dataset_id),
                keys.SEQUENCE,
                keys.job_events(job_id),
                keys.idempotency("jobs", idempotency_key) if idempotency_key else "",
                *(keys.jobs_with_label(f"{label}:{value}") for label, value in request.labels.items()),
            ],
            [job_id, request.priority, max_queued, self._time(), digest, *pairs(fields)],
        )
        match answer[0]:
            case "reused":
                raise reused()
            case "no_dataset":
                raise NotFound("There is no such data set.", code="dataset_not_found")
            case "queue_full":
                raise Conflict(
                    "As many jobs as allowed are waiting.",
                    code="queue_full",
                    hint="Try again when some have ended.",
                )
        return Created(answer[1], replayed=answer[0] == "replayed")

    @stored
    def get(self, job_id: str) -> Job:
        """The job of that id.

        Raises:
            NotFound: there is none.
            CorruptRecord: what is stored is not a job.

        """
        found = self._fetch([job_id]) if is_id(job_id, "job") else []
        if not found:
            raise _no_such_job()
        return _read(*found[0])

    @stored
    def page(
        self, limit: int, cursor: str | None = None, *, state: State | None = None, label: str | None = None
    ) -> Page[Job]:
        """A page of jobs, newest first; `label` is `key:value`."""
        if label is None:
            page = newest_first(self._client, keys.jobs_in_state(state) if state else keys.JOBS, limit, cursor)
            return Page(self._readable(page.data), page.next_cursor)
        found: list[Job] = []
        while True:  # a label's jobs in one state are picked from the label's, page by page
            page = newest_first(self._client, keys.jobs_with_label(label), limit - len(found), cursor)
            found += [job for job in self._readable(page.data) if state in (None, job.state)]
            cursor = page.next_cursor
            if cursor is None or len(found) == limit:
                return Page(found, cursor)

    @stored
    def events(self, job_id: str) -> list[JobEvent]:
        """What happened to a job, oldest first (the last 2,000 or so)."""
        self._require(job_id)
        found = self._client.xrange(keys.job_events(job_id)) or ()
        with _damage("The events of a job are damaged."):
            return [_read_event(event_id, fields) for event_id, fields in found if fields is not None]

    @stored
    def metrics(self, job_id: str) -> list[EpochMetrics]:
        """One entry per epoch of the current attempt, in order."""
        self._require(job_id)
        rows = self._client.hgetall(keys.job_metrics(job_id))
        with _damage("The metrics of a job are damaged."):
            return [EpochMetrics.model_validate_json(rows[epoch]) for epoch in sorted(rows, key=int)]

    @stored
    def cancel(self, job_id: str) -> None:
        """Cancels a job that waits, or asks the holder of one that runs.

        Raises:
            NotFound: there is no such job.
            Conflict: it has ended (`job_ended`).

        """
        self._require(job_id)
        while True:  # the job may start, or return to the queue, between the two steps
            answer = self._apply(
                job_id, "cancelled", sources_only=("queued", "paused"), fields={"stop_reason": "cancelled"}
            )
            if answer[0] == "ok":
                return
            answer = self._ask_cancel([keys.job(job_id)], [",".join(sorted(HELD))])
            match answer:
                case ["ok"]:
                    return
                case ["missing"]:
                    raise _no_such_job()
                case ["state", state] if state in TERMINAL:
                    raise Conflict(f"The job has ended: {state}.", code="job_ended")

    @stored
    def delete(self, job_id: str) -> None:
        """Removes an ended job.

        Raises:
            NotFound: there is no such job.
            Conflict: it has not ended (`job_not_ended`).

        """
        self._require(job_id)
        answer = self._delete(
            [
                keys.job(job_id),
                keys.JOBS,
                keys.job_events(job_id),
                keys.job_metrics(job_id),
                keys.jobs_in_state(""),
                keys.jobs_with_label(""),
            ],
            [job_id, _ENDED],
        )
        if answer[0] == "missing":
            raise _no_such_job()
        if answer[0] == "state":
            raise Conflict("Only a job that has ended can be deleted.", code="job_not_ended", hint="Cancel it first.")

    # What supervisors and runs do.

    @stored
    def queue(self) -> list[str]:
        """The ids of the jobs that wait, the next to start first."""
        return [text(job_id) for job_id in self._client.zrange(keys.QUEUE, 0, -1)]

    @stored
    def unqueue(self, job_id: str) -> None:
        """Removes what is no job that could start: nothing may wait behind it for good."""
        self._client.zrem(keys.QUEUE, job_id)

    @stored
    def explain_wait(self, job_id: str, reason: str) -> None:
        """Says in the job, and once in its events, why it does not start."""
        event = to_json({"message": reason})
        self._explain_wait([keys.job(job_id), keys.job_events(job_id)], [reason, self._time(), event])

    @stored
    def claim(self, job_id: str) -> Claim | None:
        """Takes a waiting job; None when somebody else was faster."""
        fields = {"started_at": self._time()}
        answer = self._apply(job_id, "starting", fields=fields, raise_fence=True, raise_attempt=True)
        return Claim(job_id, int(answer[1])) if answer[0] == "ok" else None

    @stored
    def renew(self, claim: Claim) -> bool:
        """Shows that the holder lives; False when the job is no longer its own."""
        return bool(self._renew([keys.job(claim.job_id)], [claim.fence]))

    @stored
    def leases(self) -> list[Lease]:
        """Every held job, as a contender sees it."""
        ids = [text(i) for state in sorted(HELD) for i in self._client.zrange(keys.jobs_in_state(state), 0, -1)]
        pipeline = self._client.pipeline(transaction=False)
        for job_id in ids:
            pipeline.hmget(keys.job(job_id), "fence", "lease", "attempt", "cancel")
        found = zip(ids, pipeline.execute(raise_on_error=False), strict=True)
        return [
            Lease(job_id, int(values[0]), int(values[1]), int(values[2]), values[3] is not None)
            for job_id, values in found
            if isinstance(values, list) and None not in values[:3]
        ]

    @stored
    def begin(self, claim: Claim) -> None:
        """`starting` → `running`.

        Raises:
            FenceLost: the job is no longer the caller's.

        """
        self._held(claim, self._apply(claim.job_id, "running", fence=claim.fence))

    @stored
    def requeue(self, claim: Claim, reason: str) -> bool:
        """Back into the queue, to be started again; False when the job has passed on."""
        fields = {"progress": "", "metrics": ""}
        event = {"reason": reason}
        answer = self._apply(
            claim.job_id,
            "queued",
            fence=claim.fence,
            fields=fields,
            event=event,
            raise_fence=True,
            forget_metrics=True,
        )
        return bool(answer[0] == "ok")

    @stored
    def succeed(
        self, claim: Claim, stop_reason: StopReason, metrics: Mapping[str, float], model: tuple[str, str]
    ) -> None:
        """`running` → `succeeded`, and the model (its id and name) is published in the same step.

        Raises:
            FenceLost: the job is no longer the caller's.

        """
        fields = {"stop_reason": stop_reason, "metrics": to_json(dict(metrics))}
        event = {"stop_reason": stop_reason, "model_id": model[0]}
        self._held(
            claim,
            self._apply(claim.job_id, "succeeded", fence=claim.fence, fields=fields, event=event, model=model),
        )

    @stored
    def end_cancelled(
        self, claim: Claim, metrics: Mapping[str, float] | None = None, model: tuple[str, str] | None = None
    ) -> None:
        """→ `cancelled`, keeping the best weights so far as a model if there are any.

        Raises:
            FenceLost: the job is no longer the caller's.

        """
        fields = {"stop_reason": "cancelled"} | ({"metrics": to_json(dict(metrics))} if metrics else {})
        event = {"model_id": model[0]} if model else {}
        self._held(
            claim,
            self._apply(claim.job_id, "cancelled", fence=claim.fence, fields=fields, event=event, model=model),
        )

    @stored
    def fail(self, claim: Claim, error: JobError) -> None:
        """→ `failed`.

        Raises:
            FenceLost: the job is no longer the caller's.

        """
        fields = {"error": error.model_dump_json()}
        event = {"code": error.code, "message": error.message}
        self._held(claim, self._apply(claim.job_id, "failed", fence=claim.fence, fields=fields, event=event))

    @stored
    def record(
        self,
        claim: Claim,
        *,
        kind: EventKind | None = None,
        event: Mapping[str, object] | None = None,
        epoch: EpochMetrics | None = None,
        progress: Progress | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Notes what happened in a run; answers whether a cancel was asked for.

        Raises:
            FenceLost: the job is no longer the caller's.

        """
        fields: dict[str, str | int | float | bytes] = {}
        if progress is not None:
            fields["progress"] = progress.model_dump_json()
        if metrics is not None:
            fields["metrics"] = to_json(dict(metrics))
        job_id = claim.job_id
        answer = self._record(
            [keys.job(job_id), keys.job_events(job_id), keys.job_metrics(job_id)],
            [
                claim.fence,
                new_token(),
                self._time(),
                kind or "",
                to_json(dict(event or {})),
                epoch.epoch if epoch else "",
                epoch.model_dump_json() if epoch else "",
                *pairs(fields),
            ],
        )
        self._held(claim, answer)
        return bool(answer[1] == "1")

    @stored
    def cancel_asked(self, claim: Claim) -> bool:
        """Whether the run is to end.

        Raises:
            FenceLost: the job is no longer the caller's.

        """
        fence, cancel = self._client.hmget(keys.job(claim.job_id), "fence", "cancel")
        if fence is None or int(fence) != claim.fence:
            raise FenceLost("The job has passed to another holder.")
        return cancel is not None

    @stored
    def counts(self) -> dict[State, int]:
        """How many jobs there are in each state."""
        pipeline = self._client.pipeline(transaction=False)
        for state in STATES:
            pipeline.zcard(keys.jobs_in_state(state))
        return dict(zip(STATES, pipeline.execute(), strict=True))

    def _apply(
        self,
        job_id: str,
        target: State,
        *,
        sources_only: tuple[State, ...] | None = None,
        fence: int | None = None,
        fields: Mapping[str, str | int | float | bytes] | None = None,
        event: Mapping[str, object] | None = None,
        model: tuple[str, str] | None = None,
        raise_fence: bool = False,
        raise_attempt: bool = False,
        forget_metrics: bool = False,
    ) -> Any:
        now = self._time()
        request = self._client.hget(keys.job(job_id), "request")
        if request is None:
            return ["missing"]
        with _damage("The record of a job is damaged."):
            dataset_id = json.loads(request)["dataset_id"]
        ends = target in TERMINAL
        model_id, model_name = model or ("", "")
        return self._move(
            [
                keys.job(job_id),
                keys.QUEUE,
                keys.jobs_in_state(target),
                keys.dataset_jobs(dataset_id),
                keys.job_events(job_id),
                keys.jobs_in_state(""),
                keys.model(model_id) if model else "",
                keys.MODELS,
                keys.model_versions(model_name),
                keys.model_counter(model_name),
                keys.SEQUENCE,
                keys.job_metrics(job_id) if forget_metrics else "",
            ],
            [
                job_id,
                target,
                ",".join(sources_only or sources(target)),
                "" if fence is None else fence,
                now,
                new_token(),
                to_json({"state": target, **(event or {})}),
                int(raise_fence),
                int(raise_attempt),
                int(ends),
                model_id,
                int(target == "succeeded"),
                *pairs({**(fields or {}), **({"finished_at": now} if ends else {})}),
            ],
        )

    def _held(self, claim: Claim, answer: list[str]) -> None:
        if answer[0] == "cancelled":
            raise Conflict("A cancel was asked for.", code="cancel_asked")
        if answer[0] != "ok":
            raise FenceLost(f"{claim.job_id} has passed to another holder: {answer[-1]}.")

    def _require(self, job_id: str) -> None:
        if not is_id(job_id, "job") or not self._client.exists(keys.job(job_id)):
            raise _no_such_job()

    def _readable(self, job_ids: list[str]) -> list[Job]:
        return readable(self._fetch(job_ids), lambda found: _read(*found))

    def _fetch(self, job_ids: list[str]) -> list[tuple[object, object]]:
        """What is stored of each job that exists, and its place in the queue."""
        pipeline = self._client.pipeline(transaction=False)
        for job_id in job_ids:
            pipeline.hgetall(keys.job(job_id))
            pipeline.zrank(keys.QUEUE, job_id)
        found = pipeline.execute(raise_on_error=False)
        return [(fields, rank) for fields, rank in zip(found[::2], found[1::2], strict=True) if fields != {}]

    def _time(self) -> str:
        return self._now().isoformat(timespec="milliseconds")


def _no_such_job() -> NotFound:
    return NotFound("There is no such job.", code="job_not_found")


@contextmanager
def _damage(message: str) -> Iterator[None]:
    """Whatever fails inside, fails because what is stored is not what was written."""
    try:
        yield
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise CorruptRecord(message) from error


def _read(fields: object, rank: object) -> Job:
    with _damage("The record of a job is damaged."):
        assert isinstance(fields, dict)
        known = {text(name): text(value) for name, value in fields.items()}
        optional = {
            name: known.get(name) or None for name in ("name", "started_at", "finished_at", "stop_reason", "model_id")
        }
        return Job.model_validate(
            {
                **optional,
                "id": known["id"],
                "state": known["state"],
                "revision": int(known["revision"]),
                "attempt": int(known["attempt"]),
                "created_at": known["created_at"],
                "queue_position": rank,
                "waiting_for": known.get("waiting_for"),
                "request": json.loads(known["request"]),
                "task": known["task"],
                "labels": json.loads(known["labels"]),
                **{name: json.loads(known[name]) for name in ("progress", "metrics", "error") if known.get(name)},
            }
        )


def _read_event(event_id: object, fields: Mapping[Any, Any]) -> JobEvent:
    return JobEvent.model_validate(
        {
            "id": text(event_id),
            "kind": text(fields[b"kind"]),
            "at": text(fields[b"at"]),
            "data": json.loads(fields[b"data"]),
        }
    )
