"""What is tidied up: histories compressed, old jobs deleted, checkpoints of ended jobs removed; and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from common.errors import Conflict, NotFound
from common.identifiers import new_id
from common.schemas.jobs import JobError
from common.settings import Settings
from common.store import keys
from common.store.stores import Stores
from tests.contract import an_epoch, publish, running, save_checkpoint, submit, traces
from worker.housekeeping import Housekeeping


def housekeeping(stores: Stores, now: datetime | None = None, **settings: object) -> Housekeeping:
    return Housekeeping(Settings.model_validate(settings), stores, lambda: now or datetime.now(UTC))


def ended(stores: Stores) -> str:
    claim = running(stores)
    for epoch in range(1, 101):
        stores.jobs.record(claim, kind="progress", event={"epoch": epoch}, epoch=an_epoch(epoch))
    stores.jobs.end_cancelled(claim)
    return claim.job_id


def test_an_ended_job_is_compressed_and_reads_as_before(stores: Stores) -> None:
    job_id = ended(stores)
    before = stores.jobs.get(job_id), stores.history.events(job_id), stores.history.metrics(job_id)
    assert len(before[1]) == 104
    housekeeping(stores).tidy()
    assert (stores.jobs.get(job_id), stores.history.events(job_id), stores.history.metrics(job_id)) == before
    assert not stores.client.exists(keys.job_events(job_id), keys.job_metrics(job_id))
    assert stores.history.events(job_id, before[1][99].id) == before[1][100:]
    assert sum(stores.client.memory_usage(key) or 0 for key in stores.client.keys(f"*{job_id}*")) < 20_000
    housekeeping(stores).tidy()
    assert stores.history.events(job_id) == before[1]


def test_jobs_that_have_not_ended_are_left_alone(stores: Stores) -> None:
    waiting, claim = submit(stores), running(stores)
    save_checkpoint(stores, claim)
    before = stores.history.events(claim.job_id)
    housekeeping(stores, datetime.now(UTC) + timedelta(days=1000), keep_jobs=1, keep_jobs_days=1.0).tidy()
    assert stores.jobs.get(waiting).state == "queued"
    assert stores.history.events(claim.job_id) == before
    assert stores.files.jobs_with_checkpoints() == [claim.job_id]


def test_the_newest_ended_jobs_are_kept_and_no_model_is_lost(stores: Stores) -> None:
    model = publish(stores)
    ids = [model.job_id, *(ended(stores) for _ in range(4))]
    housekeeping(stores, keep_jobs=2).tidy()
    assert [job.id for job in stores.jobs.page(10).data] == ids[:2:-1]
    for job_id in ids[:3]:
        with pytest.raises(NotFound):
            stores.history.events(job_id)
    assert stores.models.get(model.id) == model
    assert not [key for key in stores.client.keys("*") if ids[0].encode() in key]


def test_jobs_are_kept_for_a_number_of_days(stores: Stores) -> None:
    job_id = ended(stores)
    now = datetime.now(UTC)
    housekeeping(stores, now + timedelta(days=1.9), keep_jobs_days=2.0).tidy()
    assert stores.jobs.get(job_id).state == "cancelled"
    housekeeping(stores, now + timedelta(days=2.1), keep_jobs_days=2.0).tidy()
    with pytest.raises(NotFound):
        stores.jobs.get(job_id)


def test_checkpoints_are_kept_while_somebody_may_need_them(stores: Stores) -> None:
    at_work, failed, done, gone = (running(stores) for _ in range(4))
    for claim in (at_work, failed, done, gone):
        save_checkpoint(stores, claim)
    stores.jobs.fail(failed, JobError(code="diverged", message="grew"))
    stores.jobs.end_cancelled(done)
    stores.jobs.end_cancelled(gone)
    stores.jobs.delete(gone.job_id)
    (stores.files.checkpoints(new_id("job"))).mkdir()
    housekeeping(stores).tidy()
    assert set(stores.files.jobs_with_checkpoints()) == {at_work.job_id, failed.job_id}


def test_a_damaged_record_does_not_keep_the_others_from_being_tidied(stores: Stores) -> None:
    damaged, whole = ended(stores), ended(stores)
    stores.client.hset(keys.job(damaged), "labels", "garbage")
    housekeeping(stores, keep_jobs=1).tidy()
    assert not stores.client.exists(keys.job_events(whole))
    stores.client.set(keys.job(damaged), "garbage")
    housekeeping(stores, keep_jobs=1).tidy()
    assert stores.jobs.get(whole).state == "cancelled"


def test_without_a_limit_every_version_of_a_model_is_kept(stores: Stores) -> None:
    models = [publish(stores) for _ in range(3)]
    housekeeping(stores).tidy()
    assert [model.id for model in stores.models.page(10).data] == [model.id for model in reversed(models)]


def test_the_newest_versions_of_each_name_are_kept_and_those_that_are_needed(stores: Stores) -> None:
    iris = [publish(stores) for _ in range(6)]
    wine = [publish(stores, "wine") for _ in range(2)]
    stores.aliases.move("iris", "live", iris[0].id)
    stores.aliases.move("iris", "canary", iris[5].id)
    job_id = submit(stores, base_model_id=iris[1].id)
    housekeeping(stores, keep_model_versions=2).tidy()
    kept = [model.version for model in stores.models.page(10, name="iris").data]
    assert kept == [6, 5, 2, 1]
    assert len(stores.models.page(10, name="wine").data) == len(wine)
    assert traces(stores, iris[2].id) == set()
    stores.jobs.cancel(job_id)
    stores.aliases.remove("iris", "live")
    housekeeping(stores, keep_model_versions=2).tidy()
    assert [model.version for model in stores.models.page(10, name="iris").data] == [6, 5]
    assert publish(stores).version == 7


def test_a_version_that_got_an_alias_in_between_is_spared(stores: Stores) -> None:
    old, _ = publish(stores), publish(stores)
    assert stores.models.surplus(1, 10) == [old.id]
    stores.aliases.move("iris", "live", old.id)
    with pytest.raises(Conflict):
        stores.models.delete(old.id, spare_aliased=True)
    assert stores.models.surplus(1, 10) == []
    assert stores.models.resolve("iris@live") == old.id


def test_old_versions_are_removed_some_at_a_time_the_oldest_first(stores: Stores) -> None:
    models = [publish(stores) for _ in range(5)]
    assert stores.models.surplus(1, 3) == [model.id for model in models[:3]]


def test_damaged_versions_and_aliases_keep_no_other_name_from_being_tidied(stores: Stores) -> None:
    broken, *_ = (publish(stores) for _ in range(3))
    wine = [publish(stores, "wine") for _ in range(3)]
    stores.client.set(keys.model_aliases("wine"), "garbage")
    stores.client.hset(keys.model(broken.id), "record", "garbage")
    housekeeping(stores, keep_model_versions=1).tidy()
    assert len(stores.models.page(10, name="iris").data) == 1
    assert len(stores.models.page(10, name="wine").data) == len(wine)
