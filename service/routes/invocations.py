"""`/invocations` and `/ping`, as clients of SageMaker and of MLflow's scoring server know them."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from common.errors import Fault, Invalid, UnsupportedMedia
from service import strict_json
from service.batches import predict
from service.inference_protocol.outputs import outputs_of
from service.invocations.documents import read_document, without_nan
from service.invocations.tables import read_csv, write_csv
from service.routes.health import Alive
from service.routes.shared import Behind, Services, check_encoding, errors, open_errors

router = APIRouter(tags=["invocations"])
health = APIRouter(tags=["invocations"])

_JSON = "application/json"
_CSV = "text/csv"

ModelReference = Annotated[
    str | None,
    Query(max_length=200, description="An id, a name or `name@3`; else the operator's CHAINRULE_DEFAULT_MODEL."),
]

_ROWS: list[dict[str, Any]] = [
    {"age": 41, "city": "Oslo", "member": True},
    {"age": 29, "city": "Rome", "member": False},
]
_NAMES = list(_ROWS[0])
_EXAMPLES: dict[str, object] = {
    "dataframe_split": {"columns": _NAMES, "data": [list(row.values()) for row in _ROWS]},
    "dataframe_records": _ROWS,
    "instances": _ROWS,
    "inputs": {name: [row[name] for row in _ROWS] for name in _NAMES},
}
_ARRAY: dict[str, Any] = {"type": "array", "items": {}}
_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            _JSON: {
                "schema": {
                    "type": "object",
                    "description": "Exactly one of these.",
                    "properties": {
                        "dataframe_split": {
                            "type": "object",
                            "required": ["columns", "data"],
                            "properties": {"columns": _ARRAY, "data": _ARRAY, "index": _ARRAY},
                        },
                        "dataframe_records": {"type": "array", "items": {"type": "object"}},
                        "instances": _ARRAY,
                        "inputs": {"anyOf": [{"type": "object", "additionalProperties": _ARRAY}, _ARRAY]},
                    },
                },
                "examples": {form: {"value": {form: value}} for form, value in _EXAMPLES.items()},
            },
            _CSV: {"schema": {"type": "string"}, "example": "age,city,member\n41,Oslo,true\n29,Rome,false\n"},
        },
    }
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The labels or values, one for each row; as text/csv for who accepts that.",
        "content": {
            _JSON: {
                "schema": {"type": "object", "required": ["predictions"], "properties": {"predictions": _ARRAY}},
                "example": {"predictions": ["stays", "leaves"]},
            },
            _CSV: {"schema": {"type": "string"}, "example": "stays\nleaves\n"},
        },
    },
    **errors(400, 404, 409, 413, 415, 422),
}


@health.get("/ping", responses=open_errors(404, 409))
def ping(behind: Behind) -> Alive:
    """Whether this process is alive, and its default model, if it has one, can be predicted with."""
    if behind.settings.default_model is not None:
        behind.predictor.find(behind.settings.default_model)
    return Alive()


@router.post("/invocations", response_class=Response, responses=_RESPONSES, openapi_extra=_OPENAPI)
async def invoke(
    request: Request,
    behind: Behind,
    model: ModelReference = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> Response:
    """Predicts rows in the forms of MLflow, SageMaker and TensorFlow Serving, or as CSV.

    CSV needs a line of names, unless the cells stand in the order of the model's inputs.
    """
    ref = behind.settings.default_model if model is None else model
    if ref is None:
        message = "is required, as there is no CHAINRULE_DEFAULT_MODEL"
        raise Invalid("The request has a fault.", [Fault("model", "missing", message)])
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (_JSON, _CSV):
        raise UnsupportedMedia(f"The body must be {_JSON} or {_CSV}.")
    check_encoding(request)
    labels = await run_in_threadpool(_labels, behind, ref, await request.body(), kind)
    if _CSV in accept.lower():
        return Response(write_csv(labels), media_type=_CSV)
    return Response(json.dumps({"predictions": labels}), media_type=_JSON)


def _labels(behind: Services, ref: str, body: bytes, kind: str) -> list[Any]:
    network, most = behind.predictor.find(ref).network, behind.settings.max_predict_rows
    columns = network.encoder.columns
    if kind == _CSV:
        records = read_csv(body, columns, most)
    else:
        records = read_document(strict_json.parse(without_nan(body)), [column.name for column in columns])
    label_or_value, *_ = outputs_of(network)
    parts = predict(network, records.read(columns, most))
    return [said for answers in parts for said in label_or_value.to_json(answers)]
