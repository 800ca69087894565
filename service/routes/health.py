"""Health: is it alive, can it work."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from common.errors import StoreUnavailable
from service.routes.shared import Behind, open_errors

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """What the service can use."""

    redis: Literal[True] = True
    supervisors: int
    """Supervisors that have reported within the last ten seconds; without one, jobs wait."""


@router.get("/healthz")
async def healthz() -> Alive:
    """Whether this process is alive."""
    return Alive()


@router.get("/readyz", responses=open_errors())
def readyz(behind: Behind) -> Ready:
    """Whether Redis answers, and how many supervisors live."""
    if not behind.stores.client.ping():
        raise StoreUnavailable("The store is out of reach.")
    return Ready(supervisors=len(behind.stores.supervisors.fresh()))
