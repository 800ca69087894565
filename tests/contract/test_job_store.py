"""Jobs in the store: every move, every race, every record."""

from __future__ import annotations

import itertools
import random
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from common.errors import ChainruleError, Conflict, CorruptRecord, FenceLost, Invalid, NotFound
from common.identifiers import new_id
from common.lifecycle import HELD, STATES, TERMINAL, State, Wish, sources
from common.schemas.jobs import Job, JobError, TrainingJob
from common.store import keys
from common.store.checkpoints import KEPT
from common.store.client import connect, raw, text
from common.store.jobs import Claim, JobStore, Lease
from common.store.models import StoredModel
from common.store.stores import Stores, open_stores
from tests.contract import (
    LONG_AGO,
    a_model,
    a_progress,
    a_request,
    an_epoch,
    claimed,
    create,
    running,
    save_checkpoint,
    submit,
)

LOST = JobError(code="worker_lost", message="gone", hint="look")
MANY = 10_000
FEW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def in_parallel(*calls: Callable[[], object]) -> list[object]:
    """Calls all at once, each in a thread of its own; answers what each gave, or raised."""
    barrier, answers = threading.Barrier(len(calls)), dict[int, object]()

    def call(place: int) -> None:
        barrier.wait()
        try:
            answers[place] = calls[place]()
        except ChainruleError as error:
            answers[place] = error

    threads = [threading.Thread(target=call, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers[place] for place in range(len(calls))]


# Moves

PATHS: dict[State, tuple[State, ...]] = {
    "queued": (),
    "starting": ("starting",),
    "running": ("starting", "running"),
    "paused": ("starting", "running", "paused"),
    "succeeded": ("starting", "running", "succeeded"),
    "failed": ("starting", "failed"),
    "cancelled": ("cancelled",),
}


def job_in(stores: Stores, state: State) -> str:
    job_id = submit(stores)
    for step in PATHS[state]:
        assert stores.jobs._apply(job_id, step)[0] == "ok"
    assert stores.jobs.get(job_id).state == state
    return job_id


@pytest.mark.parametrize("target", STATES)
@pytest.mark.parametrize("state", STATES)
def test_a_legal_move_is_made_and_an_illegal_one_changes_nothing(stores: Stores, state: State, target: State) -> None:
    job_id = job_in(stores, state)
    before, events = stores.jobs.get(job_id), stores.history.events(job_id)
    answer = stores.jobs._apply(job_id, target)
    if state in sources(target):
        assert answer[0] == "ok"
        assert stores.jobs.get(job_id).state == target
        assert stores.jobs.get(job_id).revision == before.revision + 1
        assert [event.data["state"] for event in stores.history.events(job_id)][-1] == target
        assert stores.jobs.counts() == {other: int(other == target) for other in STATES}
    else:
        assert answer == ["state", state]
        assert (stores.jobs.get(job_id), stores.history.events(job_id)) == (before, events)
        assert stores.jobs.counts() == {other: int(other == state) for other in STATES}


@dataclass
class Expected:
    """What a job should be."""

    order: tuple[int, int]
    state: State = "queued"
    fence: int = 0
    attempt: int = 0
    revision: int = 1
    lease: int = 0
    wish: Wish | None = None
    kept: bool = False
    """Whether the next claim goes on with the same attempt."""
    losses: int = 0
    epochs: list[int] = field(default_factory=list)
    progress: int | None = None
    checkpoints: int = 0
    archived: bool = False
    model_id: str | None = None
    stop_reason: str | None = None
    label: str | None = None
    ended: Job | None = None
    """The record as it was when the job ended."""


class JobMachine(RuleBasedStateMachine):
    """Any order of calls, with claims that have long passed on, against a model of what each should do."""

    jobs = Bundle("jobs")
    claims = Bundle("claims")

    stores: Stores

    def __init__(self) -> None:
        super().__init__()
        self.stores.client.flushall()
        self.store = self.stores.jobs
        self.dataset_id = create(self.stores).id
        self.expected: dict[str, Expected] = {}
        self.published: list[str] = []
        self.count = 0

    @rule(target=jobs, priority=st.sampled_from([-1, 0, 1000]), label=st.sampled_from([None, "vision", "audio"]))
    def submit(self, priority: int, label: str | None) -> str:
        labels = {"team": label} if label else {}
        job_id = submit(self.stores, self.dataset_id, priority=priority, labels=labels)
        self.expected[job_id] = Expected((-priority, self.count), label=label)
        self.count += 1
        return job_id

    @rule(target=claims, job_id=jobs)
    def claim(self, job_id: str) -> Any:
        claim, job = self.store.claim(job_id), self.expected.get(job_id)
        if job is None or job.state != "queued":
            assert claim is None
            return multiple()
        assert claim == Claim(job_id, job.fence + 1)
        self.moved(job, "starting", fence=job.fence + 1, attempt=job.attempt + (not job.kept), kept=False)
        return claim

    @rule(claim=claims, resumed=st.integers(0, 2))
    def begin(self, claim: Claim, resumed: int) -> None:
        with self.allowed(claim, "running") as job:
            self.store.begin(claim, a_progress(resumed) if resumed else None)
            kept = [epoch for epoch in job.epochs if epoch <= resumed]
            self.moved(job, "running", progress=resumed or None, epochs=kept)

    @rule(claim=claims)
    def renew(self, claim: Claim) -> None:
        job = self.expected.get(claim.job_id)
        assert self.store.renew(claim) == (job is not None and job.fence == claim.fence)
        if job is not None and job.fence == claim.fence:
            job.lease += 1

    @rule(claim=claims, epoch=st.integers(1, 3))
    def record(self, claim: Claim, epoch: int) -> None:
        job = self.expected.get(claim.job_id)
        try:
            asked = self.store.record(claim, kind="progress", epoch=an_epoch(epoch), progress=a_progress(epoch))
        except FenceLost:
            assert job is None or job.fence != claim.fence or job.state not in HELD
            return
        assert job is not None
        assert job.fence == claim.fence
        assert job.state in HELD
        assert asked == job.wish
        job.revision += 1
        job.progress, job.epochs = epoch, sorted({*job.epochs, epoch})

    @rule(claim=claims, lost=st.booleans())
    def requeue(self, claim: Claim, lost: bool) -> None:
        job = self.expected.get(claim.job_id)
        done = self.store.requeue(claim, "lost", lost=lost)
        assert done == (job is not None and job.fence == claim.fence and job.state in HELD)
        if done and job is not None:
            target: State = "cancelled" if job.wish == "cancel" else "paused" if job.wish == "pause" else "queued"
            self.moved(job, target, fence=job.fence + 1, losses=job.losses + lost)
            if target == "cancelled":
                job.stop_reason = "cancelled"

    @rule(claim=claims)
    def checkpoint(self, claim: Claim) -> None:
        job = self.expected.get(claim.job_id)
        if job is None or job.fence != claim.fence or job.state not in HELD:
            with pytest.raises(FenceLost):
                save_checkpoint(self.stores, claim)
            return
        save_checkpoint(self.stores, claim)
        job.losses, job.checkpoints, job.revision = 0, job.checkpoints + 1, job.revision + 1

    @rule(claim=claims)
    def end_paused(self, claim: Claim) -> None:
        job = self.expected.get(claim.job_id)
        if job and job.fence == claim.fence and job.state in sources("paused") and job.wish != "pause":
            assert not self.store.end_paused(claim)
            return
        with self.allowed(claim, "paused") as job:
            assert self.store.end_paused(claim)
            self.moved(job, "paused", fence=job.fence + 1, kept=True)

    @rule(claim=claims)
    def fail(self, claim: Claim) -> None:
        with self.allowed(claim, "failed") as job:
            self.store.fail(claim, LOST)
            self.moved(job, "failed")

    @rule(claim=claims)
    def succeed(self, claim: Claim) -> None:
        model = a_model(claim.job_id)
        self.stores.models.save(model)
        named = (model.record.id, model.record.name)
        job = self.expected.get(claim.job_id)
        if job and job.fence == claim.fence and job.state == "running" and job.wish == "cancel":
            with pytest.raises(Conflict) as caught:
                self.store.succeed(claim, "patience", {"accuracy": 1.0}, named)
            assert caught.value.stable_code == "cancel_asked"
        else:
            with self.allowed(claim, "succeeded") as job:
                self.store.succeed(claim, "patience", {"accuracy": 1.0}, named)
                self.publishes(job, model)
                self.moved(job, "succeeded", stop_reason="patience")

    @rule(claim=claims, keeps=st.booleans())
    def end_cancelled(self, claim: Claim, keeps: bool) -> None:
        model = a_model(claim.job_id)
        self.stores.models.save(model)
        with self.allowed(claim, "cancelled") as job:
            self.store.end_cancelled(claim, None, (model.record.id, model.record.name) if keeps else None)
            if keeps:
                self.publishes(job, model)
            self.moved(job, "cancelled", stop_reason="cancelled")

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        job = self.expected.get(job_id)
        if job is None:
            with pytest.raises(NotFound):
                self.store.cancel(job_id)
        elif job.state in TERMINAL:
            with pytest.raises(Conflict) as caught:
                self.store.cancel(job_id)
            assert caught.value.stable_code == "job_ended"
        else:
            self.store.cancel(job_id)
            if job.state in ("queued", "paused"):
                self.moved(job, "cancelled", stop_reason="cancelled")
            elif job.wish != "cancel":
                job.wish, job.revision = "cancel", job.revision + 1

    @rule(job_id=jobs)
    def pause(self, job_id: str) -> None:
        job = self.expected.get(job_id)
        if job is None:
            with pytest.raises(NotFound):
                self.store.pause(job_id)
        elif job.state in TERMINAL or job.wish == "cancel":
            with pytest.raises(Conflict) as caught:
                self.store.pause(job_id)
            assert caught.value.stable_code == ("job_ended" if job.state in TERMINAL else "cancel_asked")
        else:
            self.store.pause(job_id)
            if job.state == "queued":
                self.moved(job, "paused")
            elif job.state in HELD and job.wish is None:
                job.wish, job.revision = "pause", job.revision + 1

    @rule(job_id=jobs)
    def resume(self, job_id: str) -> None:
        job = self.expected.get(job_id)
        if job is None:
            with pytest.raises(NotFound):
                self.store.resume(job_id, max_queued=MANY)
        elif job.state == "paused":
            self.store.resume(job_id, max_queued=MANY)
            self.moved(job, "queued")
        elif job.state in HELD and job.wish == "pause":
            self.store.resume(job_id, max_queued=MANY)
            job.wish, job.revision = None, job.revision + 1
        else:
            with pytest.raises(Conflict) as caught:
                self.store.resume(job_id, max_queued=MANY)
            expected = "cancel_asked" if job.wish == "cancel" and job.state in HELD else "job_not_paused"
            assert caught.value.stable_code == ("job_ended" if job.state in TERMINAL else expected)

    @rule(job_id=jobs)
    def archive(self, job_id: str) -> None:
        job = self.expected.get(job_id)
        assert (job_id in self.stores.history.to_archive(1000)) == (
            job is not None and job.state in TERMINAL and not job.archived
        )
        if job is not None and job.state in TERMINAL and not job.archived:
            before = self.stores.history.events(job_id)
            self.stores.history.archive(job_id)
            job.archived = True
            assert self.stores.history.events(job_id) == before
            assert self.stores.history.events(job_id, before[0].id) == before[1:]
            assert not self.stores.client.exists(keys.job_events(job_id), keys.job_metrics(job_id))

    @rule(job_id=jobs)
    def delete(self, job_id: str) -> None:
        job = self.expected.get(job_id)
        if job is None:
            with pytest.raises(NotFound):
                self.store.delete(job_id)
        elif job.state not in TERMINAL:
            with pytest.raises(Conflict) as caught:
                self.store.delete(job_id)
            assert caught.value.stable_code == "job_not_ended"
        else:
            self.store.delete(job_id)
            del self.expected[job_id]

    @invariant()
    def every_record_is_as_expected(self) -> None:
        queue = sorted(
            (job_id for job_id, job in self.expected.items() if job.state == "queued"),
            key=lambda job_id: self.expected[job_id].order,
        )
        for job_id, job in self.expected.items():
            found = self.store.get(job_id)
            assert found.state == job.state
            assert (found.attempt, found.revision) == (job.attempt, job.revision)
            assert found.queue_position == (queue.index(job_id) if job.state == "queued" else None)
            assert isinstance(found, TrainingJob)
            assert (found.progress and found.progress.epoch) == job.progress
            assert [row.epoch for row in self.stores.history.metrics(job_id)] == job.epochs
            assert self.store.losses(Claim(job_id, 0)) == job.losses
            numbers = [checkpoint.number for checkpoint in self.stores.checkpoints.of_job(job_id)]
            assert numbers == [*range(job.checkpoints, 0, -1)][:KEPT]
            assert (found.model_id, found.stop_reason) == (job.model_id, job.stop_reason)
            assert (found.finished_at is not None) == (job.state in TERMINAL)
            assert found.error == (LOST if job.state == "failed" else None)
            if job.state in TERMINAL:
                job.ended = job.ended or found
                assert found == job.ended
        assert self.store.queue() == queue

    @invariant()
    def every_list_is_as_expected(self) -> None:
        newest = sorted(self.expected, key=lambda job_id: -self.expected[job_id].order[1])
        assert [job.id for job in self.store.page(200).data] == newest
        for state in STATES:
            those = [job_id for job_id in newest if self.expected[job_id].state == state]
            assert [job.id for job in self.store.page(200, state=state).data] == those
            assert self.store.counts()[state] == len(those)
        of_team = [job_id for job_id in newest if self.expected[job_id].label == "vision"]
        assert [job.id for job in self.store.page(200, label="team:vision").data] == of_team
        held = {Lease(job_id, job.fence, job.lease) for job_id, job in self.expected.items() if job.state in HELD}
        assert set(self.store.leases()) == held

    @invariant()
    def a_model_is_visible_only_with_the_end_of_its_job(self) -> None:
        assert [model.id for model in self.stores.models.page(200).data] == self.published[::-1]
        assert [model.version for model in self.stores.models.page(200).data] == [*range(len(self.published), 0, -1)]

    @contextmanager
    def allowed(self, claim: Claim, target: State) -> Iterator[Expected]:
        """What is done inside must work if the claim holds and the move is legal, and else be refused."""
        job = self.expected.get(claim.job_id)
        if job and job.fence == claim.fence and job.state in sources(target):
            yield job
            return
        with pytest.raises(FenceLost):
            yield Expected((0, 0))

    def moved(self, job: Expected, state: State, **changes: object) -> None:
        job.state, job.revision = state, job.revision + 1
        if state not in HELD:
            job.wish = None
        for name, value in changes.items():
            setattr(job, name, value)

    def publishes(self, job: Expected, model: StoredModel) -> None:
        job.model_id = model.record.id
        self.published.append(model.record.id)


def test_jobs_do_what_is_expected_in_any_order_of_calls(stores: Stores) -> None:
    run_state_machine_as_test(
        type("OverRealStores", (JobMachine,), {"stores": stores}),
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


# The queue


@FEW
@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=8))
def test_jobs_start_by_priority_and_then_by_age(stores: Stores, priorities: list[int]) -> None:
    stores.client.flushall()
    dataset_id = create(stores).id
    ids = [submit(stores, dataset_id, priority=priority) for priority in priorities]
    wanted = [ids[place] for place in sorted(range(len(ids)), key=lambda place: (-priorities[place], place))]
    assert [stores.jobs.get(job_id).queue_position for job_id in wanted] == list(range(len(ids)))
    assert stores.jobs.queue() == wanted
    for place, job_id in enumerate(wanted, 1):
        claimed(stores, job_id)
        assert stores.jobs.queue() == wanted[place:]


