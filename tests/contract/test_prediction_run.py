"""Runs that predict, over real stores: every form of columns and targets, and a death at every step."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from common.errors import FenceLost, NotFound, StorageFull
from common.features.numbers import Scaled
from common.features.target import NumberTarget, Target
from common.identifiers import new_id
from common.learned import LearnedNetwork
from common.schemas.batch_predictions import BatchPredictionRequest
from common.schemas.datasets import Dataset
from common.schemas.jobs import PredictionJob
from common.schemas.losses import Loss, MeanSquaredError
from common.schemas.models import Model
from common.settings import Settings
from common.store.client import connect
from common.store.files import BucketFolder, DataFolder
from common.store.jobs import Claim
from common.store.stores import Stores, open_stores, utc_now
from service.describing.description import describe
from tests.contract import a_dataset
from tests.contract.test_files import BIG, a_bucket
from tests.learned import EVERY_FORM, TARGETS, publish_network
from tests.unit.test_prediction_table import answers_of, random_rows
from worker import prediction_run
from worker.housekeeping import Housekeeping
from worker.prediction_file import PredictionFile
from worker.prediction_run import PredictionRun

ROWS = 3000
AGE = Scaled(name="age", kind="numeric", mean=40.0, scale=12.0)


@pytest.fixture(autouse=True)
def _some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_run, "_FIRST_ROWS", 100)
    monkeypatch.setattr(prediction_run, "table_height", lambda _: 700)


def store(stores: Stores, frame: pl.DataFrame, name: str = "people") -> Dataset:
    """A data set with its rows."""
    dataset = a_dataset(name, rows=frame.height)
    path = stores.files.dataset(dataset.id)
    frame.write_parquet(path)
    dataset = dataset.model_copy(update={"columns": describe(path).columns})
    stores.files.keep_dataset(dataset.id)
    stores.datasets.create(dataset)
    return dataset


def claimed(stores: Stores, dataset: Dataset, model: Model) -> Claim:
    request = BatchPredictionRequest(dataset_id=dataset.id, model_id=model.id)
    created = stores.jobs.submit(new_id("job"), request, model.task, max_queued=10)
    claim = stores.jobs.claim(created.id)
    assert claim is not None
    return claim


def simple(stores: Stores) -> tuple[Claim, Dataset]:
    """A job over ages, and the data set of these."""
    dataset = store(stores, pl.DataFrame({"age": np.random.default_rng(0).normal(40, 12, ROWS)}))
    return claimed(stores, dataset, publish_network(stores, [AGE], *TARGETS[4])), dataset


def never() -> None:
    raise AssertionError("the run has given up")


def result_of(stores: Stores, job_id: str) -> tuple[Dataset, pl.DataFrame]:
    job = stores.jobs.get(job_id)
    assert isinstance(job, PredictionJob)
    assert (job.state, job.stop_reason) == ("succeeded", "rows_done"), job.error
    assert job.progress is not None
    assert (job.progress.fraction, job.progress.eta_seconds) == (1.0, 0.0)
    assert job.result_dataset_id is not None
    result = stores.datasets.get(job.result_dataset_id)
    with stores.files.rows(result.id) as rows:
        return result, pl.read_parquet(rows)


def nothing_is_left(stores: Stores, *known: str) -> None:
    """Tidies up; only the rows of these data sets are there."""
    Housekeeping(Settings(), stores, utc_now).tidy()
    assert stores.files.drafts() == []
    assert {file.stem for file in (stores.files.root / "datasets").iterdir()} == set(known)


# What comes out


@pytest.mark.parametrize(("target", "loss"), TARGETS)
def test_every_form_of_column_is_predicted_row_for_row(stores: Stores, target: Target, loss: Loss) -> None:
    _, instances = random_rows(ROWS)
    frame = pl.DataFrame(instances, infer_schema_length=None).with_columns(pl.col("since").str.to_date())
    model = publish_network(stores, EVERY_FORM, target, loss)
    dataset = store(stores, frame.select(pl.lit(1).alias("more"), pl.all().reverse()))
    claim = claimed(stores, dataset, model)
    PredictionRun(stores, claim, never).run()
    result, rows = result_of(stores, claim.job_id)
    found = stores.models.load(model.id)
    expected = answers_of(LearnedNetwork.load(found.document, found.weights), instances[::-1])
    assert rows.columns == [column.name for column in result.columns] == list(expected)
    assert (result.rows, result.name, result.version, result.format) == (ROWS, "people-predictions", 1, "parquet")
    for column in result.columns:
        values = rows[column.name]
        assert column.missing == values.null_count() == 0
        assert column.distinct == values.n_unique()
        if column.name == "label":
            assert values.to_list() == expected["label"]
        else:
            assert values.dtype == pl.Float64
            np.testing.assert_allclose(values, expected[column.name], rtol=1e-5, atol=1e-6)
            assert column.mean == pytest.approx(values.mean())
    nothing_is_left(stores, dataset.id, result.id)


def test_an_input_without_any_value_is_missing_in_every_row(stores: Stores) -> None:
    dataset = store(stores, pl.DataFrame({"age": pl.Series([None] * 10, dtype=pl.String)}))
    claim = claimed(stores, dataset, publish_network(stores, [AGE], *TARGETS[3]))
    PredictionRun(stores, claim, never).run()
    assert result_of(stores, claim.job_id)[1]["value"].n_unique() == 1


def test_the_name_of_a_result_is_no_longer_than_names_are(stores: Stores) -> None:
    dataset = store(stores, pl.DataFrame({"age": [1.0]}), "名" * 200)
    claim = claimed(stores, dataset, publish_network(stores, [AGE], *TARGETS[3]))
    PredictionRun(stores, claim, never).run()
    assert result_of(stores, claim.job_id)[0].name == "名" * 188 + "-predictions"


def test_rows_and_result_may_lie_in_a_bucket(stores: Stores, bucket: str, tmp_path: Path) -> None:
    here, there = (
        replace(stores, files=BucketFolder(tmp_path / name, a_bucket(bucket), BIG)) for name in ("here", "there")
    )
    here.files.prepare()
    claim, dataset = simple(here)
    PredictionRun(there, claim, never).run()
    result, rows = result_of(here, claim.job_id)
    assert rows.height == ROWS
    assert there.files.drafts() == []
    here.files.sweep(here.datasets.is_known)
    for known in (dataset, result):
        with here.files.rows(known.id) as path:
            assert path.exists()


def test_a_run_that_wakes_up_too_late_leaves_nothing_in_a_bucket(
    stores: Stores, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_of = a_bucket(bucket)
    here, there = (replace(stores, files=BucketFolder(tmp_path / name, store_of, BIG)) for name in ("here", "there"))
    here.files.prepare()
    claim, dataset = simple(here)
    keep = there.files.keep_draft

    def late(dataset_id: str, path: Path) -> None:
        here.jobs.requeue(claim, "Its supervisor fell silent.")
        Housekeeping(Settings(), here, utc_now).tidy()
        keep(dataset_id, path)

    monkeypatch.setattr(prediction_run, "LOOK_SECONDS", 60)
    monkeypatch.setattr(there.files, "keep_draft", late)
    with pytest.raises(FenceLost):
        PredictionRun(there, claim, never).run()
    assert store_of.names("datasets") == [f"{dataset.id}.parquet"]


# What keeps it from its end


def after(calls: int, act: Callable[[], object]) -> Callable[[], float]:
    """A clock that does something when it is looked at for the last of so many times."""
    ticks = count(1)

    def clock() -> float:
        tick = next(ticks)
        if tick == calls:
            act()
        return float(tick)

    return clock


def test_a_cancel_ends_it_after_the_rows_at_work(stores: Stores) -> None:
    claim, dataset = simple(stores)
    PredictionRun(stores, claim, never, after(10, lambda: stores.jobs.cancel(claim.job_id))).run()
    job = stores.jobs.get(claim.job_id)
    assert (job.state, job.stop_reason, job.result_dataset_id) == ("cancelled", "cancelled", None)
    assert job.progress is not None
    assert 0 < job.progress.fraction < 1
    nothing_is_left(stores, dataset.id)


def test_a_cancel_while_the_result_is_made_ends_it(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    claim, dataset = simple(stores)
    gave_up, finish = threading.Event(), PredictionFile.finish

    def slowly(file: PredictionFile) -> Path:
        stores.jobs.cancel(claim.job_id)
        assert gave_up.wait(10)
        return finish(file)

    monkeypatch.setattr(PredictionFile, "finish", slowly)
    with pytest.raises(FenceLost):  # in a process of its own it would have ended by now
        PredictionRun(stores, claim, gave_up.set).run()
    job = stores.jobs.get(claim.job_id)
    assert (job.state, job.result_dataset_id) == ("cancelled", None)
    nothing_is_left(stores, dataset.id)


def test_a_cancel_in_the_very_last_moment_publishes_nothing(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    claim, dataset = simple(stores)
    keep = stores.files.keep_draft

    def and_cancel(dataset_id: str, path: Path) -> None:
        keep(dataset_id, path)
        monkeypatch.setattr(PredictionRun, "_look", lambda _: None)  # which has looked just before
        stores.jobs.cancel(claim.job_id)

    monkeypatch.setattr(prediction_run, "LOOK_SECONDS", 60)
    monkeypatch.setattr(stores.files, "keep_draft", and_cancel)
    PredictionRun(stores, claim, never).run()
    assert stores.jobs.get(claim.job_id).state == "cancelled"
    nothing_is_left(stores, dataset.id)


def test_a_run_whose_job_has_passed_on_stops_and_leaves_nothing(stores: Stores) -> None:
    claim, dataset = simple(stores)
    run = PredictionRun(stores, claim, never, after(10, lambda: stores.jobs.requeue(claim, "lost")))
    with pytest.raises(FenceLost):
        run.run()
    assert stores.jobs.get(claim.job_id).state == "queued"
    nothing_is_left(stores, dataset.id)


def failed(stores: Stores, frame: pl.DataFrame, model: Model) -> str:
    claim = claimed(stores, store(stores, frame), model)
    PredictionRun(stores, claim, never).run()
    error = stores.jobs.get(claim.job_id).error
    assert error is not None
    assert error.code == "bad_data"
    return error.message


def test_a_row_that_cannot_be_predicted_is_named(stores: Stores) -> None:
    ages = np.zeros(ROWS)
    ages[2500] = 1e30
    big = publish_network(stores, [AGE], NumberTarget(mean=0, scale=1e300), MeanSquaredError())
    assert failed(stores, pl.DataFrame({"age": ages}), big).startswith("row 2501: ")
    ages[2500] = 1e300
    assert failed(stores, pl.DataFrame({"age": ages}), big).startswith("row 2501, column age: ")
    careful = publish_network(stores, [AGE.model_copy(update={"refuses_missing": True})], *TARGETS[3])
    assert failed(stores, pl.DataFrame({"age": [1.0, None]}), careful).startswith("row 2, column age: ")


def test_damaged_rows_are_told_of(stores: Stores) -> None:
    claim, dataset = simple(stores)
    file = stores.files.dataset(dataset.id)
    file.write_bytes(file.read_bytes()[:4000])
    PredictionRun(stores, claim, never).run()
    error = stores.jobs.get(claim.job_id).error
    assert error is not None
    assert (error.code, error.message) == ("bad_data", "The rows of the data set are damaged.")


def test_a_full_disk_is_told_of(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    claim, _ = simple(stores)
    draft = stores.files.draft

    def full(dataset_id: str) -> Path:
        folder = draft(dataset_id)
        (folder / "0.part").symlink_to("/dev/full")
        return folder

    monkeypatch.setattr(stores.files, "draft", full)
    with pytest.raises(StorageFull):
        PredictionRun(stores, claim, never).run()
    assert stores.files.drafts() == []


# A death at every step


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def behind(act: Callable[..., object]) -> Callable[..., object]:
    def act_and_die(*arguments: object) -> None:
        act(*arguments)
        die()

    return act_and_die


def run_and_die(url: str, root: Path, claim: Claim, place: str) -> None:
    """A process that ends as the machine would end it."""
    with closing(connect(url, retries=1)) as client:
        stores = open_stores(client, DataFolder(root))
        run: Any = prediction_run
        run.table_height = lambda _: 700
        jobs: Any = stores.jobs
        files: Any = stores.files
        parts: Any = PredictionFile
        match place:
            case "with a part written":
                parts._write_part = behind(parts._write_part)
            case "with all parts written":
                parts.finish = die
            case "with the whole file written":
                files.keep_draft = die
            case "with the rows in their place":
                jobs.succeed_predicting = die
            case "with the result published":
                jobs.succeed_predicting = behind(jobs.succeed_predicting)
        PredictionRun(stores, claim, never).run()


@pytest.mark.parametrize(
    "place",
    [
        "with a part written",
        pytest.param("with all parts written", marks=pytest.mark.slow),
        pytest.param("with the whole file written", marks=pytest.mark.slow),
        "with the rows in their place",
        "with the result published",
    ],
)
def test_a_run_may_die_at_any_step_and_there_is_one_result(stores: Stores, redis_url: str, place: str) -> None:
    claim, dataset = simple(stores)
    victim = multiprocessing.get_context("spawn").Process(
        target=run_and_die, args=(redis_url, stores.files.root, claim, place)
    )
    victim.start()
    victim.join(60)
    assert victim.exitcode == -signal.SIGKILL
    published = place == "with the result published"
    assert (stores.jobs.get(claim.job_id).state == "succeeded") == published
    datasets = 2  # with that of the model's training
    assert len(stores.datasets.page(10).data) == datasets + published
    if not published:
        assert stores.jobs.requeue(claim, "its run was lost")
        again = stores.jobs.claim(claim.job_id)
        assert again is not None
        PredictionRun(stores, again, never).run()
    result, rows = result_of(stores, claim.job_id)
    assert rows.height == ROWS
    assert [one.id for one in stores.datasets.page(10).data][:-datasets] == [result.id]
    nothing_is_left(stores, dataset.id, result.id)


def test_rows_that_are_gone_fail_the_job(stores: Stores) -> None:
    claim, dataset = simple(stores)
    stores.files.discard_dataset(dataset.id)
    PredictionRun(stores, claim, never).run()
    assert stores.jobs.get(claim.job_id).state == "failed"
    with pytest.raises(NotFound), stores.files.rows(dataset.id):
        pass
