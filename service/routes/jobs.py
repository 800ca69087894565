"""`/v1/jobs`: submit, watch, cancel, delete."""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import Annotated

from fastapi import APIRouter, Body, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from common.errors import Fault, Invalid
from common.identifiers import new_id
from common.lifecycle import State
from common.schemas.jobs import DryRun, EpochMetrics, Job, JobEvent
from service import problems
from service.routes.shared import Behind, Cursor, IdempotencyKey, JsonRoute, Limit, Listing, errors
from service.submission import Assessment, assess

router = APIRouter(prefix="/v1/jobs", tags=["training jobs"], route_class=JsonRoute)


class Events(BaseModel):
    """What happened to a job, oldest first."""

    data: list[JobEvent]


class History(BaseModel):
    """One entry per epoch."""

    data: list[EpochMetrics]


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
    response_model=Job,
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
    assessment = assess(body, behind.stores.datasets.get, behind.settings, lambda: secrets.randbelow(2**31))
    if dry_run:
        return JSONResponse(_dry_run(assessment).model_dump(mode="json"))
    if assessment.faults:
        raise problems.invalid(assessment.faults)
    request = assessment.request
    assert request is not None
    assert assessment.task is not None
    created = behind.stores.jobs.submit(
        new_id("job"),
        request,
        assessment.task,
        max_queued=behind.settings.max_queued_jobs,
        idempotency_key=idempotency_key,
        digest=hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest(),
    )
    if created.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    response.headers["Location"] = f"/v1/jobs/{created.id}"
    return behind.stores.jobs.get(created.id)


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


@router.get("", responses=errors(422))
def list_jobs(
    behind: Behind,
    limit: Limit = 50,
    cursor: Cursor = None,
    state: Annotated[State | None, Query(description="Only jobs in this state.")] = None,
    label: Annotated[
        str | None, Query(max_length=300, description="Only jobs with this label, as `key:value`.")
    ] = None,
) -> Listing[Job]:
    """Jobs, newest first."""
    if label is not None and ":" not in label:
        raise Invalid("The request has a fault.", [Fault("label", "wrong_form", "must be `key:value`")])
    return Listing.of(behind.stores.jobs.page(limit, cursor, state=state, label=label))


@router.get("/{job_id}", responses=errors(404))
def show(job_id: str, behind: Behind) -> Job:
    """A job as it stands."""
    return behind.stores.jobs.get(job_id)


@router.get("/{job_id}/events", responses=errors(404))
def events(job_id: str, behind: Behind) -> Events:
    """What happened to a job: its moves from state to state, its progress, its processes."""
    return Events(data=behind.stores.jobs.events(job_id))


@router.get("/{job_id}/metrics", responses=errors(404))
def metrics(job_id: str, behind: Behind) -> History:
    """Losses and metrics of every epoch of the current attempt."""
    return History(data=behind.stores.jobs.metrics(job_id))


@router.post("/{job_id}/cancel", status_code=202, responses=errors(404, 409))
def cancel(job_id: str, behind: Behind) -> Job:
    """Cancels a job. One that runs ends within a second or so, and keeps its best weights so far as a model."""
    behind.stores.jobs.cancel(job_id)
    return behind.stores.jobs.get(job_id)


@router.delete("/{job_id}", status_code=204, responses=errors(404, 409))
def delete(job_id: str, behind: Behind) -> None:
    """Deletes an ended job and its history; its model stays."""
    behind.stores.jobs.delete(job_id)