def test_a_job_that_goes_back_into_the_queue_keeps_its_place(stores: Stores) -> None:
    dataset_id = create(stores).id
    first, second = submit(stores, dataset_id), submit(stores, dataset_id)
    stores.jobs.requeue(running(stores, first), "lost")
    assert stores.jobs.queue() == [first, second]
    assert stores.jobs.get(second).queue_position == 1


def test_of_many_who_claim_a_job_one_gets_it(stores: Stores) -> None:
    for _ in range(10):
        job_id = submit(stores)
        claims = in_parallel(*[partial(stores.jobs.claim, job_id)] * 4)
        assert sorted(claims, key=str) == [Claim(job_id, 1), None, None, None]
        assert stores.jobs.get(job_id).attempt == 1


def test_a_full_queue_takes_no_more(stores: Stores) -> None:
    dataset_id = create(stores).id
    request = a_request(dataset_id)
    stores.jobs.submit(new_id("job"), request, "classification", max_queued=1)
    with pytest.raises(Conflict) as caught:
        stores.jobs.submit(new_id("job"), request, "classification", max_queued=1)
    assert caught.value.stable_code == "queue_full"
    assert len(stores.jobs.page(10).data) == 1


def test_a_job_whose_record_was_removed_by_hand_holds_up_nobody(stores: Stores) -> None:
    first, second = submit(stores), submit(stores)
    stores.client.delete(keys.job(first))
    assert stores.jobs.claim(first) is None
    stores.jobs.unqueue(first)
    assert stores.jobs.queue() == [second]


