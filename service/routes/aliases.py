"""`/v1/models/{name}/aliases`: names for a version that move to another one in a single step."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict

from common.schemas.aliases import Alias, AliasName
from common.schemas.record import Record
from common.schemas.training import MODEL_NAME
from service.routes.shared import Behind, JsonRoute, errors

router = APIRouter(prefix="/v1/models/{name}/aliases", tags=["models"], route_class=JsonRoute)

OfName = Annotated[str, Path(pattern=MODEL_NAME, description="The name of the models.")]
Called = Annotated[AliasName, Path(description="A slug that is no whole number.")]


_EXAMPLE = {
    "name": "iris",
    "alias": "live",
    "model_id": "mdl_4jv2k0m8x7w3q9h5r1t6n0c8y",
    "version": 3,
    "changed_at": "2026-01-27T10:15:00.000Z",
    "history": [
        {"model_id": "mdl_4jv2k0m8x7w3q9h5r1t6n0c8y", "version": 3, "changed_at": "2026-01-27T10:15:00.000Z"},
        {"model_id": "mdl_9x0d3t5c1v7b2n4m6k8j0h1g3", "version": 2, "changed_at": "2026-01-20T08:00:00.000Z"},
    ],
}


def _answers(example: object, *statuses: int) -> dict[int | str, dict[str, Any]]:
    return {**errors(*statuses), 200: {"content": {"application/json": {"example": example}}}}


class Aliases(BaseModel):
    """All aliases of a name, by the alphabet."""

    data: list[Alias]


class Pointed(Record):
    """What an alias is to point to."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model_id": "mdl_4jv2k0m8x7w3q9h5r1t6n0c8y"}]})

    model_id: str
    """The id of a model of that name."""


@router.get("", responses=_answers({"data": [_EXAMPLE]}, 404, 422))
def list_aliases(name: OfName, behind: Behind) -> Aliases:
    """The aliases of a name, what each points to, and what it pointed to before: to go back is to move it back.

    An alias that was removed is told of, without a model, as long as its history is kept.
    """
    return Aliases(data=behind.stores.aliases.of_name(name))


@router.put("/{alias}", responses=_answers(_EXAMPLE, 400, 409, 413, 415, 422, 507))
def move(name: OfName, alias: Called, body: Pointed, behind: Behind) -> Alias:
    """Lets `name@alias` stand for a model of that name, in a single step: from the next request on, for everybody."""
    return behind.stores.aliases.move(name, alias, body.model_id)


@router.delete("/{alias}", status_code=204, responses=errors(404, 422))
def remove(name: OfName, alias: Called, behind: Behind) -> None:
    """Removes an alias; its history stays while there is room for it."""
    behind.stores.aliases.remove(name, alias)
