"""`POST /v1/models/{ref}/predict`: what a model says of instances.

Most requests are small and their model is in memory: those are answered at once, in the event loop. What has to wait,
or to compute for long, does so in a thread.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ValidationError

from common.errors import TooLarge, UnsupportedMedia
from common.schemas.predictions import Prediction, PredictionRequest
from service import problems, strict_json
from service.openapi import reference_to
from service.predictor import Found
from service.routes.shared import Behind, Services, check_encoding, errors

router = APIRouter(prefix="/v1/models", tags=["models"])

_QUICK_BYTES = 1 << 16
"""A body that is read in the event loop: a fraction of a millisecond."""
_QUICK_WORK = 1 << 22
"""Bytes of weights, times rows, that are worked through in the event loop: a fraction of a millisecond, too."""
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": reference_to(PredictionRequest)}},
    }
}


class Predictions(BaseModel):
    """One prediction per instance, and the model that made them."""

    model_id: str
    """The job's id while it has no model yet."""
    predictions: list[Prediction]


@router.post(
    "/{ref}/predict",
    response_model=Predictions,
    responses=errors(400, 404, 409, 413, 415, 422),
    openapi_extra=_BODY,
)
async def predict(ref: str, request: Request, behind: Behind) -> Response:
    """Predicts. An instance is an object by column name, or an array in the order of the model's `inputs`.

    A running job's id in place of a model's predicts with its best weights so far, as of its newest checkpoint.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedMedia("The body must be application/json.")
    check_encoding(request)
    body = await request.body()
    wanted = _wanted(body) if len(body) <= _QUICK_BYTES else await run_in_threadpool(_wanted, body)
    if len(wanted.instances) > behind.settings.max_predict_rows:
        raise TooLarge(f"At most {behind.settings.max_predict_rows} instances are predicted at once.")
    found = await find(ref, behind)
    is_quick = len(body) <= _QUICK_BYTES and len(wanted.instances) * found.network.nbytes <= _QUICK_WORK
    answer = _answer(found, wanted) if is_quick else await run_in_threadpool(_answer, found, wanted)
    return Response(answer, media_type="application/json")


async def find(ref: str, behind: Services) -> Found:
    """The network that a reference stands for: at once if it is the id of a model in memory.

    Else all who ask for the same at the same time are answered by one question to the store. Raises what
    `Predictor.find` raises.
    """
    found = behind.predictor.recall(ref)
    if found is None:
        found = await behind.reads.read(("network", ref), partial(behind.predictor.find, ref))
    return found


def _wanted(body: bytes) -> PredictionRequest:
    document = strict_json.parse(body)
    try:
        return PredictionRequest.model_validate(document)
    except ValidationError as error:
        raise problems.invalid(problems.faults_of_body(error.errors(), document)) from None


def _answer(found: Found, wanted: PredictionRequest) -> bytes:
    predictions = found.network.predict(wanted.instances)
    answer = Predictions.model_construct(model_id=found.id, predictions=predictions)
    return answer.__pydantic_serializer__.to_json(answer, exclude_none=True)
