"""`/v1/jobs`: submit, watch, steer, delete."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel, BeforeValidator, Field

from common.errors import Fault, Invalid
from common.identifiers import new_id
from common.lifecycle import TERMINAL, State
from common.schemas.checkpoints import Checkpoint
from common.schemas.jobs import DryRun, EpochMetrics, Job, JobEvent, TrainingJob
from common.store.datasets import Created
from service import problems
from service.event_stream import EventReader, read_event_id, stream
from service.merge_patch import kinds_of, merged
from service.routes.job_creation import RequestKey, answer, replayed
from service.routes.shared import Behind, Cursor, IdempotencyKey, JsonRoute, Limit, Listing, Services, errors
from service.submission import Assessment, assess

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=JsonRoute)


class Jobs(Listing[Job]):
    """A page of jobs, newest first."""


class Events(BaseModel):
    """What happened to a job, oldest first."""

    data: list[JobEvent]


class Checkpoints(BaseModel):
    """The checkpoints of a job, newest first."""

    data: list[Checkpoint]


class History(BaseModel):
    """One entry per epoch."""

    data: list[EpochMetrics]


_MOST_WAIT = 60.0
_LOOK_SECONDS = 5.0
"""While a request waits for a change, and is told of none."""

_EXAMPLES = {
    "short": {
        "summary": "All defaults",
        "value": {"dataset_id": "ds_4jv2k0m8x7w3q9h5r1t6n0c8y", "target": "species"},
    },
    "full": {
        "summary": "A network of one's own",
        "value": {
            "dataset_id": "ds_4jv2k0m8x7w3q9h5r1t6n0c8y",
            "target": "digit",
            "name": "digits",
            "network": {"layers": [{"kind": "dense", "units": 512, "activation": "relu", "dropout": 0.2}]},
            "optimizer": {"kind": "adam", "learning_rate": 0.001},
            "training": {"epochs": 30, "batch_size": 256, "seed": 1},
            "stopping": {"target_error": 0.02, "patience": 5, "max_seconds": 600},
            "cluster": {"workers": 2},
            "labels": {"team": "vision"},
        },
    },
    "from a model": {
        "summary": "Beginning with what a model has learned",
        "value": {
            "dataset_id": "ds_4jv2k0m8x7w3q9h5r1t6n0c8y",
            "target": "digit",
            "base_model_id": "mdl_4jv2k0m8x7w3q9h5r1t6n0c8y",
        },
    },
    "intervals": {
        "summary": "A deep network with residual blocks that predicts intervals",
        "value": {
            "dataset_id": "ds_4jv2k0m8x7w3q9h5r1t6n0c8y",
            "target": "price",
            "columns": {"zip": {"encoding": "embedding", "width": 8}},
            "network": {
                "layers": [
                    {"kind": "dense", "units": 128, "activation": "gelu", "dropout": 0.1},
                    {
                        "kind": "residual",
                        "layers": [
                            {"kind": "layer_norm"},
                            {"kind": "dense", "units": 128, "activation": "gelu"},
                            {"kind": "dense", "units": 128, "activation": "identity"},
                        ],
                    },
                ],
                "initializer": "orthogonal",
            },
            "loss": {"kind": "quantile", "quantiles": [0.1, 0.5, 0.9]},
            "optimizer": {"kind": "adamw", "learning_rate": 0.002},
            "schedule": {"kind": "warm_up", "epochs": 1, "then": {"kind": "cosine", "floor": 0.01}},
            "regularization": {"clip_norm": 1.0},
        },
    },
    "imbalance": {
        "summary": "Classes of unequal number, smoothed labels, a learning rate that reacts",
        "value": {
            "dataset_id": "ds_4jv2k0m8x7w3q9h5r1t6n0c8y",
            "target": "fraud",
            "network": {
                "layers": [{"kind": "dense", "units": 64, "activation": "maxout", "pieces": 3}],
                "input_dropout": 0.1,
            },
            "loss": {"kind": "cross_entropy", "label_smoothing": 0.05},
            "class_weights": "balanced",
            "optimizer": {"kind": "nesterov", "learning_rate": 0.05, "momentum": 0.9},
            "schedule": {"kind": "reduce_on_plateau", "factor": 0.3, "patience": 3},
            "regularization": {"l2": 1e-5, "max_norm": 3.0},
        },
    },
    "many workers": {
        "summary": "Workers that average their weights every now and then",
        "value": {
            "dataset_id": "ds_4jv2k0m8x7w3q9h5r1t6n0c8y",
            "target": "digit",
            "cluster": {"workers": 8, "servers": 2, "synchrony": {"kind": "local_steps", "steps": 16}},
        },
    },
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/TrainingRequest"},
                "examples": _EXAMPLES,
            }
        },
    }
}


@router.post(
    "",
    status_code=201,
    response_model=TrainingJob,
    responses={
        200: {"model": DryRun, "description": "With `dry_run=true`: what the job would come to"},
        **errors(400, 404, 409, 413, 415, 422, 507),
    },
    openapi_extra=_BODY,
)
def submit(
    body: Annotated[dict[str, object], Body()],
    response: Response,
    behind: Behind,
    idempotency_key: IdempotencyKey,
    dry_run: Annotated[bool, Query(description="Check only: nothing is stored.")] = False,
) -> Response | Job:
    """Submits a training job. It is on disk before this answers. Every fault of the request is reported at once."""
    if dry_run:
        return JSONResponse(_dry_run(_assess(body, behind)).model_dump(mode="json"))
    key = RequestKey.of(idempotency_key, body)
    created = replayed(key, behind) or _create(body, key, behind)
    return answer(created, behind, response)


def _assess(body: Mapping[str, object], behind: Services) -> Assessment:
    stores = behind.stores
    return assess(body, stores.datasets.get, stores.models.get, behind.settings, lambda: secrets.randbelow(2**31))


def _create(body: Mapping[str, object], key: RequestKey, behind: Services) -> Created:
    """Submits a request in which no fault is found."""
    assessment = _assess(body, behind)
    if assessment.faults:
        raise problems.invalid(assessment.faults)
    assert assessment.request is not None
    assert assessment.task is not None
    return behind.stores.jobs.submit(
        new_id("job"),
        assessment.request,
        assessment.task,
        given=body,
        warnings=assessment.warnings,
        max_queued=behind.settings.max_queued_jobs,
        idempotency_key=key.value,
        digest=key.digest,
    )


def _dry_run(assessment: Assessment) -> DryRun:
    return DryRun(
        valid=not assessment.faults,
        errors=problems.dump(assessment.faults),
        task=assessment.task,
        parameters=assessment.parameters,
        memory_bytes=assessment.memory_bytes,
        rows=assessment.rows,
        features=assessment.features,
        classes=assessment.classes,
        warnings=assessment.warnings,
    )


_OR_EMPTY = BeforeValidator(lambda value: value or None)
"""A filter that is named and says nothing is none."""


@router.get("", responses=errors(422))
def list_jobs(
    behind: Behind,
    limit: Limit = 50,
    cursor: Cursor = None,
    state: Annotated[State | None, _OR_EMPTY, Query(description="Only jobs in this state.")] = None,
    label: Annotated[
        Annotated[str, Field(max_length=300)] | None,
        _OR_EMPTY,
        Query(description="Only jobs with this label, as `key:value`."),
    ] = None,
) -> Jobs:
    """Jobs, newest first: those that train, and those that predict."""
    if label is not None and ":" not in label:
        raise Invalid("The request has a fault.", [Fault("label", "wrong_form", "must be `key:value`")])
    return Jobs.of(behind.stores.jobs.page(limit, cursor, state=state, label=label))


@router.get("/{job_id}", response_model=Job, responses=errors(404, 422))
async def show_job(
    job_id: str,
    behind: Behind,
    wait: Annotated[
        float, Query(ge=0, le=_MOST_WAIT, description="Answer when the revision passes `revision`, or after so long.")
    ] = 0.0,
    revision: Annotated[int | None, Query(ge=0, description="The revision already known; the current one.")] = None,
) -> Response:
    """A job as it stands. With `wait`, as soon as it is newer than what the caller knows: `?wait=30&revision=12`."""

    def look() -> tuple[Job, str]:
        job = behind.stores.jobs.get(job_id)
        return job, job.model_dump_json()  # which also is done once for all who wait

    if wait:
        behind.changes.check_room()
    until = time.monotonic() + wait
    with behind.changes.of(job_id) as changed:
        job, answer = await behind.reads.read(("job", job_id), look)
        known = job.revision if revision is None else revision
        while job.revision <= known and job.state not in TERMINAL and not behind.changes.is_stopping:
            left = until - time.monotonic()
            if left <= 0:
                break
            await changed.wait(min(left, _LOOK_SECONDS))
            job, answer = await behind.reads.read(("job", job_id), look)
    return Response(answer, media_type="application/json")


_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": 'event: state\ndata: {"state":"running","at":"2026-01-01T12:00:00.000Z"}\nid: 1767268800000-0\n\n',
            }
        }
    },
    204: {"description": "`text/event-stream` only: the job has ended, and `Last-Event-ID` was its last event."},
}


@router.get("/{job_id}/events", response_model=Events, responses={**_STREAM, **errors(404, 422)})
async def events(
    job_id: str,
    behind: Behind,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
    last_event_id: Annotated[str | None, Header(description="Only what happened after this event.")] = None,
) -> Response | Events:
    """What happened to a job: its moves from state to state, its progress, its checkpoints, its processes.

    With `Accept: text/event-stream` events come as they happen (server-sent events), until the job has ended. A client
    that was cut off goes on with `Last-Event-ID`, and misses none.
    """
    after = read_event_id(last_event_id)
    if "text/event-stream" not in accept.lower():
        return Events(data=await run_in_threadpool(behind.stores.history.events, job_id, after))
    reader = EventReader(behind.stores.jobs, behind.stores.history, behind.reads)
    news = await reader.after(job_id, after)
    if news.is_all and not news.events:
        return Response(status_code=204)  # which tells browsers not to come back
    behind.changes.check_room()
    return EventSourceResponse(stream(reader, behind.changes, job_id, after), headers={"Cache-Control": "no-store"})


@router.get("/{job_id}/checkpoints", responses=errors(404))
def checkpoints(job_id: str, behind: Behind) -> Checkpoints:
    """The newest checkpoints of a job, from which it is resumed when a process or a machine is lost."""
    behind.stores.jobs.get(job_id)
    return Checkpoints(data=behind.stores.checkpoints.of_job(job_id))


@router.get("/{job_id}/metrics", responses=errors(404))
def metrics(job_id: str, behind: Behind) -> History:
    """Losses and metrics of every epoch of the current attempt."""
    return History(data=behind.stores.history.metrics(job_id))


@router.post("/{job_id}/cancel", status_code=202, responses=errors(404, 409))
def cancel(job_id: str, behind: Behind) -> Job:
    """Cancels a job. One that runs ends within a second or so, and keeps its best weights so far as a model."""
    behind.stores.jobs.cancel(job_id)
    return behind.stores.jobs.get(job_id)


@router.post("/{job_id}/pause", status_code=202, responses=errors(404, 409))
def pause(job_id: str, behind: Behind) -> Job:
    """Pauses a training. One that runs is written down whole and gives its processors back within a second or two."""
    behind.stores.jobs.pause(job_id)
    return behind.stores.jobs.get(job_id)


@router.post("/{job_id}/resume", status_code=202, responses=errors(404, 409))
def resume(job_id: str, behind: Behind) -> Job:
    """Puts a paused job back into the queue, at its old place. It goes on exactly where it stopped."""
    behind.stores.jobs.resume(job_id, max_queued=behind.settings.max_queued_jobs)
    return behind.stores.jobs.get(job_id)


_RERUN = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {"type": "object", "description": "A merge patch (RFC 7396) of the training request."},
                "examples": {
                    "same": {"summary": "Once more", "value": {}},
                    "longer": {"summary": "With a change", "value": {"training": {"epochs": 200}}},
                    "faster": {
                        "summary": "With another option of the same optimizer",
                        "value": {"optimizer": {"learning_rate": 0.01}},
                    },
                },
            }
        }
    }
}


@router.post(
    "/{job_id}/rerun",
    status_code=201,
    response_model=TrainingJob,
    responses=errors(400, 404, 409, 413, 415, 422, 507),
    openapi_extra=_RERUN,
)
def rerun(
    job_id: str,
    response: Response,
    behind: Behind,
    idempotency_key: IdempotencyKey,
    body: Annotated[dict[str, object] | None, Body()] = None,
) -> Job:
    """Submits a new training with the request of an earlier one, its seed included; what the body holds takes precedence."""
    patch = body or {}
    key = RequestKey.of(idempotency_key, patch, scope=f"rerun {job_id} ")
    created = replayed(key, behind)
    if created is None:
        jobs = behind.stores.jobs
        request = merged(jobs.given(job_id), patch, kinds_of(jobs.get(job_id).request))
        created = _create(request, key, behind)
    return answer(created, behind, response)


@router.delete("/{job_id}", status_code=204, responses=errors(404, 409))
def delete_job(job_id: str, behind: Behind) -> None:
    """Deletes an ended job, its history and its checkpoints; its model stays. One whose record is damaged goes in any state."""
    behind.stores.jobs.delete(job_id)
    behind.stores.checkpoints.discard(job_id)
