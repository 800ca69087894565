"""Jobs that predict a whole data set, in the store: what they hold on to, and how their result is published."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from common.errors import ChainruleError, Conflict, FenceLost, NotFound
from common.identifiers import new_id
from common.schemas.batch_predictions import BatchPredictionRequest
from common.schemas.datasets import Dataset
from common.schemas.jobs import JobError, PredictionJob, PredictionProgress, TrainingJob
from common.settings import Settings
from common.store import keys
from common.store.client import connect
from common.store.jobs import Claim
from common.store.stores import Stores, open_stores, utc_now
from tests.contract import a_dataset, create, publish, running, submit
from tests.contract.test_job_store import ForgetfulProxy
from worker.housekeeping import Housekeeping

HALF = PredictionProgress(fraction=0.5, rows_seen=50, rows=100, rows_per_second=10.0, eta_seconds=5.0)


def predict(stores: Stores, dataset_id: str | None = None, model_id: str | None = None) -> str:
    """A queued job."""
    request = BatchPredictionRequest(
        dataset_id=dataset_id or create(stores).id, model_id=model_id or publish(stores).id, labels={"team": "a"}
    )
    return stores.jobs.submit(new_id("job"), request, "classification", max_queued=10).id


def predicting(stores: Stores, job_id: str | None = None) -> tuple[Claim, Dataset]:
    """A job that runs, and the data set that it is writing, of which some rows are on the disk."""
    claim = stores.jobs.claim(job_id or predict(stores))
    assert claim is not None
    result = a_dataset("iris-predictions")
    stores.jobs.draft(claim, result.id)
    (stores.files.draft(result.id) / "0.part").write_bytes(b"rows")
    stores.jobs.begin(claim, HALF)
    return claim, result


def write_rows(stores: Stores, result: Dataset) -> None:
    """What a run does before it ends its job."""
    whole = stores.files.root / "drafts" / result.id / "whole.parquet"
    whole.write_bytes(b"all rows")
    stores.files.keep_draft(result.id, whole)


def tidy(stores: Stores) -> None:
    Housekeeping(Settings(), stores, utc_now).tidy()


def test_a_job_tells_what_it_is_there_for(stores: Stores) -> None:
    model, dataset = publish(stores), create(stores)
    claim, _ = predicting(stores, predict(stores, dataset.id, model.id))
    stores.jobs.record(claim, kind="progress", event={"rows_seen": 50}, progress=HALF)
    job = stores.jobs.get(claim.job_id)
    assert isinstance(job, PredictionJob)
    assert (job.kind, job.task, job.progress, job.labels) == ("prediction", "classification", HALF, {"team": "a"})
    assert (job.request.dataset_id, job.request.model_id) == (dataset.id, model.id)
    assert (job.model_id, job.result_dataset_id, job.workers) == (None, None, 1)
    assert job in stores.jobs.page(10).data
    assert stores.jobs.page(10, label="team:a").data == [job]


def test_a_job_of_an_earlier_version_is_one_that_trains(stores: Stores) -> None:
    job_id = submit(stores)
    before = stores.jobs.get(job_id)
    assert stores.client.hdel(keys.job(job_id), "kind") == 1
    assert stores.jobs.get(job_id) == before
    assert isinstance(before, TrainingJob)
    assert stores.jobs.kind(job_id) == "training"


def test_the_result_is_published_in_the_step_that_ends_the_job(stores: Stores) -> None:
    create(stores, "iris-predictions")
    claim, result = predicting(stores)
    assert result.id not in [dataset.id for dataset in stores.datasets.page(10).data]
    stores.jobs.succeed_predicting(claim, result)
    job = stores.jobs.get(claim.job_id)
    assert (job.state, job.stop_reason, job.metrics) == ("succeeded", "rows_done", {})
    assert (job.model_id, job.result_dataset_id) == (None, result.id)
    assert stores.datasets.get(result.id) == result.model_copy(update={"version": 2})
    assert stores.datasets.page(10).data[0].id == result.id
    assert stores.history.events(job.id)[-1].data == {
        "state": "succeeded",
        "stop_reason": "rows_done",
        "result_dataset_id": result.id,
    }


def test_a_success_whose_answer_was_lost_is_applied_once(redis_url: str, stores: Stores, tmp_path: Path) -> None:
    claim, result = predicting(stores)
    address = str(tmp_path / "proxy.sock")
    proxy = ForgetfulProxy(redis_url.removeprefix("unix://"), address)
    with closing(connect(f"unix://{address}", retries=3)) as client:
        shaky = open_stores(client, stores.files)
        client.ping()
        proxy.drop = True
        shaky.jobs.succeed_predicting(claim, result)
    proxy.close()
    assert proxy.dropped == 1
    assert [(found.name, found.version) for found in stores.datasets.page(1).data] == [("iris-predictions", 1)]


def test_nothing_is_published_by_an_earlier_holder_or_after_a_cancel(stores: Stores) -> None:
    old, lost = predicting(stores)
    stores.jobs.requeue(old, "lost")
    new, result = predicting(stores, old.job_id)
    with pytest.raises(FenceLost):
        stores.jobs.succeed_predicting(old, lost)
    with pytest.raises(FenceLost):
        stores.jobs.draft(old, lost.id)
    with pytest.raises(FenceLost):
        stores.jobs.record(old, progress=HALF)
    stores.jobs.cancel(new.job_id)
    with pytest.raises(Conflict):
        stores.jobs.succeed_predicting(new, result)
    stores.jobs.end_cancelled(new)
    for dataset in (lost, result):
        with pytest.raises(NotFound):
            stores.datasets.get(dataset.id)
    assert stores.jobs.get(new.job_id).result_dataset_id is None


def end_well(stores: Stores, claim: Claim, result: Dataset) -> None:
    stores.jobs.succeed_predicting(claim, result)


def end_cancelled(stores: Stores, claim: Claim, _: Dataset) -> None:
    stores.jobs.end_cancelled(claim)


def end_failed(stores: Stores, claim: Claim, _: Dataset) -> None:
    stores.jobs.fail(claim, JobError(code="bad_data", message="row 7"))


@pytest.mark.parametrize("end", [end_well, end_cancelled, end_failed])
def test_data_set_and_model_are_held_until_the_job_has_ended(
    stores: Stores, end: Callable[[Stores, Claim, Dataset], None]
) -> None:
    model, dataset = publish(stores), create(stores)
    claim, result = predicting(stores, predict(stores, dataset.id, model.id))
    with pytest.raises(Conflict) as caught:
        stores.datasets.delete(dataset.id)
    assert caught.value.stable_code == "dataset_in_use"
    with pytest.raises(Conflict) as caught:
        stores.models.delete(model.id)
    assert caught.value.stable_code == "model_in_use"
    end(stores, claim, result)
    stores.datasets.delete(dataset.id)
    stores.models.delete(model.id)


def test_what_is_gone_cannot_be_asked_for(stores: Stores) -> None:
    with pytest.raises(NotFound) as caught:
        predict(stores, new_id("ds"))
    assert caught.value.stable_code == "dataset_not_found"
    with pytest.raises(NotFound) as caught:
        predict(stores, None, new_id("mdl"))
    assert caught.value.stable_code == "model_not_found"


def test_only_a_training_can_be_paused_or_run_again(stores: Stores) -> None:
    job_id = predict(stores)
    for ask in (lambda: stores.jobs.pause(job_id), lambda: stores.jobs.given(job_id)):
        with pytest.raises(ChainruleError) as caught:
            ask()
        assert caught.value.stable_code == "job_not_training"
    assert stores.jobs.get(job_id).state == "queued"


# Drafts


def test_a_draft_is_kept_while_its_run_may_publish_it(stores: Stores) -> None:
    claim, result = predicting(stores)
    assert stores.datasets.is_known(result.id)
    tidy(stores)
    assert stores.files.drafts() == [result.id]
    write_rows(stores, result)
    tidy(stores)
    stores.files.sweep(stores.datasets.is_known)
    with stores.files.rows(result.id) as rows:
        assert rows.read_bytes() == b"all rows"
    stores.jobs.succeed_predicting(claim, result)
    assert not stores.datasets.is_draft(result.id)
    tidy(stores)
    stores.files.sweep(stores.datasets.is_known)
    with stores.files.rows(result.id) as rows:
        assert rows.read_bytes() == b"all rows"


def requeue(stores: Stores, claim: Claim) -> None:
    stores.jobs.requeue(claim, "lost")


def run_anew(stores: Stores, claim: Claim) -> None:
    requeue(stores, claim)
    predicting(stores, claim.job_id)


def cancel(stores: Stores, claim: Claim) -> None:
    stores.jobs.end_cancelled(claim)


def cancel_and_delete(stores: Stores, claim: Claim) -> None:
    cancel(stores, claim)
    stores.jobs.delete(claim.job_id)


@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize("happen", [requeue, run_anew, cancel, cancel_and_delete])
def test_what_a_run_leaves_unpublished_is_removed(
    stores: Stores, happen: Callable[[Stores, Claim], None], *, is_whole: bool
) -> None:
    claim, result = predicting(stores)
    if is_whole:
        write_rows(stores, result)
    happen(stores, claim)
    kept = [draft for draft in stores.files.drafts() if draft != result.id]
    tidy(stores)
    assert stores.files.drafts() == kept
    assert not stores.datasets.is_known(result.id)
    with pytest.raises(NotFound), stores.files.rows(result.id):
        pass


def test_a_draft_that_another_machine_has_removed_is_removed_here_too(stores: Stores) -> None:
    claim, result = predicting(stores)
    cancel(stores, claim)
    stores.datasets.forget_draft(result.id)
    tidy(stores)
    assert stores.files.drafts() == []


def test_a_draft_that_was_published_after_it_was_looked_for_is_not_removed(stores: Stores) -> None:
    claim, result = predicting(stores)
    write_rows(stores, result)
    stores.jobs.succeed_predicting(claim, result)
    stores.client.hset(keys.DATASET_DRAFTS, result.id, claim.job_id)  # as a look saw it that began before
    tidy(stores)
    assert not stores.datasets.is_draft(result.id)
    with stores.files.rows(result.id) as rows:
        assert rows.exists()


def test_damaged_drafts_stop_nothing_else(stores: Stores) -> None:
    ended = running(stores)
    stores.jobs.end_cancelled(ended)
    claim, _ = predicting(stores)
    stores.client.hset(keys.DATASET_DRAFTS, "no data set", "no job")
    tidy(stores)
    assert stores.history.to_archive(10) == []
    assert stores.jobs.get(claim.job_id).state == "running"
