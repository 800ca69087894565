"""Health and sight: is it alive, can it work, what stands behind it."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from common.errors import StoreUnavailable
from common.schemas.cluster import ClusterView, Node
from service.routes.shared import Behind, check_key, errors

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


@router.get("/readyz", responses=errors())
def readyz(behind: Behind) -> Ready:
    """Whether Redis answers, and how many supervisors live."""
    if not behind.stores.client.ping():
        raise StoreUnavailable("The store is out of reach.")
    return Ready(supervisors=len(behind.stores.supervisors.fresh()))


@router.get("/v1/cluster", responses=errors(), dependencies=[Depends(check_key)])
def cluster(behind: Behind) -> ClusterView:
    """The machines that train, and what they do."""
    reports = behind.stores.supervisors.fresh()
    nodes: dict[str, Node] = {node.id: node for report in reports for node in report.nodes}
    counts = behind.stores.jobs.counts()
    return ClusterView(
        nodes=tuple(nodes.values()),
        cpus=sum(node.cpus for node in nodes.values()),
        running_jobs=counts["starting"] + counts["running"],
        queued_jobs=counts["queued"],
        supervisors=tuple(reports),
    )
