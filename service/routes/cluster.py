"""Sight of the cluster: what stands behind the API."""

from __future__ import annotations

from fastapi import APIRouter

from common.schemas.cluster import ClusterView, Node
from service.routes.shared import Behind, errors

router = APIRouter(tags=["health"])


@router.get("/v1/cluster", responses=errors())
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
