"""Keys poisoned by hand: what is damaged is told of and can be removed, and everything else goes on."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
import redis

from common.errors import Conflict, CorruptRecord, NotFound
from common.identifiers import new_id
from common.schemas.cluster import Node, SupervisorReport
from common.schemas.jobs import JobError
from common.settings import Settings
from common.store import keys
from common.store.jobs import Claim
from common.store.stores import Stores
from service.changes import Changes
from tests.contract import (
    a_request,
    an_epoch,
    claimed,
    create,
    publish,
    running,
    save_checkpoint,
    submit,
    traces,
)
from tests.steady_ray import SteadyRay
from worker.housekeeping import Housekeeping
from worker.run_child import Message, Nodes, Ready
from worker.supervisor import Hear, Supervisor

NO_TEXT = b"\xff\xfe"
NUMBERS = ("seq", "priority", "revision", "attempt", "fence", "lease")

Spoil = Callable[[redis.Redis, str], object]
SPOILT: dict[str, Spoil] = {
    "another type": lambda client, key: client.set(key, "garbage"),
    "other fields": lambda client, key: (client.delete(key), client.hset(key, "garbage", "garbage")),
    "no request": lambda client, key: client.hdel(key, "request"),
    "a damaged request": lambda client, key: client.hset(key, "request", "garbage"),
    "a request that is too deep": lambda client, key: client.hset(key, "request", "[" * 100_000),
    "damaged labels": lambda client, key: client.hset(key, "labels", "garbage"),
    "an unknown state": lambda client, key: client.hset(key, "state", "zzz"),
    "a state that is no text": lambda client, key: client.hset(key, "state", NO_TEXT),
    **{
        f"a damaged {name}": lambda client, key, name=name: client.hset(key, name, "garb")  # type: ignore[misc]
        for name in (*NUMBERS, "losses")
    },
    "a number too large to count": lambda client, key: client.hset(key, "fence", "9223372036854775807"),
}


# What callers do


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
@pytest.mark.parametrize("at_work", [False, True])
def test_a_damaged_job_cannot_be_steered_and_can_be_removed_with_all_its_traces(
    stores: Stores, spoil: Spoil, at_work: bool
) -> None:
    model = publish(stores)
    dataset_id, labels = create(stores).id, {"team": "vision"}
    job_id = submit(stores, dataset_id, labels=labels, base_model_id=model.id)
    other = submit(stores, dataset_id, labels=labels, base_model_id=model.id)
    if at_work:
        stores.jobs.record(running(stores, job_id), kind="progress", epoch=an_epoch(1))
    spoil(stores.client, keys.job(job_id))
    for steer in (stores.jobs.get, stores.jobs.cancel, stores.jobs.pause):
        with pytest.raises(CorruptRecord):
            steer(job_id)
    with pytest.raises(CorruptRecord):
        stores.jobs.resume(job_id, max_queued=10)
    stores.jobs.delete(job_id)
    assert traces(stores, job_id) == set()
    with pytest.raises(NotFound):
        stores.jobs.delete(job_id)
    assert stores.jobs.get(other).state == "queued"
    stores.jobs.cancel(other)
    stores.datasets.delete(dataset_id)
    stores.models.delete(model.id)


@pytest.mark.parametrize("spoil", [SPOILT["a damaged seq"], SPOILT["a damaged fence"], SPOILT["a damaged revision"]])
def test_a_move_that_cannot_be_made_whole_is_not_begun(stores: Stores, spoil: Spoil) -> None:
    job_id = submit(stores)
    spoil(stores.client, keys.job(job_id))
    before = stores.client.hgetall(keys.job(job_id))
    with pytest.raises(CorruptRecord):
        stores.jobs.claim(job_id)
    assert stores.client.hgetall(keys.job(job_id)) == before
    assert stores.jobs.queue() == [job_id]


@pytest.mark.parametrize("index", [keys.JOBS, keys.QUEUE, keys.jobs_in_state("queued"), keys.jobs_with_label("a:b")])
def test_a_submission_that_cannot_be_made_whole_is_not_begun(stores: Stores, index: str) -> None:
    dataset_id, job_id = create(stores).id, new_id("job")
    stores.client.set(index, "garbage")
    with pytest.raises(CorruptRecord):
        stores.jobs.submit(job_id, a_request(dataset_id, labels={"a": "b"}), "classification", max_queued=10)
    assert traces(stores, job_id) == set()


def test_damage_beside_a_job_does_not_stop_it(stores: Stores) -> None:
    job_id = submit(stores)
    for key in (keys.job_events(job_id), keys.job_metrics(job_id)):
        stores.client.set(key, "garbage")
    stores.client.set(keys.dataset_jobs(stores.jobs.get(job_id).request.dataset_id), "garbage")
    stores.jobs.explain_wait(job_id, "needs 4 CPUs")
    claim = running(stores, job_id)
    stores.jobs.record(claim, kind="progress", event={}, epoch=an_epoch(1))
    save_checkpoint(stores, claim)
    stores.jobs.succeed(claim, "epochs_done", {}, ("mdl_0000000000000000000000000", "iris"))
    assert stores.jobs.get(job_id).state == "succeeded"
    with pytest.raises(CorruptRecord):
        stores.history.events(job_id)
    stores.jobs.delete(job_id)
    assert traces(stores, job_id) == set()


def test_damaged_metrics_do_not_keep_a_job_from_beginning_again(stores: Stores) -> None:
    claim = claimed(stores)
    stores.client.hset(keys.job_metrics(claim.job_id), "garbage", "garbage")
    stores.jobs.begin(claim)
    assert stores.history.metrics(claim.job_id) == []


@pytest.mark.parametrize("garbage", ["garbage", b"\x78\x9c\x00", NO_TEXT])
def test_a_damaged_history_is_told_of(stores: Stores, garbage: str | bytes) -> None:
    claim = running(stores)
    stores.jobs.end_cancelled(claim)
    stores.history.archive(claim.job_id)
    stores.client.set(keys.job_history(claim.job_id), garbage)
    for read in (stores.history.events, stores.history.metrics):
        with pytest.raises(CorruptRecord):
            read(claim.job_id)
    stores.client.sadd(keys.TO_ARCHIVE, claim.job_id)
    stores.history.archive(claim.job_id)
    assert stores.history.to_archive(9) == []


@pytest.mark.parametrize("member", [NO_TEXT, b"garbage"])
@pytest.mark.parametrize("place", [0.0, 2.0, float("inf"), float("-inf"), 1e300])
def test_what_was_put_into_a_list_by_hand_hides_nothing(stores: Stores, member: bytes, place: float) -> None:
    dataset_id = create(stores).id
    ids = [submit(stores, dataset_id, labels={"a": "b"}) for _ in range(3)]
    for index in (
        *(keys.JOBS, keys.DATASETS, keys.jobs_with_label("a:b"), keys.jobs_in_state("queued")),
        *(keys.jobs_in_state("running"), keys.jobs_in_state("failed"), keys.QUEUE, keys.SUPERVISORS),
    ):
        stores.client.zadd(index, {member: place})
    stores.client.sadd(keys.TO_ARCHIVE, member)
    stores.client.hset(keys.ACCESS_KEYS, member, "")
    for found in (stores.jobs.page(9), stores.jobs.page(9, state="queued"), stores.jobs.page(9, label="a:b")):
        assert [job.id for job in found.data] == ids[::-1]
    first = stores.jobs.page(2)
    while first.next_cursor and len(first.data) < 3:
        rest = stores.jobs.page(2, first.next_cursor)
        first.data.extend(rest.data)
        first = type(first)(first.data, rest.next_cursor)
    assert [job.id for job in first.data] == ids[::-1]
    both = stores.jobs.page(9, label="a:b", state="queued")
    assert [job.id for job in both.data] == ids[::-1]
    assert [dataset.id for dataset in stores.datasets.page(9).data] == [dataset_id]
    assert set(ids) <= set(stores.jobs.queue())
    assert stores.jobs.leases() == []
    assert set(stores.jobs.surplus(1, datetime.now(UTC))) <= {"garbage"}
    assert set(stores.history.to_archive(9)) <= {"garbage"}
    assert stores.supervisors.fresh() == []
    assert stores.access.digests() <= {"garbage"}


def test_the_jobs_of_a_label_in_one_state_are_found_without_reading_the_others(stores: Stores) -> None:
    dataset_id = create(stores).id
    wanted = [submit(stores, dataset_id, labels={"a": "b"}) for _ in range(3)]
    with stores.client.pipeline() as pipeline:
        for place in range(5000):
            pipeline.zadd(keys.jobs_with_label("a:b"), {f"other{place}": 10 + place})
        pipeline.execute()
    stores.client.config_resetstat()
    page = stores.jobs.page(1, label="a:b", state="queued")
    assert [job.id for job in page.data] == wanted[:1:-1]
    rest = stores.jobs.page(9, page.next_cursor, label="a:b", state="queued")
    assert ([job.id for job in rest.data], rest.next_cursor) == (wanted[1::-1], None)
    assert stores.client.info("commandstats")["cmdstat_hgetall"]["calls"] == 3


def test_a_search_that_finds_little_answers_in_parts(stores: Stores) -> None:
    wanted = submit(stores, labels={"a": "b"})
    with stores.client.pipeline() as pipeline:
        for place in range(25_000):
            pipeline.zadd(keys.jobs_with_label("a:b"), {f"other{place}": 10 + place})
        pipeline.execute()
    page = stores.jobs.page(1, label="a:b", state="queued")
    assert page.data == []
    assert page.next_cursor is not None
    page = stores.jobs.page(1, page.next_cursor, label="a:b", state="queued")
    assert [job.id for job in page.data] == [wanted]


def test_a_paused_job_does_not_go_back_into_a_full_queue(stores: Stores) -> None:
    dataset_id = create(stores).id
    paused = submit(stores, dataset_id)
    stores.jobs.pause(paused)
    waiting = submit(stores, dataset_id)
    with pytest.raises(Conflict) as caught:
        stores.jobs.resume(paused, max_queued=1)
    assert caught.value.stable_code == "queue_full"
    assert stores.jobs.get(paused).state == "paused"
    stores.jobs.cancel(waiting)
    stores.jobs.resume(paused, max_queued=1)
    assert stores.jobs.queue() == [paused]


# Data sets and models


@pytest.mark.parametrize("spoil", [lambda c, k: (c.delete(k), c.hset(k, "a", "b")), lambda c, k: c.set(k, "garbage")])
def test_a_damaged_data_set_can_be_removed(stores: Stores, spoil: Spoil) -> None:
    dataset = create(stores)
    spoil(stores.client, keys.dataset(dataset.id))
    with pytest.raises(CorruptRecord):
        stores.datasets.get(dataset.id)
    stores.datasets.delete(dataset.id)
    assert traces(stores, dataset.id) == set()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c, k: (c.delete(k), c.set(k, "garbage")),
        lambda c, k: (c.delete(k), c.hset(k, "garbage", "garbage")),
        lambda c, k: c.hset(k, "record", "garbage"),
        lambda c, k: c.hdel(k, "version"),
    ],
)
def test_a_damaged_model_is_told_of_and_can_be_removed(stores: Stores, spoil: Spoil) -> None:
    model, other = publish(stores), publish(stores)
    spoil(stores.client, keys.model(model.id))
    for read in (stores.models.get, stores.models.load):
        with pytest.raises(CorruptRecord) as caught:
            read(model.id)
        assert caught.value.stable_code == "model_corrupt"
    assert [found.id for found in stores.models.page(9).data] == [other.id]
    stores.models.delete(model.id)
    assert traces(stores, model.id) == set()
    assert stores.models.get(other.id) == other


def test_an_alias_of_a_damaged_model_points_to_nothing_once_that_is_removed(stores: Stores) -> None:
    model, other = publish(stores), publish(stores)
    for alias, pointed in (("canary", model), ("live", model), ("older", other)):
        stores.aliases.move("iris", alias, pointed.id)
    stores.client.hset(keys.model(model.id), "record", "garbage")
    stores.models.delete(model.id)
    assert traces(stores, model.id) == set()
    assert [alias.model_id for alias in stores.aliases.of_name("iris")] == [None, None, other.id]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c.set(keys.model_aliases("iris"), "garbage"),
        lambda c: c.hset(keys.model_aliases("iris"), "live", NO_TEXT),
        lambda c: c.hset(keys.model_aliases("iris"), NO_TEXT, "garbage"),
        lambda c: c.set(keys.alias_history("iris", "live"), "garbage"),
        lambda c: c.lpush(keys.alias_history("iris", "live"), "garbage", NO_TEXT),
    ],
)
def test_damaged_aliases_hide_no_model_and_hold_none(stores: Stores, spoil: Callable[[redis.Redis], object]) -> None:
    model = publish(stores)
    stores.aliases.move("iris", "live", model.id)
    spoil(stores.client)
    assert stores.models.get(model.id).id == model.id
    assert [found.id for found in stores.models.page(9).data] == [model.id]
    with suppress(CorruptRecord):
        stores.aliases.of_name("iris")
    stores.models.delete(model.id)
    assert stores.models.page(9).data == []


@pytest.mark.parametrize("spoil", [lambda c, k: c.set(k, "garbage"), lambda c, k: c.sadd(k, "garbage", NO_TEXT)])
def test_only_jobs_that_are_there_hold_a_data_set_and_a_model(stores: Stores, spoil: Spoil) -> None:
    dataset, model = create(stores), publish(stores)
    for key in (keys.dataset_jobs(dataset.id), keys.model_jobs(model.id)):
        spoil(stores.client, key)
    stores.datasets.delete(dataset.id)
    stores.models.delete(model.id)
    assert traces(stores, dataset.id) | traces(stores, model.id) == set()


# What supervisors do


@dataclass(eq=False)
class IdleChild:
    """A run that takes jobs and does nothing with them."""

    address: str = "ray"
    claim: Claim | None = None
    cpus: float = 0.0
    is_ready: bool = False
    heard: float = 0.0

    def give(self, claim: Claim, cpus: float) -> None:
        self.claim, self.cpus, self.is_ready = claim, cpus, False

    def kill(self) -> None:
        return

    def stop(self, seconds: float) -> None:
        del seconds


@dataclass
class Trial:
    """A supervisor with a clock of its own, whose runs are always ready."""

    stores: Stores
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.children: list[IdleChild] = []
        self.ready = threading.Event()
        settings = Settings(lease_seconds=10, max_attempts=1000, keep_jobs_days=1.0)
        self.supervisor = Supervisor(
            settings,
            self.stores,
            SteadyRay(),
            self._start_child,
            lambda: self.seconds,
            lambda: datetime.now(UTC) + timedelta(days=2),
            self.ready.set,
        )

    def _start_child(self, address: str, environment: Mapping[str, str], hear: Hear) -> IdleChild:
        del address, environment
        self.children.append(child := IdleChild())
        node = Node(id="n", address="127.0.0.1", cpus=100.0, memory_bytes=1, alive=True)
        messages: list[Message] = [Nodes((node,)), Ready()]
        for message in messages:
            hear(child, message)
        return child

    def steps(self, count: int = 8, seconds: float = 0.1) -> None:
        """So many steps, so far apart."""
        for _ in range(count):
            self.seconds += seconds
            self.supervisor.step()
            self.supervisor.listen(0)

    @property
    def started(self) -> list[str]:
        """The jobs that it gave to a run."""
        return [child.claim.job_id for child in self.children if child.claim]


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_damaged_job_at_the_head_of_the_queue_holds_up_nobody(stores: Stores, spoil: Spoil) -> None:
    first, second = submit(stores), submit(stores)
    spoil(stores.client, keys.job(first))
    stores.client.zadd(keys.QUEUE, {NO_TEXT: -1e9})
    trial = Trial(stores)
    trial.steps()
    assert second in trial.started
    assert first not in stores.jobs.queue()


def test_a_job_whose_start_fails_for_damage_beside_it_waits_and_holds_up_nobody_for_ever(stores: Stores) -> None:
    job_id = submit(stores)
    stores.client.set(keys.jobs_in_state("starting"), "garbage")
    with suppress(CorruptRecord):  # leases cannot be seen, either; `run` goes on
        Trial(stores).steps()
    assert stores.jobs.queue() == [job_id]
    stores.client.delete(keys.jobs_in_state("starting"))
    trial = Trial(stores)
    trial.steps()
    assert trial.started == [job_id]


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_damaged_job_does_not_keep_others_from_being_taken_over(
    stores: Stores, spoil: Spoil, caplog: pytest.LogCaptureFixture
) -> None:
    claims = [running(stores) for _ in range(3)]
    spoil(stores.client, keys.job(claims[0].job_id))
    stores.client.zadd(keys.jobs_in_state("running"), {NO_TEXT: 1})
    trial = Trial(stores)
    with caplog.at_level(logging.ERROR, "chainrule"):
        trial.steps(30, seconds=1.0)
    assert {claim.job_id for claim in claims[1:]} <= set(trial.started)
    assert sum(claims[0].job_id in record.getMessage() for record in caplog.records) <= 3


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_supervisor_keeps_its_other_jobs_when_one_is_damaged_and_lets_go_of_them(
    stores: Stores, spoil: Spoil
) -> None:
    first, second = submit(stores), submit(stores)
    trial = Trial(stores)
    trial.steps()
    assert trial.started == [first, second]
    spoil(stores.client, keys.job(first))
    trial.steps(30, seconds=1.0)
    assert second in trial.started
    assert [lease.fence for lease in stores.jobs.leases() if lease.job_id == second] == [1]
    trial.supervisor.stop()
    trial.supervisor.run()
    assert stores.jobs.get(second).state == "queued"


def test_a_supervisor_survives_what_nobody_foresaw(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(stores)
    report, failed = stores.supervisors.report, threading.Event()

    def fail_once(reported: SupervisorReport) -> None:
        if not failed.is_set():
            failed.set()
            raise ValueError(reported.id)
        trial.seconds += 10
        report(reported)

    monkeypatch.setattr(type(stores.supervisors), "report", lambda _, reported: fail_once(reported))
    monkeypatch.setattr("worker.supervisor._FAILED_SECONDS", 0.01)
    monkeypatch.setattr("worker.supervisor._REPORT_SECONDS", 0.0)
    thread = threading.Thread(target=trial.supervisor.run)
    thread.start()
    assert trial.ready.wait(20)
    trial.supervisor.stop()
    thread.join(20)
    assert failed.is_set()
    assert not thread.is_alive()


# What is tidied up


@pytest.mark.parametrize(
    "spoil",
    [
        *SPOILT.values(),
        lambda client, key: client.hset(key, "finished_at", "yesterday"),
        lambda client, key: client.set(f"{key}:history", "garbage"),
        lambda client, key: client.set(f"{key}:events", "garbage"),
        lambda client, key: client.hset(f"{key}:metrics", "one", NO_TEXT),
    ],
)
def test_a_damaged_job_does_not_keep_others_from_being_tidied_up(stores: Stores, spoil: Spoil) -> None:
    ids = []
    for _ in range(3):
        claim = running(stores)
        stores.jobs.fail(claim, JobError(code="diverged", message="grew"))
        ids.append(claim.job_id)
    spoil(stores.client, keys.job(ids[1]))
    settings = Settings(keep_jobs_days=1.0)
    Housekeeping(settings, stores, lambda: datetime.now(UTC)).tidy()
    assert not stores.client.exists(keys.job_events(ids[0]), keys.job_events(ids[2]))
    Housekeeping(settings, stores, lambda: datetime.now(UTC) + timedelta(days=2)).tidy()
    for job_id in (ids[0], ids[2]):
        with pytest.raises(NotFound):
            stores.jobs.get(job_id)


# Who waits for changes


def test_a_message_that_is_no_text_does_not_end_the_listening(stores: Stores) -> None:
    job_id = submit(stores)
    changes = Changes(stores.client, most=10)

    async def hear() -> None:
        with changes.of(job_id) as changed:
            changes.start()
            assert await changed.wait(10)  # it listens
            stores.client.publish(keys.CHANGES, NO_TEXT)
            stores.client.publish(keys.CHANGES, job_id)
            assert await changed.wait(10)

    try:
        asyncio.run(hear())
    finally:
        changes.stop()
        changes.join()
