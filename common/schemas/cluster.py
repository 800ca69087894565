"""The machines and supervisors behind the service."""

from __future__ import annotations

from common.schemas.record import Listed, Record


class Node(Record):
    """A machine of the Ray cluster."""

    id: str
    address: str
    cpus: float
    memory_bytes: int
    alive: bool


class SupervisorReport(Record):
    """What a supervisor last said of itself."""

    id: str
    host: str
    pid: int
    ready: bool
    """Whether a job would start at once."""
    running: Listed[str] = ()
    """Ids of the jobs it holds."""
    nodes: Listed[Node] = ()


class ClusterView(Record):
    """Everything that trains."""

    nodes: Listed[Node]
    cpus: float
    running_jobs: int
    queued_jobs: int
    supervisors: Listed[SupervisorReport]
