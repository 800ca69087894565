"""What all routes that create a job share: the Idempotency-Key, and the answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import Response

from common.schemas.jobs import Job
from common.store.datasets import Created
from service.routes.shared import Services


@dataclass(frozen=True, slots=True)
class RequestKey:
    """An Idempotency-Key with what was asked for under it."""

    value: str | None
    digest: str

    @classmethod
    def of(cls, value: str | None, body: Mapping[str, object], scope: str = "") -> RequestKey:
        """The body is taken as it came; `scope` tells uses of one key apart."""
        return cls(value, hashlib.sha256((scope + json.dumps(body, sort_keys=True)).encode()).hexdigest())


def replayed(key: RequestKey, behind: Services) -> Created | None:
    """What the same request created before: looked for first, for what it was judged by may have changed since."""
    return behind.stores.jobs.submitted(key.value, key.digest) if key.value else None


def answer(created: Created, behind: Services, response: Response) -> Job:
    """The job, with the headers that say where it is and whether it was there before."""
    if created.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    response.headers["Location"] = f"/v1/jobs/{created.id}"
    return behind.stores.jobs.get(created.id)