# Fences


def test_whoever_lost_the_job_can_write_nothing(stores: Stores) -> None:
    old = running(stores)
    assert stores.jobs.requeue(old, "silent")
    new = running(stores, old.job_id)
    model = a_model(old.job_id)
    stores.models.save(model)
    before = stores.jobs.get(old.job_id)
    for write in (
        lambda: stores.jobs.begin(old),
        lambda: stores.jobs.record(old, kind="warning", event={}),
        lambda: stores.jobs.record(old, epoch=an_epoch(1), progress=a_progress(1)),
        lambda: stores.jobs.succeed(old, "patience", {}, (model.record.id, model.record.name)),
        lambda: stores.jobs.end_cancelled(old),
        lambda: stores.jobs.fail(old, LOST),
        lambda: stores.jobs.asked(old),
        lambda: save_checkpoint(stores, old),
        lambda: stores.jobs.end_paused(old),
    ):
        with pytest.raises(FenceLost):
            write()
    assert not stores.jobs.renew(old)
    assert not stores.jobs.requeue(old, "again")
    assert stores.jobs.get(old.job_id) == before
    with pytest.raises(NotFound):
        stores.models.get(model.record.id)
    assert stores.jobs.renew(new)


def test_a_lost_job_keeps_what_it_had_learned_until_it_begins_again(stores: Stores) -> None:
    claim = running(stores)
    for epoch in (1, 2):
        stores.jobs.record(claim, epoch=an_epoch(epoch), progress=a_progress(epoch), metrics={"accuracy": epoch / 4})
    assert stores.jobs.requeue(claim, "lost")
    job = stores.jobs.get(claim.job_id)
    assert (job.state, job.progress, job.metrics, job.attempt) == ("queued", a_progress(2), {"accuracy": 0.5}, 1)
    assert [row.epoch for row in stores.history.metrics(claim.job_id)] == [1, 2]

    resumed = claimed(stores, claim.job_id)
    stores.jobs.begin(resumed, a_progress(1), {"accuracy": 0.25}, checkpoint=7)
    job = stores.jobs.get(claim.job_id)
    assert (job.progress, job.metrics, job.attempt) == (a_progress(1), {"accuracy": 0.25}, 2)
    assert stores.history.metrics(claim.job_id) == [an_epoch(1)]
    assert stores.history.events(claim.job_id)[-1].data == {"state": "running", "checkpoint": 7}

    assert stores.jobs.requeue(resumed, "lost")
    stores.jobs.begin(claimed(stores, claim.job_id))
    job = stores.jobs.get(claim.job_id)
    assert (job.progress, job.metrics, stores.history.metrics(claim.job_id)) == (None, None, [])


