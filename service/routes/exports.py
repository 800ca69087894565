"""`/v1/models/{ref}/export` and `/v1/models/import`: models as files."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from common.errors import UnsupportedMedia
from common.learned import LearnedNetwork
from common.schemas.models import Model
from common.schemas.training import MODEL_NAME
from common.store.datasets import Created
from common.store.stores import utc_now
from service.exporting.onnx_file import write_onnx
from service.model_files import form
from service.model_files.importing import Limits, read_model
from service.routes.models import record_of
from service.routes.shared import Behind, IdempotencyKey, Services, check_encoding, errors
from service.spooled import spooled
from service.uploads import Received, receive

router = APIRouter(prefix="/v1/models", tags=["models"])

ExportFormat = Literal["safetensors", "onnx"]
Writer = Callable[[LearnedNetwork, Model], bytes]
WRITERS: Mapping[ExportFormat, Writer] = {"safetensors": form.write, "onnx": write_onnx}
"""What makes a file of each format."""

_BINARY = {form.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}
_BODY = {"requestBody": {"required": True, "content": _BINARY}}
_AT_WORK = asyncio.Semaphore(2)
"""So many models are written or read as files at once, for each takes its size in memory several times."""


@router.get(
    "/{ref}/export",
    response_class=Response,
    responses={**errors(404, 409, 422, 507), 200: {"content": _BINARY, "description": "The file."}},
)
async def export(
    ref: str,
    behind: Behind,
    wanted: Annotated[ExportFormat, Query(alias="format", description="The format of the file.")] = "safetensors",
) -> Response:
    """A model as a file: of safetensors, which `POST /v1/models/import` takes, or for ONNX runtimes (docs/export.md)."""
    async with _AT_WORK:
        return await run_in_threadpool(_write, ref, wanted, behind)


def _write(ref: str, wanted: ExportFormat, behind: Services) -> Response:
    model = record_of(ref, behind)
    content = WRITERS[wanted](behind.predictor.find(model.id).network, model)
    headers = {"Content-Disposition": f'attachment; filename="{model.name}-{model.version}.{wanted}"'}
    return spooled(content, behind.stores.files.new_upload().parent, form.MEDIA_TYPE, headers)


@router.post("/import", status_code=201, responses=errors(400, 408, 413, 415, 422, 507), openapi_extra=_BODY)
async def import_model(
    request: Request,
    response: Response,
    behind: Behind,
    idempotency_key: IdempotencyKey,
    name: Annotated[
        str | None,
        Query(
            pattern=MODEL_NAME, description="The model's name here, of which it is the next version; else the file's."
        ),
    ] = None,
) -> Model:
    """Takes a file that an export in the format safetensors made, here or elsewhere, as a model.

    It predicts the same bits. Every part of the file is checked before anything of it is used.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != form.MEDIA_TYPE:
        raise UnsupportedMedia(f"The body must be {form.MEDIA_TYPE}.")
    check_encoding(request)
    received = await receive(request.stream(), behind.stores.files.new_upload())
    try:
        async with _AT_WORK:
            created = await run_in_threadpool(_take, received, name, idempotency_key, behind)
    finally:
        received.path.unlink(missing_ok=True)
    if created.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    response.headers["Location"] = f"/v1/models/{created.id}"
    return await run_in_threadpool(behind.stores.models.get, created.id)


def _take(received: Received, name: str | None, idempotency_key: str | None, behind: Services) -> Created:
    settings = behind.settings
    limits = Limits(settings.max_columns, settings.max_parameters, settings.max_request_bytes)
    model = read_model(received.path, received.size, received.sha256, limits, name, utc_now())
    digest = hashlib.sha256(f"{name or ''}\0{received.sha256}".encode()).hexdigest()
    return behind.stores.models.publish(model, idempotency_key=idempotency_key, digest=digest)
