"""What OpenAPI tells of predictions: the forms of bodies and answers, with an example of each."""

from __future__ import annotations

from typing import Any, Final

from common.schemas.predictions import PredictionRequest
from service.bulk.forms import MEDIA_TYPES
from service.ingest import DELIMITER
from service.openapi import reference_to

_ROWS: Final = "age,city,member\n41,Oslo,true\n,Rome,false\n"
_ANSWER: Final = "label,probability_no,probability_yes\nyes,0.25,0.75\nno,0.875,0.125\n"
_TEXT: Final = {"type": "string"}
_BINARY: Final = {"type": "string", "format": "binary"}


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


REQUEST: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            MEDIA_TYPES["json"]: {"schema": reference_to(PredictionRequest)},
            MEDIA_TYPES["csv"]: {"schema": _TEXT, "example": _ROWS},
            MEDIA_TYPES["tsv"]: {"schema": _TEXT, "example": _ROWS.replace(",", "\t")},
            MEDIA_TYPES["ndjson"]: {
                "schema": _TEXT,
                "example": '{"age": 41, "city": "Oslo", "member": true}\n[null, "Rome", false]\n',
            },
            MEDIA_TYPES["parquet"]: {"schema": _BINARY},
        },
    },
    "parameters": [
        {
            "name": "Accept",
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": "The form of the answer; else it is that of the body.",
            "example": "application/x-ndjson",
        },
        _query(
            "header", {"type": "boolean", "default": True}, "CSV: false if the columns are the inputs, in their order."
        ),
        _query("delimiter", {"type": "string", "pattern": DELIMITER}, "CSV: what separates cells."),
        _query("decimal", {"enum": [".", ","], "default": "."}, "CSV: the decimal mark."),
        _query(
            "null", {"type": "array", "items": _TEXT}, "CSV: what stands for a missing value; replaces the default."
        ),
    ],
}
"""For `openapi_extra`."""

ANSWER: Final[dict[str, Any]] = {
    "headers": {"X-Model-Id": {"description": "With an answer to a file: the model's id.", "schema": _TEXT}},
    "content": {
        MEDIA_TYPES["csv"]: {"schema": _TEXT, "example": _ANSWER},
        MEDIA_TYPES["tsv"]: {"schema": _TEXT, "example": _ANSWER.replace(",", "\t")},
        MEDIA_TYPES["ndjson"]: {
            "schema": _TEXT,
            "example": '{"label": "yes", "probabilities": {"no": 0.25, "yes": 0.75}}\n'
            '{"label": "no", "probabilities": {"no": 0.875, "yes": 0.125}}\n',
        },
        MEDIA_TYPES["parquet"]: {"schema": _BINARY},
    },
}
"""Beside JSON, for the response 200."""
