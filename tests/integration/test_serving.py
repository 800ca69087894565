"""Models in the memory of an API process: bounded, loaded once, not stalling each other, and there while Redis is away."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from common.errors import NotFound, StoreUnavailable
from common.settings import Settings
from common.store import keys
from common.store.client import connect, impatient
from common.store.files import DataFolder
from common.store.models import ModelStore
from common.store.stores import Stores, open_stores
from service.app import create_app
from service.changes import Changes
from service.predictor import Predictor
from tests.contract import a_model, publish, running, submit
from tests.integration.test_api import GOOD, predict, refused
from tests.integration.test_store_away import OwnRedis, is_away, own

__all__ = ["own"]

MODELS = 1000
CACHED = 50


def predictor_over(stores: Stores, most_bytes: int = 1 << 30) -> Predictor:
    return Predictor(stores, open_stores(impatient(stores.client), stores.files), most_bytes)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of models as they are loaded from the store."""
    loaded: list[str] = []
    load = ModelStore.load

    def count(store: ModelStore, model_id: str) -> Any:
        loaded.append(model_id)
        return load(store, model_id)

    monkeypatch.setattr(ModelStore, "load", count)
    return loaded


def test_a_thousand_models_pass_through_a_cache_of_fifty_and_each_answers_as_itself(
    stores: Stores, counted: list[str]
) -> None:
    models = [a_model(seed=seed) for seed in range(MODELS)]
    for model in models:
        stores.models.publish(model)
    model_ids = [model.record.id for model in models]
    one = predictor_over(stores).find(model_ids[0]).network.nbytes
    predictor = predictor_over(stores, CACHED * one)
    counted.clear()
    answers = [predictor.find(model_id).network.predict([GOOD])[0].probabilities for model_id in model_ids]
    assert len({str(answer) for answer in answers}) == MODELS
    assert counted == model_ids
    assert [model_id for model_id in model_ids if predictor.recall(model_id)] == model_ids[-CACHED:]
    again = predictor.find(model_ids[0]).network.predict([GOOD])[0].probabilities
    assert again == answers[0]
    assert predictor.recall(model_ids[-CACHED]) is None  # the longest unused made room


def test_a_model_larger_than_the_cache_still_answers(stores: Stores) -> None:
    first, second = publish(stores), publish(stores, seed=1)
    predictor = predictor_over(stores, most_bytes=0)
    for model in (first, second):
        assert predictor.find(model.id).network.predict([GOOD])
        assert predictor.recall(model.id) is not None
    assert predictor.recall(first.id) is None


def test_many_who_ask_for_a_model_at_once_cause_one_loading(stores: Stores, counted: list[str]) -> None:
    model = publish(stores)
    predictor = predictor_over(stores)
    start = threading.Barrier(8)

    def ask(_: int) -> Any:
        start.wait()
        return predictor.find(model.id).network

    with ThreadPoolExecutor(8) as pool:
        networks = list(pool.map(ask, range(8)))
    assert counted == [model.id]
    assert all(network is networks[0] for network in networks)


