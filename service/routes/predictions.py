"""`POST /v1/models/{ref}/predict`: what a model says of instances.

Most requests are small and their model is in memory: those are answered at once, in the event loop. What has to wait,
or to compute for long, does so in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import TooLarge, UnsupportedMedia
from common.learned import Answer
from common.schemas.predictions import Prediction, PredictionOptions, PredictionRequest, PredictionWarning
from service import problems, strict_json
from service.predictor import Found
from service.routes import file_description
from service.routes.prediction_options import Explain, Threshold, TopK, merged
from service.routes.shared import Behind, Services, check_encoding, errors

router = APIRouter(prefix="/v1/models", tags=["models"])

QUICK_BYTES = 1 << 16
"""A body that is read in the event loop: a fraction of a millisecond."""
_QUICK_CELLS = 1 << 12
"""Values that come in, or numbers that go out."""
_NUMBER_BYTES = 8
_QUICK_WORK = 1 << 22
"""Bytes of weights, times rows, that are worked through in the event loop: a fraction of a millisecond, too."""


class Predictions(BaseModel):
    """One prediction per instance, and the model that made them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model_id": "mdl_48ff0qyk8ww7nbvctabx3698y",
                    "predictions": [
                        {
                            "label": "stays",
                            "probabilities": {"stays": 0.83, "leaves": 0.17},
                            "explanation": {
                                "baseline": 0.61,
                                "contributions": {"age": 0.25, "city": -0.04, "member": 0.009},
                                "remainder": 0.001,
                            },
                        }
                    ],
                    "warnings": [
                        {
                            "pointer": "/instances/0/city",
                            "code": "unknown_category",
                            "message": "counts as unknown: no training row had this category, or too few to learn from",
                        }
                    ],
                }
            ]
        }
    )

    model_id: str
    """The job's id while it has no model yet."""
    predictions: list[Prediction]
    warnings: list[PredictionWarning]
    """Values that training rows had nothing like."""


@router.post(
    "/{ref}/predict",
    response_model=Predictions,
    responses={**errors(400, 404, 406, 408, 409, 413, 415, 422, 507), 200: file_description.ANSWER},
    openapi_extra=file_description.REQUEST,
)
async def predict(
    ref: str,
    request: Request,
    behind: Behind,
    explain: Explain = None,
    top_k: TopK = None,
    threshold: Threshold = None,
) -> Response:
    """Predicts. An instance is an object by column name, or an array in the order of the model's `inputs`.

    The options may stand in the query, or in the body beside `instances`. docs/predictions.md tells what explanations
    and warnings mean. A running job's id in place of a model's predicts with its best weights so far, as of its newest
    checkpoint.

    The body may be a whole file too, CSV, TSV, NDJSON or Parquet, of which the answer comes while it is read; then `Accept`
    chooses the form of the answer. A row is a line of it, or an object as in JSON; docs/predicting_files.md has the rest.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedMedia("The body must be application/json.")
    check_encoding(request)
    body = await request.body()
    wanted = _wanted(body) if len(body) <= QUICK_BYTES else await run_in_threadpool(_wanted, body)
    if len(wanted.instances) > behind.settings.max_predict_rows:
        raise TooLarge(f"At most {behind.settings.max_predict_rows} instances are predicted at once.")
    in_query = PredictionOptions(explain=explain, top_k=top_k, threshold=threshold)
    options = merged(in_query, wanted)
    found = await find(ref, behind)
    _check_numbers(found, wanted, behind.settings.max_tensor_bytes)
    answer = partial(_answer, found, wanted.instances, options, in_query.given)
    return Response(await _run(answer, found, wanted, options, behind), media_type="application/json")


async def _run(
    answer: Callable[[], bytes], found: Found, wanted: PredictionRequest, options: PredictionOptions, behind: Services
) -> bytes:
    """Where there is time for it."""
    if options.explain:
        async with behind.evaluations:
            return await run_in_threadpool(answer)
    return answer() if _is_quick(found, wanted) else await run_in_threadpool(answer)


async def quick_answer(found: Found, body: bytes, behind: Services) -> bytes | None:
    """The answer to a small body; None where it takes time, or is not allowed to be so long.

    Raises:
        Unreadable, Invalid: the body is not right.
        TooLarge: its answer would be.

    """
    wanted = _wanted(body)
    if wanted.explain or len(wanted.instances) > behind.settings.max_predict_rows or not _is_quick(found, wanted):
        return None
    _check_numbers(found, wanted, behind.settings.max_tensor_bytes)
    if wanted.top_k is not None or wanted.threshold is not None:
        return _answer(found, wanted.instances, wanted, ())
    alone = behind.room.at_work <= 1
    return _written(found, await behind.gathering.answer(found.network, wanted.instances, alone=alone))


def _is_quick(found: Found, wanted: PredictionRequest) -> bool:
    """Whether it may be computed in the event loop."""
    rows, network = len(wanted.instances), found.network
    cells = rows * max(len(network.encoder.columns), network.width)
    return cells <= _QUICK_CELLS and rows * network.nbytes <= _QUICK_WORK


def _check_numbers(found: Found, wanted: PredictionRequest, most_bytes: int) -> None:
    """Refuses a small body whose answer would be huge: of a network of many classes, each row has a number for each.

    Raises:
        TooLarge: the numbers alone would be more than so many bytes.

    """
    if len(wanted.instances) * found.network.width * _NUMBER_BYTES > most_bytes:
        raise TooLarge("The answer would be larger than is allowed; send fewer rows at once, or as a file.")


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


def _answer(found: Found, instances: list[object], options: PredictionOptions, in_query: Collection[str]) -> bytes:
    return _written(found, found.network.answer(instances, options, in_query))


def _written(found: Found, said: Answer) -> bytes:
    answer = Predictions(model_id=found.id, predictions=said.predictions, warnings=said.warnings)
    return answer.__pydantic_serializer__.to_json(answer, exclude_none=True)