def test_losses_are_counted_from_checkpoint_to_checkpoint(stores: Stores) -> None:
    claim = running(stores)
    for losses in (1, 2):
        assert stores.jobs.requeue(claim, "lost")
        claim = running(stores, claim.job_id)
        assert stores.jobs.losses(claim) == losses
    assert stores.jobs.requeue(claim, "its supervisor was stopped", lost=False)
    claim = running(stores, claim.job_id)
    assert stores.jobs.losses(claim) == 2
    save_checkpoint(stores, claim)
    assert stores.jobs.losses(claim) == 0


# Pausing


def test_a_paused_job_goes_on_with_the_same_attempt_at_its_old_place(stores: Stores) -> None:
    dataset_id = create(stores).id
    first, second = submit(stores, dataset_id), submit(stores, dataset_id)
    claim = running(stores, first)
    stores.jobs.pause(first)
    assert stores.jobs.asked(claim) == "pause"
    assert stores.jobs.get(first).state == "running"
    assert stores.jobs.end_paused(claim)
    assert stores.jobs.get(first).state == "paused"
    assert (stores.jobs.leases(), stores.jobs.queue()) == ([], [second])
    with pytest.raises(FenceLost):
        stores.jobs.record(claim, kind="progress")
    stores.jobs.resume(first, max_queued=MANY)
    assert stores.jobs.queue() == [first, second]
    assert stores.jobs.get(first).attempt == 1
    running(stores, first)
    assert stores.jobs.get(first).attempt == 1


def test_a_pause_that_is_taken_back_in_time_changes_nothing(stores: Stores) -> None:
    claim = running(stores)
    stores.jobs.pause(claim.job_id)
    stores.jobs.resume(claim.job_id, max_queued=MANY)
    assert stores.jobs.asked(claim) is None
    assert not stores.jobs.end_paused(claim)
    assert stores.jobs.get(claim.job_id).state == "running"


def test_a_waiting_job_is_paused_at_once(stores: Stores) -> None:
    job_id = submit(stores)
    stores.jobs.pause(job_id)
    stores.jobs.pause(job_id)
    assert stores.jobs.get(job_id).state == "paused"
    assert stores.jobs.queue() == []
    stores.jobs.cancel(job_id)
    assert stores.jobs.get(job_id).state == "cancelled"