def test_a_model_that_is_deleted_while_it_is_loaded_is_not_kept(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, predictor = publish(stores), predictor_over(stores)
    load = ModelStore.load

    def deleted_meanwhile(store: ModelStore, model_id: str) -> Any:
        loaded = load(store, model_id)
        stores.models.delete(model_id)
        predictor.forget(model_id)
        return loaded

    monkeypatch.setattr(ModelStore, "load", deleted_meanwhile)
    assert predictor.find(model.id).network.predict([GOOD])  # which was asked before
    with pytest.raises(NotFound):
        predictor.find(model.id)


def test_a_model_whose_end_was_not_heard_of_is_forgotten_as_soon_as_the_store_is_heard_again(stores: Stores) -> None:
    kept, gone = publish(stores), publish(stores, seed=1)
    predictor = predictor_over(stores)
    changes = Changes(stores.client, 1, predictor.forget, predictor.look_again)
    for model in (kept, gone):
        assert predictor.find(model.id).network.predict([GOOD])
    changes.start()
    try:
        wait_for(lambda: stores.client.pubsub_numsub(keys.CHANGES)[0][1] == 1)
        with stores.client.pipeline(transaction=True) as pipeline:  # nobody hears what happens in between
            pipeline.client_kill_filter(_type="pubsub")
            pipeline.unlink(keys.model(gone.id))
            pipeline.publish(keys.CHANGES, gone.id)
            pipeline.execute()
        wait_for(lambda: predictor.recall(gone.id) is None)
        assert predictor.recall(kept.id) is not None
    finally:
        changes.stop()
        changes.join()


def wait_for(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_while_one_model_loads_others_answer(api: TestClient, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    ready, slow = publish(stores), publish(stores, seed=1)
    assert predict(api, ready.id, [GOOD]).status_code == 200
    loading, release = threading.Event(), threading.Event()
    load = ModelStore.load

    def slowly(store: ModelStore, model_id: str) -> Any:
        loading.set()
        assert release.wait(30)
        return load(store, model_id)

    monkeypatch.setattr(ModelStore, "load", slowly)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(predict, api, slow.id, [GOOD])
        assert loading.wait(30)
        for _ in range(20):
            assert predict(api, ready.id, [GOOD]).status_code == 200
        assert not asked.done()
        release.set()
        assert asked.result().status_code == 200


def test_a_damaged_model_is_a_problem_of_its_own_alone(api: TestClient, stores: Stores) -> None:
    good, bad = publish(stores), publish(stores, seed=1)
    stores.client.hset(keys.model(bad.id), "sha256", "0" * 64)
    for _ in range(2):
        refused(predict(api, bad.id, [GOOD]), 500, "model_corrupt")
        assert predict(api, good.id, [GOOD]).status_code == 200


# While Redis is away


@pytest.fixture
def away_stores(own: OwnRedis, tmp_path: Path) -> Iterator[Stores]:
    """Stores over a Redis that a test may do anything to."""
    files = DataFolder(tmp_path / "data")
    files.prepare()
    with closing(connect(own.url, retries=1, timeout=0.2)) as client:
        yield open_stores(client, files)


@pytest.mark.parametrize(
    ("how", "seconds"),
    [
        pytest.param(signal.SIGKILL, 0, id="gone"),
        pytest.param(signal.SIGSTOP, 0, id="frozen"),
        pytest.param(signal.SIGKILL, 120, id="gone for two minutes", marks=pytest.mark.slow),
        pytest.param(signal.SIGSTOP, 120, id="frozen for two minutes", marks=pytest.mark.slow),
    ],
)
def test_models_in_memory_answer_by_id_name_alias_version_and_job_while_redis_is_away(
    own: OwnRedis, away_stores: Stores, tmp_path: Path, how: signal.Signals, seconds: float
) -> None:
    model, unknown = publish(away_stores), publish(away_stores, "wine", seed=1)
    away_stores.aliases.move("iris", "live", model.id)
    references = [model.id, "iris", "iris@1", "iris@live", model.job_id]
    app = create_app(Settings(redis_url=own.url, state_dir=tmp_path), away_stores)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as api:
        before = predict(api, model.id, [GOOD]).json()
        for reference in references:
            assert predict(api, reference, [GOOD]).json() == before
        own.send(how)
        start, rounds = time.monotonic(), 0
        while rounds < 3 or time.monotonic() < start + seconds:
            rounds += 1
            for reference in references:
                answer = predict(api, reference, [GOOD])
                assert (answer.status_code, answer.json()) == (200, before)
        assert (time.monotonic() - start) / rounds < 5
        is_away(lambda: predict(api, "wine", [GOOD]))
        is_away(lambda: predict(api, unknown.id, [GOOD]))
        if how == signal.SIGKILL:
            own.stop()
            own.start()
        else:
            own.send(signal.SIGCONT)
        newer = publish(away_stores, seed=2)
        assert predict(api, "iris", [GOOD]).json()["model_id"] == newer.id
        assert predict(api, "wine", [GOOD]).json()["model_id"] == unknown.id


def test_a_name_that_is_gone_is_not_remembered(own: OwnRedis, away_stores: Stores) -> None:
    model = publish(away_stores)
    predictor = predictor_over(away_stores)
    assert predictor.find("iris").id == model.id
    away_stores.models.delete(model.id)
    refused_reference(predictor)
    own.kill()
    with pytest.raises(StoreUnavailable):
        predictor.find("iris")


def refused_reference(predictor: Predictor) -> None:
    with pytest.raises(Exception, match="no such model"):
        predictor.find("iris")


def test_what_a_running_job_has_learned_is_asked_of_redis_every_time(own: OwnRedis, away_stores: Stores) -> None:
    job_id = submit(away_stores)
    running(away_stores, job_id)
    predictor = predictor_over(away_stores)
    with pytest.raises(Exception, match="no weights yet"):
        predictor.find(job_id)
    own.kill()
    with pytest.raises(StoreUnavailable):
        predictor.find(job_id)
