"""`/v1/models`: learned networks and their predictions.

`{ref}` is an id, a name (its newest version) or `name@3`. A job's id stands for what it has learned.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from common.errors import Conflict, Fault, Invalid, TooLarge
from common.identifiers import is_id
from common.schemas.models import Model
from common.schemas.predictions import Prediction, PredictionRequest
from service.routes.shared import Behind, Cursor, JsonRoute, Limit, Listing, errors

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=JsonRoute)


class Predictions(BaseModel):
    """One prediction per instance, and the model that made them."""

    model_id: str
    """The job's id while it has no model yet."""
    predictions: list[Prediction]


@router.get("", responses=errors(422))
def list_models(
    behind: Behind,
    limit: Limit = 50,
    cursor: Cursor = None,
    name: Annotated[str | None, Query(max_length=63, description="Only versions of this name.")] = None,
) -> Listing[Model]:
    """Models, newest first."""
    return Listing.of(behind.stores.models.page(limit, cursor, name=name))


@router.get("/{ref}", responses=errors(404, 409))
def show(ref: str, behind: Behind) -> Model:
    """A model: its inputs, its output, how good it is and where it came from."""
    if is_id(ref, "job"):
        model_id = behind.stores.jobs.get(ref).model_id
        if model_id is None:
            raise Conflict(
                "The job has no model of its own, or not yet.",
                code="model_not_ready",
                hint="While it runs its id can be predicted with.",
            )
        return behind.stores.models.get(model_id)
    return behind.stores.models.get(behind.stores.models.resolve(ref))


@router.delete("/{ref}", status_code=204, responses=errors(404, 422))
def delete(ref: str, behind: Behind) -> None:
    """Deletes a model, named by its id or `name@3`: a bare name, which means another one afterwards, is refused."""
    model_id = behind.stores.models.resolve(ref)
    if not is_id(ref, "mdl") and "@" not in ref:
        fault = Fault("ref", "ambiguous_reference", "must be an id, or a name with its version such as name@3")
        raise Invalid("The request has a fault.", [fault])
    behind.stores.models.delete(model_id)
    behind.predictor.forget(model_id)


@router.post("/{ref}/predict", response_model_exclude_none=True, responses=errors(400, 404, 409, 413, 415, 422))
def predict(ref: str, body: PredictionRequest, behind: Behind) -> Predictions:
    """Predicts. An instance is an object by column name, or an array in the order of the model's `inputs`.

    A running job's id in place of a model's predicts with its best weights so far, as of its newest checkpoint.
    """
    if len(body.instances) > behind.settings.max_predict_rows:
        raise TooLarge(f"At most {behind.settings.max_predict_rows} instances are predicted at once.")
    if is_id(ref, "job"):
        job = behind.stores.jobs.get(ref)
        learned = job.model_id
        if job.state == "cancelled" and learned is None:
            raise Conflict("The job was cancelled before it had learned anything.", code="model_not_ready")
        if learned is None:
            return Predictions(model_id=ref, predictions=behind.predictor.predict_running(ref, body.instances))
        ref = learned
    model_id = behind.stores.models.resolve(ref)
    return Predictions(model_id=model_id, predictions=behind.predictor.predict(model_id, body.instances))
