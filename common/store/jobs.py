"""Jobs in Redis: submission, the queue, leases, moves from state to state.

Every move is one compare-and-set guarded by the fence of the job's holder; see `scripts/move_job.lua`.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from common.errors import Conflict, CorruptRecord, FenceLost, NotFound
from common.identifiers import is_id
from common.lifecycle import HELD, STATES, TERMINAL, State, Wish, sources
from common.schemas.batch_predictions import BatchPredictionRequest
from common.schemas.datasets import Dataset
from common.schemas.jobs import (
    EpochMetrics,
    EventKind,
    Job,
    JobError,
    PredictionJob,
    PredictionProgress,
    Progress,
    StopReason,
    TrainingJob,
)
from common.schemas.models import Task
from common.schemas.training import DatasetSplit, TrainingRequest
from common.store import keys
from common.store.client import Client, Script, new_token, pairs, stored, tell_once, text, texts, to_json
from common.store.datasets import Created, reused
from common.store.page import Page, forget, newest_first, newest_in_both, readable

_ENDED = ",".join(sorted(TERMINAL))
_HELD = ",".join(sorted(HELD))
_MOST_SURPLUS = 100
_MOST_TRIES = 100
"""Of steering a job that moves all the while; no living one needs more than a few."""
_WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,14})\Z")
_KINDS: Mapping[str, type[TrainingJob] | type[PredictionJob]] = {"training": TrainingJob, "prediction": PredictionJob}
_NUMBERS = ("seq", "priority", "revision", "attempt", "fence", "lease", "losses")
"""Fields of a job that scripts count with."""
_OPTIONAL = ("name", "started_at", "finished_at", "stop_reason", "model_id", "result_dataset_id")


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


class JobStore:
    """All that is kept of jobs. `now` gives the time written into records; no decision rests on it."""

    def __init__(self, client: Client, now: Callable[[], datetime]) -> None:
        self._client = client
        self._now = now
        self._submit = Script(client, "submit_job")
        self._explain_wait = Script(client, "explain_wait")
        self._move = Script(client, "move_job")
        self._record = Script(client, "record_job")
        self._draft = Script(client, "draft_dataset")
        self._renew = Script(client, "renew_lease")
        self._ask_holder = Script(client, "ask_holder")
        self._delete = Script(client, "delete_job")

    @stored
    def submit(
        self,
        job_id: str,
        request: TrainingRequest | BatchPredictionRequest,
        task: Task,
        *,
        max_queued: int,
        given: Mapping[str, object] | None = None,
        warnings: Sequence[str] = (),
        idempotency_key: str | None = None,
        digest: str = "",
    ) -> Created:
        """Puts a job into the queue, on disk before this returns.

        `request` is resolved; `given`, as it came, is what a rerun starts from.

        Raises:
            NotFound: the data set is gone, or the model to begin or to predict with.
            Conflict: the queue is full (`queue_full`).
            Invalid: the Idempotency-Key was used for something else.

        """
        fields: dict[str, str | int | float | bytes] = {
            "kind": "training" if isinstance(request, TrainingRequest) else "prediction",
            "request": request.model_dump_json(),
            "given": to_json(given or {}),
            "task": task,
            "labels": to_json(request.labels),
        }
        if warnings:
            fields["warnings"] = to_json(warnings)
        if request.name is not None:
            fields["name"] = request.name
        model_id, judge = _uses(request)
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
                keys.model(model_id) if model_id else "",
                keys.model_jobs(model_id or ""),
                keys.dataset(judge) if judge else "",
                keys.dataset_jobs(judge or ""),
                *(keys.jobs_with_label(f"{label}:{value}") for label, value in request.labels.items()),
            ],
            [job_id, request.priority, max_queued, self._time(), digest, keys.CHANGES, *pairs(fields)],
        )
        match answer[0]:
            case "reused":
                raise reused()
            case "no_dataset":
                raise NotFound("There is no such data set.", code="dataset_not_found")
            case "no_model":
                raise NotFound("There is no such model any more.", code="model_not_found")
            case "queue_full":
                raise _queue_full()
        return Created(answer[1], replayed=answer[0] == "replayed")

    @stored
    def submitted(self, idempotency_key: str, digest: str) -> Created | None:
        """What this key created, if that is still there; `submit` decides where the same comes twice at once.

        Raises:
            Invalid: the Idempotency-Key was used for something else.

        """
        used_for, job_id = self._client.hmget(keys.idempotency("jobs", idempotency_key), "digest", "id")
        if used_for is None or job_id is None or not self._client.exists(keys.job(text(job_id))):
            return None
        if text(used_for) != digest:
            raise reused()
        return Created(text(job_id), replayed=True)

    @stored
    def has_ended(self, job_id: str) -> bool:
        """Whether a job does not change any more.

        Raises:
            NotFound: there is no such job.

        """
        state = self._client.hget(keys.job(job_id), "state") if is_id(job_id, "job") else None
        if state is None:
            raise no_such_job()
        return text(state) in TERMINAL

    @stored
    def get(self, job_id: str) -> Job:
        """The job of that id.

        Raises:
            NotFound: there is none.
            CorruptRecord: what is stored is not a job.

        """
        found = self._fetch([job_id]) if is_id(job_id, "job") else []
        if not found:
            raise no_such_job()
        return _read(*found[0])

    @stored
    def given(self, job_id: str) -> dict[str, object]:
        """The training request of a job as it came, with the seed that was drawn for it.

        Raises:
            NotFound: there is no such job.
            Conflict: it is no training (`job_not_training`).
            CorruptRecord: what is stored is not a request.

        """
        job = self.get(job_id)
        if not isinstance(job, TrainingJob):
            raise _not_training()
        request = job.request
        stored_body = self._client.hget(keys.job(job_id), "given")
        with damage("The record of a job is damaged."):
            body = json.loads(stored_body or b"{}") or request.model_dump(mode="json")
            assert isinstance(body, dict)
            return {**body, "training": {**body.get("training", {}), "seed": request.training.seed}}

    @stored
    def page(
        self, limit: int, cursor: str | None = None, *, state: State | None = None, label: str | None = None
    ) -> Page[Job]:
        """A page of jobs, newest first; `label` is `key:value`."""
        index = keys.JOBS if label is None else keys.jobs_with_label(label)
        if state is None:
            page = newest_first(self._client, index, limit, cursor)
        elif label is None:
            page = newest_first(self._client, keys.jobs_in_state(state), limit, cursor)
        else:
            page = newest_in_both(self._client, index, keys.jobs_in_state(state), limit, cursor)
        return Page(self._readable(page.data), page.next_cursor)

    @stored
    def surplus(self, keep: int, before: datetime | None) -> list[str]:
        """Ended jobs beyond the newest `keep`, and those that ended before that time; a hundred at most, oldest first."""
        indexes = [keys.jobs_in_state(state) for state in sorted(TERMINAL)]
        count = sum(self._client.zcard(index) for index in indexes)
        oldest = sorted(
            (pair[1], pair[0])
            for index in indexes
            for pair in self._client.zrange(index, 0, _MOST_SURPLUS - 1, withscores=True)
        )[:_MOST_SURPLUS]
        ids = texts(job_id for _, job_id in oldest)
        return ids[: max(0, count - keep)] or [job_id for job_id in ids if self._ended_before(job_id, before)]

    def _ended_before(self, job_id: str, moment: datetime | None) -> bool:
        if moment is None:
            return False
        try:
            ended = self.get(job_id).finished_at
        except (NotFound, CorruptRecord):  # somebody may mend it
            return False
        return ended is not None and ended < moment

    @stored
    def cancel(self, job_id: str) -> None:
        """Cancels a job that waits or is paused, or asks the holder of one that runs.

        Raises:
            NotFound: there is no such job.
            Conflict: it has ended (`job_ended`).
            CorruptRecord: its record is damaged.

        """
        self._steer(
            job_id,
            lambda: self._make(job_id, "cancelled", ("queued", "paused"), {"stop_reason": "cancelled"}),
            lambda: self._ask(job_id, "cancel"),
        )

    @stored
    def pause(self, job_id: str) -> None:
        """Takes a job out of the queue, or asks the holder of one that runs to write it down and let go of it.

        Raises:
            NotFound: there is no such job.
            Conflict: it has ended (`job_ended`), or is about to (`cancel_asked`), or it is no training
                (`job_not_training`).
            CorruptRecord: its record is damaged.

        """
        if not isinstance(self.get(job_id), TrainingJob):
            raise _not_training()
        self._steer(
            job_id,
            lambda: self._make(job_id, "paused", ("queued",)),
            lambda: self._ask(job_id, "pause", also=("paused",)),
        )

    @stored
    def resume(self, job_id: str, *, max_queued: int) -> None:
        """Puts a paused job back into the queue, at its old place; takes a pause back that is still on its way.

        Raises:
            NotFound: there is no such job.
            Conflict: it has ended (`job_ended`), is about to (`cancel_asked`), or was not paused (`job_not_paused`); or the
                queue is full (`queue_full`).
            CorruptRecord: its record is damaged.

        """
        self._steer(
            job_id,
            lambda: self._make(job_id, "queued", ("paused",), max_queued=max_queued),
            lambda: self._ask(job_id, None),
        )

    def _steer(self, job_id: str, move: Callable[[], bool], ask: Callable[[], bool]) -> None:
        """Moves a job, or asks its holder: it may start, or return to the queue, between the two steps."""
        self.get(job_id)  # neither step can be taken with what cannot be read
        for _ in range(_MOST_TRIES):
            if move() or ask():
                return
        raise CorruptRecord("The state of the job keeps it from being moved.")

    def _make(
        self,
        job_id: str,
        target: State,
        sources_only: tuple[State, ...],
        fields: Mapping[str, str | int | float | bytes] | None = None,
        max_queued: int | None = None,
    ) -> bool:
        """Moves a job that nobody holds; False when somebody does, or it has left these states."""
        answer = self._apply(job_id, target, sources_only=sources_only, fields=fields, max_queued=max_queued)
        if answer[0] == "queue_full":
            raise _queue_full()
        return bool(answer[0] == "ok")

    def _ask(self, job_id: str, wish: Wish | None, also: tuple[State, ...] = ()) -> bool:
        """Asks the holder of a job; False when nobody holds it just now. `also`: states in which there is nothing to ask."""
        match self._ask_holder([keys.job(job_id)], [job_id, _HELD, wish or "", keys.CHANGES]):
            case ["ok"]:
                return True
            case ["missing"]:
                raise no_such_job()
            case ["state", state] if state in also:
                return True
            case ["state", state] if state in TERMINAL:
                raise Conflict(f"The job has ended: {state}.", code="job_ended")
            case ["state", state] if wish is None and state != "paused":
                raise Conflict("The job is not paused.", code="job_not_paused")
            case ["wish", _]:
                raise Conflict("The job is being cancelled.", code="cancel_asked")
        return False

    @stored
    def delete(self, job_id: str) -> None:
        """Removes an ended job, or one that cannot be read: should somebody hold it, that is lost to them.

        Raises:
            NotFound: there is no such job.
            Conflict: it has not ended (`job_not_ended`).

        """
        try:
            self.get(job_id)
        except CorruptRecord:
            self._forget(job_id)
            return
        answer = self._delete(
            [
                keys.job(job_id),
                keys.JOBS,
                keys.job_events(job_id),
                keys.job_metrics(job_id),
                keys.jobs_in_state(""),
                keys.jobs_with_label(""),
                keys.job_checkpoints(job_id),
                keys.TO_ARCHIVE,
                keys.job_history(job_id),
            ],
            [job_id, _ENDED, keys.CHANGES],
        )
        if answer[0] == "missing":
            raise no_such_job()
        if answer[0] == "state":
            raise Conflict("Only a job that has ended can be deleted.", code="job_not_ended", hint="Cancel it first.")

    def _forget(self, job_id: str) -> None:
        own = (keys.job, keys.job_events, keys.job_metrics, keys.job_history, keys.job_checkpoints)
        forget(self._client, job_id, [key(job_id) for key in own])
        self._client.publish(keys.CHANGES, job_id)

    # What supervisors and runs do.

    @stored
    def queue(self) -> list[str]:
        """The ids of the jobs that wait, the next to start first."""
        return texts(self._client.zrange(keys.QUEUE, 0, -1))

    @stored
    def unqueue(self, job_id: str) -> None:
        """Removes what is no job that could start: nothing may wait behind it for good."""
        self._client.zrem(keys.QUEUE, job_id)

    @stored
    def explain_wait(self, job_id: str, reason: str) -> None:
        """Says in the job, and once in its events, why it does not start."""
        event = to_json({"message": reason})
        self._explain_wait(
            [keys.job(job_id), keys.job_events(job_id)], [reason, self._time(), event, job_id, keys.CHANGES]
        )

    @stored
    def claim(self, job_id: str) -> Claim | None:
        """Takes a waiting job; None when somebody else was faster."""
        fields = {"started_at": self._time()}
        answer = self._apply(job_id, "starting", fields=fields, raise_fence=True, is_claim=True)
        return Claim(job_id, int(answer[1])) if answer[0] == "ok" else None

    @stored
    def renew(self, claim: Claim) -> bool:
        """Shows that the holder lives; False when the job is no longer its own."""
        return bool(self._renew([keys.job(claim.job_id)], [claim.fence]))

    @stored
    def leases(self) -> list[Lease]:
        """Every held job, as a contender sees it, but those whose numbers are damaged."""
        pipeline = self._client.pipeline(transaction=False)
        for state in sorted(HELD):
            pipeline.zrange(keys.jobs_in_state(state), 0, -1)
        ids = texts(job_id for found in pipeline.execute() for job_id in found)
        for job_id in ids:
            pipeline.hmget(keys.job(job_id), "fence", "lease")
        found = zip(ids, pipeline.execute(raise_on_error=False), strict=True)
        leases = (_read_lease(job_id, values) for job_id, values in found)
        return [lease for lease in leases if lease is not None]

    @stored
    def kind(self, job_id: str) -> str:
        """What a job does: "training" or "prediction"."""
        return text(self._client.hget(keys.job(job_id), "kind") or b"training")

    @stored
    def draft(self, claim: Claim, dataset_id: str) -> None:
        """Notes the data set that a run is going to write: what it leaves unpublished is found by that.

        Raises:
            FenceLost: the job is no longer the caller's.

        """
        job_id = claim.job_id
        self._held(claim, self._draft([keys.job(job_id), keys.DATASET_DRAFTS], [claim.fence, job_id, dataset_id]))

    @stored
    def begin(
        self,
        claim: Claim,
        progress: Progress | PredictionProgress | None = None,
        metrics: Mapping[str, float] | None = None,
        *,
        checkpoint: int | None = None,
    ) -> None:
        """`starting` → `running`: from the beginning, or from where the checkpoint of that number stands.

        Raises:
            FenceLost: the job is no longer the caller's.

        """
        fields = {
            "progress": progress.model_dump_json() if progress else "",
            "metrics": to_json(dict(metrics)) if metrics else "",
        }
        answer = self._apply(
            claim.job_id,
            "running",
            fence=claim.fence,
            fields=fields,
            event={} if checkpoint is None else {"checkpoint": checkpoint},
            keep_epochs=progress.epoch if isinstance(progress, Progress) else 0,
        )
        self._held(claim, answer)

    @stored
    def requeue(self, claim: Claim, reason: str, *, lost: bool = True) -> bool:
        """Lets go of a job that is to be started again; False when it has passed on.

        It goes back into the queue, or to where it was asked to go: it is cancelled or paused. `lost`: something failed,
        and that counts against the job.
        """
        wish = _read_wish(self._client.hget(keys.job(claim.job_id), "wish"))
        while True:
            target: State = "queued" if wish is None else "cancelled" if wish == "cancel" else "paused"
            answer = self._apply(
                claim.job_id,
                target,
                fence=claim.fence,
                fields={"stop_reason": "cancelled"} if target == "cancelled" else None,
                event={"reason": reason},
                raise_fence=True,
                needs=wish,
                unless=("cancel", "pause") if wish is None else (),
                change="loss" if lost else "",
            )
            if answer[0] != "wish":
                return bool(answer[0] == "ok")
            wish = _read_wish(answer[1])  # it changed just now

    @stored
    def losses(self, claim: Claim) -> int:
        """How often a run of the job was lost since its last checkpoint."""
        with damage("The record of a job is damaged."):
            return int(self._client.hget(keys.job(claim.job_id), "losses") or 0)

    @stored
    def end_paused(self, claim: Claim) -> bool:
        """`running` → `paused`, if that is still asked for.

        Raises:
            FenceLost: the job is no longer the caller's.

        """
        answer = self._apply(claim.job_id, "paused", fence=claim.fence, raise_fence=True, needs="pause", change="kept")
        if answer[0] == "wish":
            return False
        self._held(claim, answer)
        return True

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
            self._apply(
                claim.job_id,
                "succeeded",
                fence=claim.fence,
                fields=fields,
                event=event,
                model=model,
                unless=("cancel",),
            ),
        )

    @stored
    def succeed_predicting(self, claim: Claim, result: Dataset) -> None:
        """`running` → `succeeded`, and the predictions are published as a data set in the same step.

        Raises:
            FenceLost: the job is no longer the caller's.
            Conflict: a cancel was asked for (`cancel_asked`).

        """
        reason: StopReason = "rows_done"
        answer = self._apply(
            claim.job_id,
            "succeeded",
            fence=claim.fence,
            fields={"stop_reason": reason, "metrics": to_json({}), "result_dataset_id": result.id},
            event={"stop_reason": reason, "result_dataset_id": result.id},
            result=result,
            unless=("cancel",),
        )
        self._held(claim, answer)

    @stored
    def end_cancelled(
        self, claim: Claim, metrics: Mapping[str, float] | None = None, model: tuple[str, str] | None = None
    ) -> None:
        """→ `cancelled`, keeping the best weights so far as a model if there are any.

        Raises:
            FenceLost: the job is no longer the caller's.

        """
        fields = {"stop_reason": "cancelled"} | ({"metrics": to_json(dict(metrics))} if metrics else {})
        event = {"stop_reason": "cancelled"} | ({"model_id": model[0]} if model else {})
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
        progress: Progress | PredictionProgress | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> Wish | None:
        """Notes what happened in a run; answers what its holder is asked for.

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
                job_id,
                keys.CHANGES,
                *pairs(fields),
            ],
        )
        self._held(claim, answer)
        return _read_wish(answer[1])

    @stored
    def asked(self, claim: Claim) -> Wish | None:
        """What the holder of a job is asked for.

        Raises:
            FenceLost: the job is no longer the caller's.

        """
        fence, wish = self._client.hmget(keys.job(claim.job_id), "fence", "wish")
        if fence != b"%d" % claim.fence:
            raise FenceLost("The job has passed to another holder.")
        return _read_wish(wish)

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
        result: Dataset | None = None,
        raise_fence: bool = False,
        is_claim: bool = False,
        keep_epochs: int | None = None,
        unless: tuple[Wish, ...] = (),
        needs: Wish | None = None,
        change: Literal["", "loss", "kept"] = "",
        max_queued: int | None = None,
    ) -> Any:
        now = self._time()
        request = self._client.hget(keys.job(job_id), "request")
        if request is None:
            return ["missing"]
        with damage("The record of a job is damaged."):
            described = json.loads(request)
            dataset_id = described["dataset_id"]
            predicts = "model_id" in described
            model_needed = described["model_id" if predicts else "base_model_id"]
            judge = None if predicts else described["validation"].get("dataset_id")
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
                keys.job_metrics(job_id),
                keys.TO_ARCHIVE,
                keys.model_jobs(model_needed) if model_needed else "",
                keys.dataset_jobs(judge) if judge else "",
                keys.dataset(result.id) if result else "",
                keys.DATASETS,
                keys.dataset_versions(result.name if result else ""),
                keys.DATASET_DRAFTS,
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
                int(is_claim),
                int(ends),
                model_id,
                ",".join(unless),
                needs or "",
                "" if keep_epochs is None else keep_epochs,
                keys.CHANGES,
                change,
                "" if max_queued is None else max_queued,
                result.id if result else "",
                result.model_copy(update={"version": 0}).model_dump_json() if result else "",
                *pairs({**(fields or {}), **({"finished_at": now} if ends else {})}),
            ],
        )

    def _held(self, claim: Claim, answer: list[str]) -> None:
        if answer[0] == "wish":
            raise Conflict("A cancel was asked for.", code="cancel_asked")
        if answer[0] != "ok":
            raise FenceLost(f"{claim.job_id} has passed to another holder: {answer[-1]}.")

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