def test_a_cancel_takes_the_place_of_a_pause_and_not_the_other_way(stores: Stores) -> None:
    claim = running(stores)
    stores.jobs.pause(claim.job_id)
    stores.jobs.cancel(claim.job_id)
    assert stores.jobs.asked(claim) == "cancel"
    for steer in (stores.jobs.pause, partial(stores.jobs.resume, max_queued=MANY)):
        with pytest.raises(Conflict) as caught:
            steer(claim.job_id)
        assert caught.value.stable_code == "cancel_asked"
    assert not stores.jobs.end_paused(claim)


@pytest.mark.parametrize(("wish", "state"), [("cancel", "cancelled"), ("pause", "paused")])
def test_a_lost_job_goes_where_it_was_asked_to_go(stores: Stores, wish: str, state: str) -> None:
    claim = running(stores)
    getattr(stores.jobs, wish)(claim.job_id)
    assert stores.jobs.requeue(claim, "lost")
    assert stores.jobs.get(claim.job_id).state == state
    assert stores.jobs.queue() == []


# Cancelling


def test_cancelling_a_waiting_job_ends_it_at_once(stores: Stores) -> None:
    job_id = submit(stores)
    stores.jobs.cancel(job_id)
    job = stores.jobs.get(job_id)
    assert (job.state, job.stop_reason, job.queue_position) == ("cancelled", "cancelled", None)
    assert stores.jobs.queue() == []


def test_cancelling_a_running_job_asks_its_holder_and_success_is_refused_from_then_on(stores: Stores) -> None:
    claim = running(stores)
    model = a_model(claim.job_id)
    stores.models.save(model)
    named = (model.record.id, model.record.name)
    assert stores.jobs.asked(claim) is None
    stores.jobs.cancel(claim.job_id)
    stores.jobs.cancel(claim.job_id)
    assert stores.jobs.get(claim.job_id).state == "running"
    assert stores.jobs.asked(claim) == "cancel"
    assert stores.jobs.record(claim, kind="progress") == "cancel"
    with pytest.raises(Conflict) as caught:
        stores.jobs.succeed(claim, "epochs_done", {}, named)
    assert caught.value.stable_code == "cancel_asked"
    assert stores.models.page(10).data == []
    stores.jobs.end_cancelled(claim, {"accuracy": 0.5}, named)
    job = stores.jobs.get(claim.job_id)
    assert (job.state, job.model_id, job.metrics) == ("cancelled", model.record.id, {"accuracy": 0.5})
    assert stores.models.get(model.record.id).version == 1


def hold(stores: Stores, job: str | Claim, begins: bool, model: StoredModel) -> None:
    """What a holder does from wherever the job stands."""
    claim = stores.jobs.claim(job) if isinstance(job, str) else job
    if claim is None:
        return
    if begins:
        stores.jobs.begin(claim)
    try:
        stores.jobs.succeed(claim, "patience", {}, (model.record.id, model.record.name))
    except Conflict:
        stores.jobs.end_cancelled(claim)


def test_a_cancel_that_races_start_and_success_leaves_one_end(stores: Stores) -> None:
    seen = set()
    dice = random.Random(7)
    dataset_id = create(stores).id
    for _ in range(60):
        job_id = submit(stores, dataset_id)
        steps = dice.randrange(3)
        model = a_model(job_id)
        stores.models.save(model)
        claim = claimed(stores, job_id) if steps else None
        if claim and steps == 2:
            stores.jobs.begin(claim)
        answer = in_parallel(
            partial(stores.jobs.cancel, job_id), partial(hold, stores, claim or job_id, steps < 2, model)
        )[0]
        job = stores.jobs.get(job_id)
        ends = [event.data["state"] for event in stores.history.events(job_id) if event.data["state"] in TERMINAL]
        assert ends == [job.state]
        assert isinstance(answer, Conflict) == (job.state == "succeeded")
        assert (job.model_id == model.record.id) == (job.state == "succeeded")
        seen.add(job.state)
    assert seen <= {"succeeded", "cancelled"}
    assert "cancelled" in seen
    assert sum(stores.jobs.counts().values()) == 60


# Repeated writes: the answer to a command is lost on its way


class ForgetfulProxy:
    """Stands between a client and the server; on demand it drops the answer to the next script, once."""

    def __init__(self, server: str, address: str) -> None:
        self._server = server
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address)
        self._listener.listen()
        self.drop = False
        self.dropped = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self._server)
            while request := client.recv(1 << 20):
                server.sendall(request)
                answer = server.recv(1 << 20)
                if self.drop and b"EVALSHA" in request and b"NOSCRIPT" not in answer:
                    self.drop, self.dropped = False, self.dropped + 1
                    return
                client.sendall(answer)


@pytest.fixture
def forgetful(redis_url: str, stores: Stores) -> Iterator[tuple[Stores, ForgetfulProxy]]:
    with tempfile.TemporaryDirectory(prefix="cr", dir="/tmp") as folder:
        address = str(Path(folder) / "proxy.sock")
        proxy = ForgetfulProxy(redis_url.removeprefix("unix://"), address)
        with closing(connect(f"unix://{address}", retries=3)) as client:
            yield open_stores(client, stores.files), proxy
        proxy.close()


