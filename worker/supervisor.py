"""The supervisor: claims queued jobs, holds their leases, starts runs that fit the cluster, and takes over from the dead.

It does not import Ray, so that it outlives a broken cluster.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from common.errors import ChainruleError, CorruptRecord, FenceLost, NotFound
from common.identifiers import new_id
from common.schemas.cluster import Node, SupervisorReport
from common.schemas.jobs import Job, JobError
from common.settings import Settings
from common.store.client import tell_once
from common.store.jobs import Claim, Lease
from common.store.stores import Stores
from worker.admission import cpus_of_worker, too_large_for, too_large_now
from worker.housekeeping import Housekeeping
from worker.ray_node import RayCluster
from worker.run_child import Done, Exited, Lost, Message, Nodes, Ready

log = logging.getLogger("chainrule.supervisor")

_TICK_SECONDS = 0.1
_FAILED_SECONDS = 1.0
"""After a step that nobody foresaw to fail, so that the log does not grow without end."""
_REPORT_SECONDS = 2.0
_TIDY_SECONDS = 30.0
_SILENT_SECONDS = 30.0
"""A child that has a job says something every five seconds; one that is silent for so long is frozen."""
_PAUSES = (1.0, 2.0, 5.0, 10.0)
_MOST_JUDGED = 50
"""Jobs in one step, so that leases are renewed in time however many wait."""


class Child(Protocol):
    """A process that runs jobs, one after the other; see `RunChild`."""

    address: str
    claim: Claim | None
    cpus: float
    is_ready: bool
    heard: float
    """When it last said something, on the supervisor's clock."""

    def give(self, claim: Claim, cpus: float) -> None:
        """Hands it a job."""

    def kill(self) -> None:
        """Ends it at once."""

    def stop(self, seconds: float) -> None:
        """Ends it."""


Hear = Callable[[Child, Message], None]
StartChild = Callable[[str, Mapping[str, str], Hear], Child]
"""From the address of a cluster, an environment, and what to tell messages to."""


@dataclass(slots=True)
class _Sighting:
    """When a contender last saw a lease change, on its own clock."""

    fence: int
    counter: int
    since: float


