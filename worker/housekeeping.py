"""What has to be tidied up now and then, by whichever supervisor comes first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import partial

from common.errors import Conflict, CorruptRecord, NotFound, StoreUnavailable
from common.settings import Settings
from common.store.stores import Stores

log = logging.getLogger("chainrule.supervisor")

_MOST_AT_ONCE = 50
"""Jobs, or models, in one go, so that leases are renewed in time."""


class Housekeeping:
    """Keeps a store tidy.

    Compresses the history of ended jobs; deletes those that are too old or too many, checkpoints that no job needs,
    old versions of models, and data sets that no job has finished.

    Args:
        settings: how many ended jobs are kept, and for how long, and how many versions of a model.
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
        days = self._settings.keep_jobs_days
        before = None if days is None else self._now() - timedelta(days=days)
        _each(self._stores.history.to_archive(_MOST_AT_ONCE), self._stores.history.archive)
        _each(jobs.surplus(self._settings.keep_jobs, before)[:_MOST_AT_ONCE], jobs.delete)
        _each(self._stores.files.jobs_with_checkpoints(), self._discard_unneeded)
        if keep := self._settings.keep_model_versions:
            models = self._stores.models
            _each(models.surplus(keep, _MOST_AT_ONCE), partial(models.delete, spare_aliased=True))
        _each(self._stores.datasets.abandoned_drafts(), self._discard_abandoned)
        _each(self._stores.files.drafts(), self._discard_unknown)

    def _discard_abandoned(self, dataset_id: str) -> None:
        """Removes what a run has written and never published."""
        if not self._stores.datasets.exists(dataset_id):
            log.info("the draft %s is removed", dataset_id)
            self._stores.files.discard_draft(dataset_id)
            self._stores.files.discard_dataset(dataset_id)
        self._stores.datasets.forget_draft(dataset_id)

    def _discard_unknown(self, dataset_id: str) -> None:
        """Removes what is left on this machine of a draft that another has forgotten."""
        if not self._stores.datasets.is_draft(dataset_id):
            self._stores.files.discard_draft(dataset_id)

    def _discard_unneeded(self, job_id: str) -> None:
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


def _each(ids: Iterable[str], tidy: Callable[[str], None]) -> None:
    """Does something for each: one that is damaged keeps none of the others from it."""
    for one in ids:
        try:
            tidy(one)
        except StoreUnavailable:
            raise
        except (NotFound, Conflict):
            log.debug("%s has changed in between", one)
        except Exception:
            log.exception("%s cannot be tidied up", one)