REPEATED: dict[str, tuple[State, Callable[[JobStore, Claim, StoredModel], object]]] = {
    "claim": ("queued", lambda jobs, claim, _: jobs.claim(claim.job_id)),
    "begin": ("starting", lambda jobs, claim, _: jobs.begin(claim)),
    "requeue": ("running", lambda jobs, claim, _: jobs.requeue(claim, "lost")),
    "fail": ("running", lambda jobs, claim, _: jobs.fail(claim, LOST)),
    "succeed": ("running", lambda jobs, claim, model: jobs.succeed(claim, "patience", {}, (model.record.id, "iris"))),
    "end_cancelled": ("running", lambda jobs, claim, model: jobs.end_cancelled(claim, {}, (model.record.id, "iris"))),
    "record": ("running", lambda jobs, claim, _: jobs.record(claim, kind="progress", progress=a_progress(1))),
    "cancel of a waiting job": ("queued", lambda jobs, claim, _: jobs.cancel(claim.job_id)),
    "cancel of a running job": ("running", lambda jobs, claim, _: jobs.cancel(claim.job_id)),
}


@pytest.mark.parametrize("name", REPEATED)
def test_a_write_whose_answer_was_lost_is_applied_once(
    forgetful: tuple[Stores, ForgetfulProxy], stores: Stores, name: str
) -> None:
    state, write = REPEATED[name]
    job_id = job_in(stores, "queued")
    claim = Claim(job_id, 0)
    if state != "queued":
        claim = claimed(stores, job_id)
    if state == "running":
        stores.jobs.begin(claim)
    model = a_model(job_id)
    stores.models.save(model)
    before, events = stores.jobs.get(job_id), stores.history.events(job_id)
    shaky, proxy = forgetful
    shaky.client.ping()
    proxy.drop = True
    answer = write(shaky.jobs, claim, model)
    assert proxy.dropped == 1
    after = stores.jobs.get(job_id)
    assert after.revision == before.revision + 1
    assert len(stores.history.events(job_id)) - len(events) == (name != "cancel of a running job")
    if name == "claim":
        assert (answer, after.attempt) == (Claim(job_id, 1), 1)
    if name in ("succeed", "end_cancelled"):
        assert [model.version for model in stores.models.page(10).data] == [1]


def test_a_submission_whose_answer_was_lost_makes_one_job(
    forgetful: tuple[Stores, ForgetfulProxy], stores: Stores
) -> None:
    dataset_id = create(stores).id
    shaky, proxy = forgetful
    shaky.client.ping()
    proxy.drop = True
    job_id = submit(shaky, dataset_id)
    assert proxy.dropped == 1
    assert [job.id for job in stores.jobs.page(10).data] == [job_id]
    assert len(stores.history.events(job_id)) == 1


# Idempotency keys


def keyed(stores: Stores, dataset_id: str, digest: str) -> tuple[str, bool]:
    created = stores.jobs.submit(
        new_id("job"),
        a_request(dataset_id),
        "classification",
        max_queued=1,
        idempotency_key="k",
        digest=digest,
    )
    return created.id, created.replayed


def test_the_same_key_and_body_give_the_same_job_and_another_body_is_refused(stores: Stores) -> None:
    dataset_id = create(stores).id
    job_id, replayed = keyed(stores, dataset_id, "one")
    assert not replayed
    assert keyed(stores, dataset_id, "one") == (job_id, True)
    with pytest.raises(Invalid) as caught:
        keyed(stores, dataset_id, "other")
    assert caught.value.stable_code == "idempotency_key_reused"
    assert len(stores.jobs.page(10).data) == 1


def test_the_same_key_many_times_at_once_makes_one_job(stores: Stores) -> None:
    dataset_id = create(stores).id
    answers = in_parallel(*[partial(keyed, stores, dataset_id, "one")] * 8)
    (job,) = stores.jobs.page(10).data
    assert sorted(answers, key=str) == [(job.id, False)] + [(job.id, True)] * 7


# Data sets in use


def test_a_data_set_in_use_stays_until_its_jobs_have_ended(stores: Stores) -> None:
    dataset_id = create(stores).id
    first, second = submit(stores, dataset_id), submit(stores, dataset_id)
    stores.jobs.fail(running(stores, first), LOST)
    with pytest.raises(Conflict) as caught:
        stores.datasets.delete(dataset_id)
    assert caught.value.stable_code == "dataset_in_use"
    claim = running(stores, second)
    stores.jobs.requeue(claim, "lost")
    with pytest.raises(Conflict):
        stores.datasets.delete(dataset_id)
    stores.jobs.cancel(second)
    stores.datasets.delete(dataset_id)
    with pytest.raises(NotFound):
        stores.datasets.get(dataset_id)
    with pytest.raises(NotFound):
        submit(stores, dataset_id)


def test_a_data_set_whose_rows_judge_is_in_use_as_well(stores: Stores) -> None:
    dataset_id, judge = create(stores).id, create(stores).id
    validation = {"kind": "dataset", "dataset_id": judge}
    job_id = submit(stores, dataset_id, validation=validation)
    with pytest.raises(Conflict):
        stores.datasets.delete(judge)
    stores.jobs.cancel(job_id)
    stores.datasets.delete(judge)
    with pytest.raises(NotFound):
        submit(stores, dataset_id, validation=validation)


def test_a_deletion_that_races_a_submission_leaves_no_job_without_its_data(stores: Stores) -> None:
    for _ in range(40):
        dataset_id = create(stores).id
        deleted, submitted = in_parallel(
            partial(stores.datasets.delete, dataset_id),
            partial(submit, stores, dataset_id),
        )
        assert isinstance(deleted, Conflict) != isinstance(submitted, NotFound)
        assert (deleted is None) == isinstance(submitted, NotFound)


