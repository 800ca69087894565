"""What FastAPI does not see of itself and the OpenAPI document refers to."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

_PLACE = "#/components/schemas/"


def reference_to(model: type[BaseModel]) -> dict[str, str]:
    """The schema of a model, by its name."""
    return {"$ref": _PLACE + model.__name__}


def describe_too(app: FastAPI, *models: type[BaseModel]) -> None:
    """Has the document describe models that no route declares."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        for model in models:
            form = model.model_json_schema(ref_template=_PLACE + "{model}")
            document["components"]["schemas"] |= {**form.pop("$defs", {}), model.__name__: form}
        return document

    app.openapi = openapi  # type: ignore[method-assign]
