"""What has to be tidied up now and then, by whichever supervisor comes first."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

from common.errors import Conflict, CorruptRecord, NotFound
from common.settings import Settings
from common.store.stores import Stores

log = logging.getLogger("chainrule.supervisor")

_MOST_AT_ONCE = 50
"""Jobs in one go, so that leases are renewed in time."""


class Housekeeping:
    """Compresses the history of ended jobs, deletes those that are too old or too many, and checkpoints of none.

    Args:
        settings: how many ended jobs are kept, and for how long.
        stores: records and checkpoints.
        now: the time of day: for how long something is kept is the one thing that rests on it.

    """

    def __init__(self, settings: Settings, stores: Stores, now: Callable[[], datetime]) -> None:
        self._settings = settings
        self._stores = stores
        self._now = now

    def tidy(self) -> None:
        """Does some of what is to be done."""
        jobs = self._stores.jobs
        for job_id in self._stores.history.to_archive(_MOST_AT_ONCE):
            self._stores.history.archive(job_id)
        days = self._settings.keep_jobs_days
        before = None if days is None else self._now() - timedelta(days=days)
        for job_id in jobs.surplus(self._settings.keep_jobs, before)[:_MOST_AT_ONCE]:
            with suppress(NotFound, Conflict, CorruptRecord):
                jobs.delete(job_id)
        for job_id in self._stores.files.jobs_with_checkpoints():
            if self._needs_none(job_id):
                log.info("the checkpoints of %s are removed", job_id)
                self._stores.checkpoints.discard(job_id)

    def _needs_none(self, job_id: str) -> bool:
        """Whether a job is gone, or has ended with all that it has learned in a model."""
        try:
            return self._stores.jobs.get(job_id).state in ("succeeded", "cancelled")
        except NotFound:
            return True
        except CorruptRecord:  # somebody may mend it
            return False