class LeaseWatch:
    """Finds jobs whose holder has been silent for the lease time; decides by its own monotonic clock only."""

    def __init__(self, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._seen: dict[str, _Sighting] = {}

    def expired(self, leases: list[Lease], now: float) -> list[Lease]:
        """Notes what was seen at `now`, and answers the leases that have not changed for too long."""
        self._seen = {lease.job_id: self._note(lease, now) for lease in leases}
        return [lease for lease in leases if now - self._seen[lease.job_id].since >= self._lease_seconds]

    def _note(self, lease: Lease, now: float) -> _Sighting:
        seen = self._seen.get(lease.job_id)
        if seen and (seen.fence, seen.counter) == (lease.fence, lease.counter):
            return seen
        return _Sighting(lease.fence, lease.counter, now)


class Supervisor:
    """One supervisor. `step` does all that is due; `run` repeats it until `stop`.

    Args:
        settings: limits and the lease time.
        stores: records.
        ray: the cluster that its runs join.
        start_child: starts a process for runs.
        clock: monotonic seconds.
        now: the time of day; for how long records are kept is the one thing that rests on it.
        tell_ready: called once, when a submitted job would start at once.

    """

    def __init__(
        self,
        settings: Settings,
        stores: Stores,
        ray: RayCluster,
        start_child: StartChild,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        tell_ready: Callable[[], None],
    ) -> None:
        self.id = new_id("sup")
        self._settings = settings
        self._stores = stores
        self._ray = ray
        self._start_child = start_child
        self._clock = clock
        self._tell_ready = tell_ready
        self._watch = LeaseWatch(settings.lease_seconds)
        self._messages: queue.SimpleQueue[tuple[Child, Message] | None] = queue.SimpleQueue()
        self._children: list[Child] = []
        self._nodes: tuple[Node, ...] = ()
        self._stopping = False
        self._wake = threading.Event()
        self._was_ready = False
        self._failures = 0
        self._set_aside: dict[str, tuple[float, ...]] = {}
        """Jobs that do not start while the machines are these."""
        self._housekeeping = Housekeeping(settings, stores, now)
        self._start_after = self._renew_after = self._report_after = self._tidy_after = 0.0

    def run(self) -> None:
        """Works until `stop`; what it held then goes back into the queue."""
        try:
            while not self._stopping:
                self._survive(self.step)
                self._survive(lambda: self.listen(_TICK_SECONDS))
        finally:
            self._leave()

    def _survive(self, act: Callable[[], object]) -> None:
        """Does something that may fail: a supervisor that ended would take all jobs with it, not the one that is damaged."""
        try:
            act()
        except ChainruleError as error:  # nothing is decided without Redis
            log.warning("waiting: %s", error.message)
        except Exception:
            log.exception("a step failed")
            self._wake.wait(_FAILED_SECONDS)

    def stop(self) -> None:
        """Ends `run`; may be called from a signal handler."""
        self._stopping = True
        self._wake.set()
        self._messages.put(None)

    def step(self) -> None:
        """Keeps Ray and an idle child alive, renews leases, takes over from the dead, starts a job, reports, tidies up."""
        self._keep_idle_child()
        now = self._clock()
        if now >= self._renew_after:
            self._renew_after = now + self._settings.lease_seconds / 10
            self._renew()
            self._take_over(now)
            self._end_frozen(now)
        self._start_job()
        if now >= self._report_after:
            self._report_after = now + _REPORT_SECONDS
            self._report()
        if now >= self._tidy_after:
            self._tidy_after = now + _TIDY_SECONDS
            self._housekeeping.tidy()

    # Children

    def _keep_idle_child(self) -> None:
        is_up = self._ray.keep()
        for child in self._children:
            if child.address != self._ray.address:  # a driver of a cluster that is gone
                child.kill()
        has_idle = any(child.claim is None for child in self._children)
        is_full = 0 < self._cpus() <= self._running()
        if is_up and not has_idle and not is_full and self._clock() >= self._start_after:
            self._children.append(self._start_child(self._ray.address, self._ray.environment, self._hear))

    def _hear(self, child: Child, message: Message) -> None:
        self._messages.put((child, message))

    def listen(self, seconds: float) -> None:
        """Waits for what children say for at most so long, and acts on all of it."""
        with suppress(queue.Empty):
            said = self._messages.get(timeout=seconds)
            while True:
                if said is not None:
                    self._act(*said)
                said = self._messages.get_nowait()

    def _end_frozen(self, now: float) -> None:
        for child in self._children:
            if child.claim is not None and now - child.heard >= _SILENT_SECONDS:
                log.warning("the run of %s is silent, and is ended", child.claim.job_id)
                child.heard = now
                child.kill()

    def _act(self, child: Child, message: Message) -> None:
        child.heard = self._clock()
        match message:
            case Nodes(nodes):
                self._nodes = nodes
            case Ready():
                self._report_after = 0.0
                child.is_ready, self._failures = True, 0
            case Done():
                child.claim = None
            case Lost(reason):
                self._give_back(child, reason)
            case Exited(status):
                self._children.remove(child)
                if child.claim is None and status != 0:
                    self._start_after = self._clock() + _PAUSES[min(self._failures, len(_PAUSES) - 1)]
                    self._failures += 1
                    log.error("a run's process ended with status %s before it had a job; see runs.log", status)
                self._give_back(child, f"The run's process ended with status {status}.")

    def _give_back(self, child: Child, reason: str) -> None:
        claim, child.claim = child.claim, None
        if claim is None:
            return
        log.warning("%s is lost: %s", claim.job_id, reason)
        try:
            self._retry_or_fail(claim, reason)
        except ChainruleError as error:  # its lease runs out, and whoever sees that decides
            log.warning("%s: %s", claim.job_id, error.message)

    def _retry_or_fail(self, claim: Claim, reason: str) -> None:
        losses = 1 + self._stores.jobs.losses(claim)
        if losses < self._settings.max_attempts:
            self._stores.jobs.requeue(claim, reason)
            return
        error = JobError(
            code="worker_lost",
            message=f"The run was lost {losses} times without a checkpoint in between. {reason}",
            hint="The operator's log says more; memory running out is the usual cause.",
        )
        try:
            self._stores.jobs.fail(claim, error)
        except FenceLost:
            log.info("%s has passed to another holder", claim.job_id)

    # The queue

    def _start_job(self) -> None:
        child = next((child for child in self._children if child.is_ready and child.claim is None), None)
        if child is None:
            return
        found = self._next_job()
        if found is None:
            return
        job, cpus = found
        if self._running() + cpus > self._cpus() * (1 + 1e-9):
            if self._running() < self._cpus():  # some are free, and who waits should know why
                self._explain(job, cpus)
            return
        try:
            claim = self._stores.jobs.claim(job.id)
        except CorruptRecord as error:  # the record was read: damage lies beside it, and the job may start another time
            log.warning("%s cannot start: %s", job.id, error.message)
            self._set_aside[job.id] = self._machines()
            return
        if claim is not None:
            log.info("%s starts", job.id)
            child.heard = self._clock()
            child.give(claim, cpus)

    def _explain(self, job: Job, cpus: float) -> None:
        reason = too_large_now(job.workers, cpus, self._cpus())
        if job.waiting_for != reason:
            with suppress(CorruptRecord, NotFound):
                self._stores.jobs.explain_wait(job.id, reason)

    def _next_job(self) -> tuple[Job, float] | None:
        """The first job in the queue that the cluster is large enough for, and the processors it is to have."""
        machines = self._machines()
        queue = self._stores.jobs.queue()
        if len(self._set_aside) > 2 * len(queue):
            self._set_aside = {job_id: self._set_aside[job_id] for job_id in queue if job_id in self._set_aside}
        new = [job_id for job_id in queue if self._set_aside.get(job_id) != machines]
        for job_id in new[:_MOST_JUDGED]:
            try:
                job = self._stores.jobs.get(job_id)
                workers = job.workers
                share = cpus_of_worker(workers, machines)
                if share is not None:
                    return job, share * workers
                self._set_aside[job_id] = machines
                self._stores.jobs.explain_wait(job_id, too_large_for(workers, machines))
            except NotFound:  # cancelled and deleted in between, or removed by hand
                self._stores.jobs.unqueue(job_id)
            except CorruptRecord as error:
                self._bury(job_id, error)
        return None

    def _bury(self, job_id: str, error: CorruptRecord) -> None:
        """Ends a job that cannot be read, so that it does not stand before the others for ever."""
        log.error("%s: %s", job_id, error.message)
        try:
            claim = self._stores.jobs.claim(job_id)
            if claim is not None:
                self._stores.jobs.fail(claim, JobError(code="state_lost", message="The record of the job is damaged."))
                return
        except (CorruptRecord, FenceLost) as failure:
            log.warning("%s cannot be ended, and stands in the queue no more: %s", job_id, failure.message)
        self._stores.jobs.unqueue(job_id)

    def _machines(self) -> tuple[float, ...]:
        """Processors of each machine of the cluster."""
        return tuple(node.cpus for node in self._nodes)

    def _running(self) -> float:
        """Processors that its jobs have."""
        return sum(child.cpus for child in self._children if child.claim)

    def _cpus(self) -> float:
        """Processors of the cluster."""
        return sum(node.cpus for node in self._nodes)

    # Leases

    def _renew(self) -> None:
        for child in self._children:
            if child.claim is not None and not self._still_holds(child.claim):
                log.warning("%s has passed to another holder, or is damaged", child.claim.job_id)
                child.claim = None
                child.kill()

    def _still_holds(self, claim: Claim) -> bool:
        try:
            return self._stores.jobs.renew(claim)
        except CorruptRecord:  # there is nothing left to hold
            return False

    def _take_over(self, now: float) -> None:
        mine = {child.claim.job_id for child in self._children if child.claim}
        leases = [lease for lease in self._stores.jobs.leases() if lease.job_id not in mine]
        for lease in self._watch.expired(leases, now):
            reason = "Its supervisor fell silent."
            try:
                self._retry_or_fail(Claim(lease.job_id, lease.fence), reason)
                log.warning("%s is taken over: %s", lease.job_id, reason)
            except ChainruleError as error:  # it holds up no other, and is tried again: somebody may mend it
                tell_once(f"{lease.job_id} cannot be taken over: {error.message}")

    # Reports

    def _report(self) -> None:
        is_ready = any(child.is_ready or child.claim for child in self._children)
        self._stores.supervisors.report(
            SupervisorReport(
                id=self.id,
                host=socket.gethostname(),
                pid=os.getpid(),
                ready=is_ready,
                running=tuple(child.claim.job_id for child in self._children if child.claim),
                nodes=self._nodes,
            )
        )
        if is_ready and not self._was_ready:
            self._was_ready = True
            self._tell_ready()

    def _let_go(self, claim: Claim) -> None:
        try:
            self._stores.jobs.requeue(claim, "Its supervisor was stopped.", lost=False)
        except CorruptRecord as error:
            log.warning("%s cannot go back into the queue: %s", claim.job_id, error.message)

    def _leave(self) -> None:
        for child in self._children:
            child.kill()
        try:
            for child in self._children:
                if child.claim is not None:
                    self._let_go(child.claim)
            self._stores.supervisors.leave(self.id)
        except ChainruleError as error:  # leases run out by themselves
            log.warning("left without a word: %s", error.message)
        for child in self._children:
            child.stop(seconds=5)
        self._ray.stop()