# Records


def test_deleting_an_ended_job_leaves_no_trace_of_it_but_its_model(stores: Stores) -> None:
    dataset_id = create(stores).id
    other = submit(stores, dataset_id, labels={"team": "vision"})
    claim = running(stores, submit(stores, dataset_id, name="x", labels={"team": "vision", "a/b": "ä:1"}))
    stores.jobs.record(claim, kind="checkpoint", epoch=an_epoch(1), progress=a_progress(1))
    model = a_model(claim.job_id)
    stores.models.save(model)
    stores.jobs.succeed(claim, "patience", {}, (model.record.id, "iris"))
    assert len(traces(stores, claim.job_id)) > 5
    stores.jobs.delete(claim.job_id)
    assert traces(stores, claim.job_id) == {keys.model(model.record.id)}
    assert [job.id for job in stores.jobs.page(10, label="team:vision").data] == [other]


def traces(stores: Stores, identifier: str) -> set[str]:
    """Every key that an id stands in, in its name or in what it holds."""
    read: dict[bytes, Callable[[Any], object]] = {
        b"string": stores.client.get,
        b"hash": stores.client.hgetall,
        b"zset": lambda key: stores.client.zrange(key, 0, -1),
        b"set": stores.client.smembers,
        b"stream": stores.client.xrange,
    }
    found: list[Any] = stores.client.keys("*")
    return {text(key) for key in found if identifier in f"{key} {read[raw(stores.client.type(key))](key)}"}


def test_events_are_told_oldest_first(stores: Stores) -> None:
    claim = running(stores)
    stores.jobs.record(claim, kind="worker", event={"rank": 1})
    stores.jobs.record(claim, kind="progress", event={"epoch": 1})
    stores.jobs.fail(claim, LOST)
    events = stores.history.events(claim.job_id)
    assert [(event.kind, event.data) for event in events] == [
        ("state", {"state": "queued"}),
        ("state", {"state": "starting"}),
        ("state", {"state": "running"}),
        ("worker", {"rank": 1}),
        ("progress", {"epoch": 1}),
        ("state", {"state": "failed", "code": "worker_lost", "message": "gone"}),
    ]
    order = [tuple(map(int, event.id.split("-"))) for event in events]
    assert order == sorted(set(order))


def test_metrics_come_by_epoch_whatever_the_order_of_writing(stores: Stores) -> None:
    claim = running(stores)
    for epoch in (10, 2, 1):
        stores.jobs.record(claim, epoch=an_epoch(epoch))
    assert [row.epoch for row in stores.history.metrics(claim.job_id)] == [1, 2, 10]


def test_no_order_and_no_decision_rests_on_the_wall_clock(stores: Stores) -> None:
    moments = (LONG_AGO - timedelta(hours=count) for count in itertools.count())
    backwards = open_stores(stores.client, stores.files, lambda: next(moments))
    ids = [submit(backwards) for _ in range(3)]
    assert [job.id for job in backwards.jobs.page(10).data] == ids[::-1]
    assert backwards.jobs.queue() == ids
    backwards.jobs.fail(running(backwards, ids[0]), LOST)
    job = backwards.jobs.get(ids[0])
    assert job.started_at is not None
    assert job.finished_at is not None
    assert job.created_at > job.started_at > job.finished_at


def test_the_time_is_kept_to_the_millisecond_with_its_zone(stores: Stores) -> None:
    exact = datetime(2031, 2, 3, 4, 5, 6, 789_000, tzinfo=UTC)
    job_id = submit(open_stores(stores.client, stores.files, lambda: exact))
    assert stores.jobs.get(job_id).created_at == exact


@pytest.mark.parametrize("call", ["get", "events", "metrics", "cancel", "delete"])
@pytest.mark.parametrize("job_id", ["job_0000000000000000000000000", "job_x", "", "*", "../job", "job_\x00"])
def test_no_job_is_found_by_an_id_that_is_none(stores: Stores, call: str, job_id: str) -> None:
    with pytest.raises(NotFound) as caught:
        getattr(stores.history if call in ("events", "metrics") else stores.jobs, call)(job_id)
    assert caught.value.stable_code == "job_not_found"


# Lists


@FEW
@given(count=st.integers(0, 9), limit=st.integers(1, 5), labelled=st.sets(st.integers(0, 8)))
def test_cursors_walk_every_list_once_and_newest_first(
    stores: Stores, count: int, limit: int, labelled: set[int]
) -> None:
    stores.client.flushall()
    dataset_id = create(stores).id
    ids = [submit(stores, dataset_id, labels={"team": "vision"} if place in labelled else {}) for place in range(count)]
    for place in range(0, count, 2):
        stores.jobs.cancel(ids[place])
    filters: list[dict[str, Any]] = [{}, {"state": "queued"}, {"label": "team:vision"}]
    filters.append(filters[1] | filters[2])
    for chosen in filters:
        wanted = [
            ids[place]
            for place in reversed(range(count))
            if ("state" not in chosen or place % 2) and ("label" not in chosen or place in labelled)
        ]
        assert walk(stores.jobs, limit, **chosen) == wanted


def walk(jobs: JobStore, limit: int, **chosen: Any) -> list[str]:
    found: list[str] = []
    page = jobs.page(limit, **chosen)
    while True:
        assert len(page.data) <= limit
        found += [job.id for job in page.data]
        assert len(found) == len(set(found))
        if page.next_cursor is None:
            return found
        page = jobs.page(limit, page.next_cursor, **chosen)


