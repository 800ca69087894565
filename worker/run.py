"""What the runs of all jobs have in common: what they are asked for on the way, and how they end."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable

from common.errors import (
    FenceLost,
    OutOfMemory,
    StorageFull,
    StoreUnavailable,
    TrainingFailure,
    lacks_memory,
)
from common.schemas.jobs import Job, JobError
from common.store.jobs import Claim
from common.store.stores import Stores
from worker.actors import ProcessLost

log = logging.getLogger("chainrule.run")

LOOK_SECONDS = 0.2
"""Between looks at what is asked for, while something else is waited for."""

_HINTS = {
    "diverged": "Use a smaller learning rate, or look for extreme values in the data.",
    "out_of_memory": "Use a smaller network or batch, fewer workers, or a machine with more memory.",
}


class Run(ABC):
    """Carries out a claimed job.

    Args:
        stores: records and data.
        claim: the job and the fence it is held with.
        abandon: ends this process; called from another thread when the job was taken from it while it was busy.

    """

    def __init__(self, stores: Stores, claim: Claim, abandon: Callable[[], object]) -> None:
        self._stores = stores
        self._claim = claim
        self._abandon = abandon

    def run(self) -> None:
        """Works until a reason to stop, and ends the job: succeeded, cancelled or failed; or pauses it.

        Raises:
            FenceLost: the job has passed to another holder; nothing more was written.
            ProcessLost: a process died; the job is as it was.
            StoreUnavailable, StorageFull: Redis was away, or full, for too long.

        """
        jobs = self._stores.jobs
        try:
            job = jobs.get(self._claim.job_id)
            if not self._is_wanted_elsewhere():
                self._carry_out(job)
        except TrainingFailure as error:
            self._fail(error)
        except (FenceLost, ProcessLost, StoreUnavailable, StorageFull):
            raise
        except Exception as error:
            log.exception("%s failed", self._claim.job_id)
            self._fail(_failure(error))

    @abstractmethod
    def _carry_out(self, job: Job) -> None:
        """Does what the job is there for."""

    def _is_wanted_elsewhere(self) -> bool:
        """Ends or lets go of a job that has not begun to run, where that is asked for; whether it was."""
        wish = self._stores.jobs.asked(self._claim)
        if wish is None:
            return False
        return self._stores.jobs.requeue(self._claim, "It was asked for.", lost=False)

    def _look(self) -> None:
        """Ends the process once the job is not its own any more: where it is busy for long, and cannot look itself."""
        try:
            is_gone = self._is_wanted_elsewhere()
        except StoreUnavailable:
            return
        except FenceLost:
            is_gone = True
        if is_gone:
            self._abandon()

    def _fail(self, error: TrainingFailure) -> None:
        failure = JobError.model_validate(
            {
                "code": error.stable_code,
                "message": error.message,
                "hint": error.hint or _HINTS.get(error.stable_code),
            }
        )
        self._stores.jobs.fail(self._claim, failure)


def _failure(error: Exception) -> TrainingFailure:
    if lacks_memory(error):
        return OutOfMemory("The run could not get the memory it needed.")
    hint = "The operator's log has the details."
    return TrainingFailure("Something went wrong inside the run.", code="internal", hint=hint)
