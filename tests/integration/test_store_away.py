"""Redis killed, frozen, full, read-only, flushed or set to forget: what callers see, and that nothing acknowledged is lost."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient

from common.errors import CannotStart
from common.settings import Settings
from common.store.client import connect, explain
from common.store.files import DataFolder
from common.store.jobs import JobStore
from common.store.stores import Stores, open_stores
from service.__main__ import _RETRIES
from service.app import create_app
from service.redis_server import check_redis, start_redis
from tests.contract import create, publish, submit
from tests.integration.test_api import CSV, GOOD, files_in, listed, predict, quick_parser, refused, request_of, upload

__all__ = ["quick_parser"]

PATIENCE = 3.0
"""How long a caller waits at most to be told that the store is away."""


class OwnRedis:
    """A Redis that a test may do anything to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self.url = f"unix://{folder / 'redis.sock'}"
        self.start()

    def start(self) -> None:
        """Starts it, over what an earlier one left on disk."""
        self._process = start_redis(self._folder / "redis", self._folder / "redis.sock", self._folder / "redis.log", {})

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL: it says no word more."""
        self.send(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def stop(self) -> None:
        """Ends it, frozen or not."""
        assert self._process is not None
        if self._process.poll() is None:
            self.kill()

    def configure(self, name: str, value: str) -> None:
        """CONFIG SET."""
        with closing(connect(self.url, retries=0)) as client:
            client.config_set(name, value)


@pytest.fixture
def own() -> Iterator[OwnRedis]:
    with tempfile.TemporaryDirectory(prefix="cr", dir="/tmp") as folder:
        server = OwnRedis(Path(folder))
        yield server
        server.stop()


@pytest.fixture
def stores(own: OwnRedis, tmp_path: Path) -> Iterator[Stores]:
    """Stores as an API process opens them, but less patient with a server that is silent."""
    files = DataFolder(tmp_path / "data")
    files.prepare()
    with closing(connect(own.url, retries=_RETRIES, timeout=0.1)) as client:
        yield open_stores(client, files)


@pytest.fixture
def api(own: OwnRedis, stores: Stores, tmp_path: Path) -> Iterator[TestClient]:
    app = create_app(Settings(redis_url=own.url, state_dir=tmp_path), stores)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


def is_away(call: Callable[[], Any]) -> None:
    """Checks that a caller is told within bounds that the store is away, and when to come again."""
    start = time.monotonic()
    answer = call()
    assert refused(answer, 503, "store_unavailable") == []
    assert int(answer.headers["Retry-After"]) >= 1
    assert time.monotonic() - start < PATIENCE


@pytest.mark.usefixtures("quick_parser")
def test_while_redis_is_gone_every_caller_is_told_and_afterwards_everything_is_there(
    api: TestClient, own: OwnRedis, stores: Stores
) -> None:
    dataset = upload(api).json()
    job = api.post("/v1/jobs", json={"dataset_id": dataset["id"], "target": "species"}).json()
    model = publish(stores)
    own.kill()
    calls: list[Callable[[], Any]] = [
        lambda: api.get("/readyz"),
        lambda: api.get("/v1/cluster"),
        lambda: api.get("/v1/jobs"),
        lambda: api.get(f"/v1/jobs/{job['id']}"),
        lambda: api.post("/v1/jobs", json={"dataset_id": dataset["id"], "target": "species"}),
        lambda: api.post(f"/v1/jobs/{job['id']}/cancel"),
        lambda: api.delete(f"/v1/jobs/{job['id']}"),
        lambda: api.get(f"/v1/datasets/{dataset['id']}/rows"),
        lambda: upload(api),
        lambda: api.get("/v1/models"),
        lambda: predict(api, model.id, [GOOD]),
        lambda: predict(api, "iris", [GOOD]),
    ]
    with ThreadPoolExecutor(len(calls)) as pool:
        checks = [pool.submit(is_away, call) for call in calls]
        assert api.get("/healthz").status_code == 200
        for check in checks:
            check.result()
    assert files_in(stores) == [f"{dataset['id']}.parquet"]
    own.start()
    assert api.get("/readyz").json() == {"redis": True, "supervisors": 0}
    assert api.get(f"/v1/datasets/{dataset['id']}").json() == dataset
    assert api.get(f"/v1/jobs/{job['id']}").json() == job
    assert predict(api, model.id, [GOOD]).status_code == 200
    assert api.post("/v1/jobs", json={"dataset_id": dataset["id"], "target": "species"}).status_code == 201
    assert len(listed(api)) == 3


def test_a_model_that_is_loaded_goes_on_predicting_by_its_id(api: TestClient, own: OwnRedis, stores: Stores) -> None:
    loaded, other = publish(stores), publish(stores)
    before = predict(api, loaded.id, [GOOD]).json()
    own.kill()
    for _ in range(3):
        start = time.monotonic()
        answer = predict(api, loaded.id, [GOOD])
        assert (answer.status_code, answer.json()) == (200, before)
        assert time.monotonic() - start < PATIENCE
    is_away(lambda: predict(api, other.id, [GOOD]))
    own.start()
    assert predict(api, other.id, [GOOD]).status_code == 200


def test_with_keys_a_known_one_still_passes_and_a_wrong_one_still_does_not(
    api: TestClient, own: OwnRedis, stores: Stores
) -> None:
    model = publish(stores)
    key = {"Authorization": f"Bearer {stores.access.create('ci')}"}
    path = f"/v1/models/{model.id}/predict"
    assert api.post(path, json={"instances": [GOOD]}, headers=key).status_code == 200
    own.kill()
    assert api.post(path, json={"instances": [GOOD]}, headers=key).status_code == 200
    refused(api.post(path, json={"instances": [GOOD]}), 401, "unauthorized")
    refused(api.get("/v1/jobs", headers={"Authorization": "Bearer wrong"}), 401, "unauthorized")


def test_an_api_that_never_saw_its_redis_lets_nobody_in(own: OwnRedis, stores: Stores, tmp_path: Path) -> None:
    own.kill()
    app = create_app(Settings(redis_url=own.url, state_dir=tmp_path), stores)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as fresh:
        is_away(lambda: fresh.get("/v1/jobs"))
        assert fresh.get("/healthz").status_code == 200


def test_every_job_acknowledged_before_the_kill_is_there_after_it(
    api: TestClient, own: OwnRedis, stores: Stores
) -> None:
    body = request_of(create(stores))
    acknowledged: list[str] = []

    def submit_until_it_dies(worker: int) -> None:
        while (answer := api.post("/v1/jobs", json={**body, "name": str(worker)})).status_code == 201:
            acknowledged.append(answer.json()["id"])
            if len(acknowledged) == 25:
                own.send(signal.SIGKILL)
        refused(answer, 503, "store_unavailable")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(submit_until_it_dies, range(4)))
    own.kill()
    own.start()
    assert len(acknowledged) >= 25
    assert set(acknowledged) <= set(listed(api, limit="200"))
    assert [api.get(f"/v1/jobs/{job_id}").json()["state"] for job_id in acknowledged] == ["queued"] * len(acknowledged)


def test_a_retry_with_its_key_after_a_lost_answer_finds_the_job_that_was_made(
    api: TestClient, own: OwnRedis, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, key = request_of(create(stores)), {"Idempotency-Key": "k"}

    def dies_after_the_commit(*_: object) -> None:
        own.kill()
        raise redis.ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(JobStore, "get", dies_after_the_commit)
        is_away(lambda: api.post("/v1/jobs", json=body, headers=key))
    own.start()
    retried = api.post("/v1/jobs", json=body, headers=key)
    assert retried.status_code == 201
    assert retried.headers["Idempotent-Replayed"] == "true"
    assert listed(api) == [retried.json()["id"]]


def test_a_frozen_redis_is_away_and_comes_back(api: TestClient, own: OwnRedis, stores: Stores) -> None:
    job_id = submit(stores)
    assert api.get(f"/v1/jobs/{job_id}").status_code == 200
    own.send(signal.SIGSTOP)
    is_away(lambda: api.get(f"/v1/jobs/{job_id}"))
    assert api.get("/healthz").status_code == 200
    own.send(signal.SIGCONT)
    assert api.get(f"/v1/jobs/{job_id}").json()["state"] == "queued"
    assert api.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled"


@pytest.mark.usefixtures("quick_parser")
def test_a_full_redis_is_told_reads_go_on_and_deleting_makes_room(
    api: TestClient, own: OwnRedis, stores: Stores
) -> None:
    dataset, model = create(stores), publish(stores)
    waiting, ended = submit(stores, dataset.id), submit(stores, dataset.id)
    stores.jobs.cancel(ended)
    before = listed(api)
    own.configure("maxmemory", "1")
    for _ in range(2):
        refused(api.post("/v1/jobs", json=request_of(dataset)), 507, "storage_full")
        refused(upload(api, CSV), 507, "storage_full")
        refused(api.post(f"/v1/jobs/{waiting}/cancel"), 507, "storage_full")
    assert files_in(stores) == []
    assert listed(api) == before
    assert api.get(f"/v1/jobs/{waiting}").json()["state"] == "queued"
    assert predict(api, model.id, [GOOD]).status_code == 200
    assert api.get("/readyz").status_code == 200
    assert api.delete(f"/v1/jobs/{ended}").status_code == 204
    assert api.delete(f"/v1/models/{model.id}").status_code == 204
    own.configure("maxmemory", "0")
    assert api.post("/v1/jobs", json=request_of(dataset)).status_code == 201
    assert upload(api, CSV).status_code == 201
    assert api.post(f"/v1/jobs/{waiting}/cancel").json()["state"] == "cancelled"


def test_a_read_only_redis_is_away_for_writers_only(api: TestClient, stores: Stores) -> None:
    dataset, job_id = create(stores), submit(stores)
    stores.client.replicaof("127.0.0.1", "1")
    is_away(lambda: api.post("/v1/jobs", json=request_of(dataset)))
    is_away(lambda: api.post(f"/v1/jobs/{job_id}/cancel"))
    assert listed(api) == [job_id]
    stores.client.replicaof("NO", "ONE")
    assert api.post("/v1/jobs", json=request_of(dataset)).status_code == 201


def test_after_a_flush_nothing_is_found_and_everything_works(api: TestClient, stores: Stores) -> None:
    dataset, job_id, model = create(stores), submit(stores), publish(stores)
    stores.client.flushall()
    refused(api.get(f"/v1/jobs/{job_id}"), 404, "job_not_found")
    refused(api.get(f"/v1/models/{model.id}"), 404, "model_not_found")
    refused(api.post("/v1/jobs", json=request_of(dataset)), 404, "dataset_not_found")
    assert (listed(api), api.get("/v1/datasets").json()["data"]) == ([], [])
    assert api.post("/v1/jobs", json=request_of(create(stores))).status_code == 201


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("MISCONF Errors writing to the AOF file: No space left on device", "storage_full"),
        (
            "ERR Error running script: @user_script:1: OOM command not allowed when used memory > 'maxmemory'",
            "storage_full",
        ),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", "corrupt_record"),
        ("ERR Error running script: user_script:9: attempt to compare nil with number", "corrupt_record"),
    ],
)
def test_what_redis_says_is_told_in_words_of_ours(said: str, code: str) -> None:
    explained = explain(redis.ResponseError(said))
    assert explained.stable_code == code
    assert said not in explained.message


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "volatile-lru", "volatile-ttl", "allkeys-lfu"])
def test_a_redis_that_throws_records_away_is_not_started_with(own: OwnRedis, policy: str) -> None:
    with closing(connect(own.url, retries=0)) as client:
        check_redis(client)
        own.configure("maxmemory-policy", policy)
        with pytest.raises(CannotStart, match="noeviction"):
            check_redis(client)
        own.configure("maxmemory-policy", "noeviction")
        check_redis(client)


def test_a_redis_that_does_not_answer_is_not_started_with(own: OwnRedis) -> None:
    own.kill()
    with closing(connect(own.url, retries=0)) as client, pytest.raises(CannotStart, match="does not answer"):
        check_redis(client)
