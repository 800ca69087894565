"""`/v1/models/{ref}/predictions`: a whole stored data set predicted by a job."""

from __future__ import annotations

from fastapi import APIRouter, Response

from common.dataset_inputs import faults_of_inputs
from common.errors import Invalid
from common.identifiers import new_id
from common.schemas.batch_predictions import BatchPrediction, BatchPredictionRequest
from common.schemas.jobs import Job, PredictionJob
from common.store.datasets import Created
from service.routes import models
from service.routes.job_creation import RequestKey, answer, replayed
from service.routes.shared import Behind, IdempotencyKey, JsonRoute, Services, errors

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=JsonRoute)


@router.post(
    "/{ref}/predictions",
    status_code=201,
    response_model=PredictionJob,
    responses=errors(400, 404, 409, 413, 415, 422, 507),
)
def predict_dataset(
    ref: str, body: BatchPrediction, response: Response, behind: Behind, idempotency_key: IdempotencyKey
) -> Job:
    """Submits a job that predicts every row of a stored data set. It is on disk before this answers.

    The data set needs the model's inputs, under their names. The job is watched and cancelled as one that trains. Its
    `result_dataset_id` is a new data set of the predictions, row for row: `label` and `probability_<class>`, or `value`
    and `quantile_<q>`. A job's id in place of a model's stands for the model that it has learned.
    """
    key = RequestKey.of(idempotency_key, body.model_dump(mode="json"), scope=f"predict {ref} ")
    return answer(replayed(key, behind) or _create(ref, body, key, behind), behind, response)


def _create(ref: str, body: BatchPrediction, key: RequestKey, behind: Services) -> Created:
    """Submits a request in which no fault is found."""
    model = models.show_model(ref, behind)
    dataset = behind.stores.datasets.get(body.dataset_id)
    faults = [*faults_of_inputs(behind.predictor.network(model.id).encoder, dataset)]
    if faults:
        raise Invalid("The data set does not fit the model.", faults)
    return behind.stores.jobs.submit(
        new_id("job"),
        BatchPredictionRequest(model_id=model.id, **dict(body)),
        model.task,
        max_queued=behind.settings.max_queued_jobs,
        idempotency_key=key.value,
        digest=key.digest,
    )
