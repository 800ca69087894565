"""All stores over one client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from common.store.access import AccessStore
from common.store.aliases import AliasStore
from common.store.checkpoints import CheckpointStore
from common.store.client import Client
from common.store.datasets import DatasetStore
from common.store.files import DataFolder
from common.store.history import HistoryStore
from common.store.jobs import JobStore
from common.store.models import ModelStore
from common.store.supervisors import SupervisorStore


def utc_now() -> datetime:
    """The time written into records."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Stores:
    """What a process keeps and reads."""

    client: Client
    datasets: DatasetStore
    jobs: JobStore
    history: HistoryStore
    checkpoints: CheckpointStore
    models: ModelStore
    aliases: AliasStore
    access: AccessStore
    supervisors: SupervisorStore
    files: DataFolder


def open_stores(client: Client, files: DataFolder, now: Callable[[], datetime] = utc_now) -> Stores:
    """The stores of one process."""
    aliases = AliasStore(client, now)
    return Stores(
        client=client,
        datasets=DatasetStore(client),
        jobs=JobStore(client, now),
        history=HistoryStore(client),
        checkpoints=CheckpointStore(client, files, now),
        models=ModelStore(client, aliases),
        aliases=aliases,
        access=AccessStore(client),
        supervisors=SupervisorStore(client),
        files=files,
    )
