"""The composition root of the API."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version

from fastapi import Depends, Security
from fastapi.responses import RedirectResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline

from common.schemas.predictions import PredictionRequest
from common.settings import Settings
from common.store.stores import Stores
from service import problems
from service.body_limits import most_bytes
from service.middleware import HostCheck, RequestId, SizeLimit
from service.openapi import describe_too
from service.problems import Problem
from service.quick_lane import QuickLane
from service.routes import (
    aliases,
    batch_predictions,
    cluster,
    dataset_content,
    datasets,
    exports,
    file_predictions,
    health,
    inference_protocol,
    invocations,
    jobs,
    models,
    predictions,
)
from service.routes.shared import Services, check_key, check_query

_DESCRIPTION = """Upload labelled rows, describe a network, watch Ray workers and a parameter server train it, predict.

Errors are `application/problem+json` with a stable `code`. Lists take `limit` and `cursor`. A `POST` that creates
takes an `Idempotency-Key`. When the operator has made API keys, every call needs `Authorization: Bearer <key>`."""


_KEY = HTTPBearer(auto_error=False, description="An API key; needed when the operator has made some.")
"""For the description: `check_key` does the work."""


def create_app(settings: Settings, stores: Stores) -> QuickLane:
    """The API over these stores; `app.state.services.changes` is to be started and stopped with the server."""
    app = FastAPIOffline(
        title="Chainrule",
        version=version("chainrule"),
        description=_DESCRIPTION,
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    app.state.services = Services.over(settings, stores)
    problems.install(app)
    describe_too(app, Problem, PredictionRequest)
    for router in (
        file_predictions.router,
        predictions.router,
        datasets.router,
        dataset_content.router,
        jobs.router,
        models.router,
        aliases.router,
        batch_predictions.router,
        exports.router,
        inference_protocol.router,
        invocations.router,
        cluster.router,
    ):
        app.include_router(router, dependencies=[Depends(check_key), Depends(check_query), Security(_KEY)])
    for router in (health.router, inference_protocol.health, invocations.health):
        app.include_router(router)

    @app.get("/", include_in_schema=False)
    async def start() -> RedirectResponse:
        return RedirectResponse("/docs")

    app.add_middleware(HostCheck, loopback=settings.is_loopback)
    app.add_middleware(SizeLimit, limit=partial(most_bytes, settings))
    app.add_middleware(RequestId)
    return QuickLane(app)