def _read_wish(value: object) -> Wish | None:
    return "cancel" if value in (b"cancel", "cancel") else "pause" if value in (b"pause", "pause") else None


def _uses(request: TrainingRequest | BatchPredictionRequest) -> tuple[str | None, str | None]:
    """What a job needs beside its data set: a model, and the data set of its validation rows."""
    if isinstance(request, BatchPredictionRequest):
        return request.model_id, None
    judge = request.validation.dataset_id if isinstance(request.validation, DatasetSplit) else None
    return request.base_model_id, judge


def _not_training() -> Conflict:
    return Conflict("The job predicts; only one that trains can be paused or run again.", code="job_not_training")


def _queue_full() -> Conflict:
    return Conflict("As many jobs as allowed are waiting.", code="queue_full", hint="Try again when some have ended.")


def require_job(client: Client, job_id: str) -> None:
    """Raises NotFound unless there is such a job."""
    if not is_id(job_id, "job") or not client.exists(keys.job(job_id)):
        raise no_such_job()


def no_such_job() -> NotFound:
    """The error for an id of no job."""
    return NotFound("There is no such job.", code="job_not_found")


@contextmanager
def damage(message: str) -> Iterator[None]:
    """Whatever fails inside, fails because what is stored is not what was written."""
    try:
        yield
    except (AssertionError, KeyError, RecursionError, TypeError, ValueError, zlib.error) as error:
        raise CorruptRecord(message) from error


