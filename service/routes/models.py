"""`/v1/models`: learned networks, and how good they are.

`{ref}` is an id, a name (its newest version), `name@3` or `name@alias`. A job's id stands for what it has learned.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool

from common.errors import Conflict, Fault, Invalid
from common.identifiers import is_id
from common.schemas.evaluation import DatasetEvaluation, EvaluationRequest
from common.schemas.models import Model
from service.comparison import Comparison
from service.model_differences import ModelComparison, compare_models
from service.routes.shared import Behind, Cursor, JsonRoute, Limit, Listing, Services, errors

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=JsonRoute)


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
def show_model(ref: str, behind: Behind) -> Model:
    """A model: its inputs, its output, how good it is and where it came from."""
    return record_of(ref, behind)


def record_of(ref: str, behind: Services) -> Model:
    """The record that a reference to a model, or the id of a job, stands for.

    Raises:
        NotFound: there is no such model or job.
        Conflict: the job has no model (`model_not_ready`).

    """
    if not is_id(ref, "job"):
        return behind.stores.models.get(behind.stores.models.resolve(ref))
    model_id = behind.stores.jobs.get(ref).model_id
    if model_id is None:
        raise Conflict(
            "The job has no model of its own, or not yet.",
            code="model_not_ready",
            hint="While it runs its id can be predicted with.",
        )
    return behind.stores.models.get(model_id)


@router.get("/{ref}/compare", responses=errors(404, 409, 422))
def compare(
    ref: str,
    behind: Behind,
    other: Annotated[str, Query(alias="with", max_length=200, description="The second model, named as the first.")],
) -> ModelComparison:
    """What sets a second model apart from this one: metrics, training request, data, inputs, output."""
    return compare_models(record_of(ref, behind), record_of(other, behind))


@router.delete("/{ref}", status_code=204, responses=errors(404, 409, 422))
def delete_model(ref: str, behind: Behind) -> None:
    """Deletes a model with all its traces, named by its id or `name@3`; its aliases point to nothing then.

    A bare name or an alias, which may mean another one by now, is refused.
    """
    model_id = behind.stores.models.resolve(ref)
    if not is_id(ref, "mdl") and not ref.partition("@")[2].isdigit():
        fault = Fault("ref", "ambiguous_reference", "must be an id, or a name with its version such as name@3")
        raise Invalid("The request has a fault.", [fault])
    behind.stores.models.delete(model_id)
    behind.predictor.forget(model_id)


@router.post("/{ref}/evaluate", responses=errors(400, 404, 409, 413, 415, 422))
async def evaluate(ref: str, body: EvaluationRequest, behind: Behind) -> DatasetEvaluation:
    """Compares what a model predicts with what a stored data set says; docs/evaluation.md has every metric.

    The data set needs the model's inputs and its target, under their names. Rows without a target are left out; a class
    that the model does not know counts as wrong. A running job's id stands for its best weights so far.
    """
    async with behind.evaluations:
        return await run_in_threadpool(_evaluate, ref, body.dataset_id, behind)


def _evaluate(ref: str, dataset_id: str, behind: Services) -> DatasetEvaluation:
    found = behind.predictor.find(ref)
    if found.job is None:
        model = behind.stores.models.get(found.id)
        target, weights = model.output.name, model.lineage.request.get("weight_column")
    else:
        target, weights = found.job.request.target, found.job.request.weight_column
    dataset = behind.stores.datasets.get(dataset_id)
    comparison = Comparison(found.network, target, weights if isinstance(weights, str) else None, dataset)
    with behind.stores.files.rows(dataset_id) as path:
        metrics, evaluation = comparison.run(path)
    return DatasetEvaluation(
        model_id=found.id,
        dataset_id=dataset_id,
        left_out=dataset.rows - evaluation.rows,
        metrics=metrics,
        **dict(evaluation),
    )