def test_what_comes_and_goes_between_pages_moves_no_other_item(stores: Stores) -> None:
    dataset_id = create(stores).id
    ids = [submit(stores, dataset_id) for _ in range(6)]
    page = stores.jobs.page(2)
    submit(stores, dataset_id)
    stores.jobs.cancel(ids[4])
    stores.jobs.delete(ids[4])
    rest = stores.jobs.page(9, page.next_cursor)
    assert [job.id for job in page.data + rest.data] == ids[::-1]


@pytest.mark.parametrize("cursor", ["x", "before:1", "YmVmb3JlOi0x", "ü", "", "YmVmb3JlOjFe", "=" * 99, "\n"])
def test_a_forged_cursor_is_refused(stores: Stores, cursor: str) -> None:
    with pytest.raises(Invalid) as caught:
        stores.jobs.page(10, cursor)
    assert [(fault.pointer, fault.code) for fault in caught.value.faults] == [("cursor", "invalid_cursor")]


# Damage

SPOILT: dict[str, Callable[[redis.Redis, str], object]] = {
    "another type": lambda client, key: (client.delete(key), client.set(key, "garbage")),
    "a request that is no JSON": lambda client, key: client.hset(key, "request", "{"),
    "a request that is no request": lambda client, key: client.hset(key, "request", '{"a":1}'),
    "bytes that are no text": lambda client, key: client.hset(key, "name", b"\xff\xfe"),
    "no state": lambda client, key: client.hdel(key, "state"),
    "an unknown state": lambda client, key: client.hset(key, "state", "sleeping"),
    "a number that is none": lambda client, key: client.hset(key, "revision", "many"),
    "infinite metrics": lambda client, key: client.hset(key, "metrics", '{"accuracy": Infinity}'),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_damaged_record_is_told_of_and_hides_no_other(stores: Stores, name: str) -> None:
    dataset_id = create(stores).id
    ids = [submit(stores, dataset_id, labels={"team": "vision"}) for _ in range(3)]
    SPOILT[name](stores.client, keys.job(ids[1]))
    with pytest.raises(CorruptRecord) as caught:
        stores.jobs.get(ids[1])
    assert caught.value.stable_code == "corrupt_record"
    for page in (stores.jobs.page(10), stores.jobs.page(10, state="queued"), stores.jobs.page(10, label="team:vision")):
        assert [job.id for job in page.data] == [ids[2], ids[0]]
    assert running(stores, ids[0]) == Claim(ids[0], 1)
    stores.jobs.cancel(ids[2])


@pytest.mark.parametrize("name", ["another type", "a request that is no JSON", "a request that is no request"])
def test_a_damaged_record_cannot_be_moved(stores: Stores, name: str) -> None:
    claim = claimed(stores)
    SPOILT[name](stores.client, keys.job(claim.job_id))
    for move in (
        lambda: stores.jobs.cancel(claim.job_id),
        lambda: stores.jobs.claim(claim.job_id),
        lambda: stores.jobs.begin(claim),
        lambda: stores.jobs.requeue(claim, "lost"),
    ):
        with pytest.raises(CorruptRecord):
            move()


def test_a_damaged_record_among_the_held_ones_leaves_the_leases_of_others(stores: Stores) -> None:
    broken, whole = running(stores), running(stores)
    SPOILT["another type"](stores.client, keys.job(broken.job_id))
    assert stores.jobs.leases() == [Lease(whole.job_id, 1, 0)]


def test_damaged_events_and_metrics_are_told_of(stores: Stores) -> None:
    claim = running(stores)
    stores.client.xadd(keys.job_events(claim.job_id), {"kind": "state"})
    stores.client.hset(keys.job_metrics(claim.job_id), "one", "{}")
    for read in (stores.history.events, stores.history.metrics):
        with pytest.raises(CorruptRecord):
            read(claim.job_id)
    for key in (keys.job_events(claim.job_id), keys.job_metrics(claim.job_id)):
        SPOILT["another type"](stores.client, key)
    for read in (stores.history.events, stores.history.metrics):
        with pytest.raises(CorruptRecord):
            read(claim.job_id)
    assert stores.jobs.get(claim.job_id).state == "running"


def test_after_a_flush_there_is_nothing_and_nothing_breaks(stores: Stores) -> None:
    claim = running(stores)
    stores.client.flushall()
    assert stores.jobs.queue() == []
    assert stores.jobs.leases() == []
    assert stores.jobs.page(10).data == []
    assert not stores.jobs.renew(claim)
    assert not stores.jobs.requeue(claim, "lost")
    with pytest.raises(FenceLost):
        stores.jobs.record(claim, kind="progress")
    with pytest.raises(NotFound):
        stores.jobs.get(claim.job_id)
    assert re.fullmatch("job_.{25}", submit(stores))


def test_why_a_job_waits_is_told_once_for_each_reason_and_forgotten_when_it_starts(stores: Stores) -> None:
    job_id = submit(stores)
    assert stores.jobs.get(job_id).waiting_for is None
    revision = stores.jobs.get(job_id).revision
    for reason in ("needs 4 CPUs", "needs 4 CPUs", "needs 2 CPUs"):
        stores.jobs.explain_wait(job_id, reason)
    job = stores.jobs.get(job_id)
    assert (job.waiting_for, job.revision) == ("needs 2 CPUs", revision + 2)
    told = [event.data["message"] for event in stores.history.events(job_id) if event.kind == "warning"]
    assert told == ["needs 4 CPUs", "needs 2 CPUs"]
    claimed(stores, job_id)
    assert stores.jobs.get(job_id).waiting_for is None
    stores.jobs.explain_wait(job_id, "too late")
    assert stores.jobs.get(job_id).waiting_for is None