def _read_lease(job_id: str, values: object) -> Lease | None:
    try:
        assert isinstance(values, list)
        if None in values:  # it was deleted just now
            return None
        fence, counter = map(text, values)
        assert _WHOLE.match(fence)
        assert _WHOLE.match(counter)
    except (AssertionError, UnicodeDecodeError):
        tell_once(f"{job_id} is held, and its record is damaged")
        return None
    return Lease(job_id, int(fence), int(counter))


def _read(fields: object, rank: object) -> Job:
    with damage("The record of a job is damaged."):
        assert isinstance(fields, dict)
        known = {text(name): text(value) for name, value in fields.items()}
        assert all(_WHOLE.match(known[name]) for name in _NUMBERS if name in known or name != "losses")
        optional = {name: known.get(name) or None for name in _OPTIONAL}
        kind = known.get("kind", "training")  # which versions before did not write
        return _KINDS[kind].model_validate(
            {
                **optional,
                "id": known["id"],
                "kind": kind,
                "state": known["state"],
                "revision": int(known["revision"]),
                "attempt": int(known["attempt"]),
                "created_at": known["created_at"],
                "queue_position": rank,
                "waiting_for": known.get("waiting_for"),
                "request": json.loads(known["request"]),
                "task": known["task"],
                "labels": json.loads(known["labels"]),
                **{
                    name: json.loads(known[name])
                    for name in ("progress", "metrics", "error", "warnings")
                    if known.get(name)
                },
            }
        )
