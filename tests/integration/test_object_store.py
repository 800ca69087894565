"""A stack whose data sets and checkpoints are in a bucket: a whole job, its loss on the way, and the store away."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from common.settings import Settings
from common.store.bucket import Bucket, _connect
from common.store.files import BucketFolder
from common.store.stores import Stores, open_stores
from service.app import create_app
from service.client import ApiError
from tests.conftest import RunningStack, start_api, start_stack
from tests.integration.data import await_epochs, await_job, endless, train, upload_noise
from tests.integration.test_api import quick_parser, refused, upload
from tests.integration.test_job_life import checkpoints, events, lasting, pids
from tests.object_store import ObjectStore

__all__ = ["quick_parser"]

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def place(object_store: ObjectStore) -> str:
    return object_store.new_place()


@pytest.fixture(scope="module")
def stack(object_store: ObjectStore, place: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack that keeps its files in a bucket, and writes checkpoints often."""
    settings = {"CHAINRULE_DATA_URL": f"s3://{place}", "CHAINRULE_CHECKPOINT_SECONDS": "0.4"}
    running = start_stack(tmp_path_factory.mktemp("stack"), **settings, **object_store.environment)
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def dataset(stack: RunningStack) -> str:
    return upload_noise(stack.client)


def folders(object_store: ObjectStore, place: str) -> set[str]:
    return {path.relative_to(object_store.folder / place).parts[0] for path in object_store.files(place)}


def test_a_job_is_lost_resumed_and_ends_with_the_same_bits_and_nothing_is_left_in_the_bucket_when_all_is_deleted(
    stack: RunningStack, object_store: ObjectStore, place: str, dataset: str
) -> None:
    twin = train(stack.client, lasting(dataset, epochs=100))
    assert (twin["state"], twin["attempt"]) == ("succeeded", 1)
    assert folders(object_store, place) == {"datasets"}  # checkpoints go with the end of their job

    job_id = stack.client.submit(lasting(dataset, epochs=100))["id"]
    await_epochs(stack.client, job_id, 20)
    await_job(stack.client, job_id, lambda _: len(checkpoints(stack, job_id)) >= 2)
    assert folders(object_store, place) == {"datasets", "checkpoints"}
    assert stack.client.predict(job_id, [[0.0] * 20])["predictions"]  # from a checkpoint
    os.kill(pids(stack, job_id, "server")[0], signal.SIGKILL)
    job = await_job(stack.client, job_id, lambda _: False)
    assert (job["state"], job["attempt"], job["metrics"]) == ("succeeded", 2, twin["metrics"])
    instances = [[0.1 * i for i in range(20)]]
    answers = [stack.client.predict(j["model_id"], instances)["predictions"] for j in (job, twin)]
    assert answers[0] == answers[1]

    for ended in (job, twin):
        stack.client.call("DELETE", f"/v1/jobs/{ended['id']}")
    rows = stack.client.call("GET", f"/v1/datasets/{dataset}/rows", params={"limit": 5})["rows"]
    assert len(rows) == 5
    stack.client.call("DELETE", f"/v1/datasets/{dataset}")
    assert object_store.files(place) == []
    assert [path for path in (stack.state_dir / "cache" / "copies").iterdir() if path.suffix == ".parquet"] == []


@pytest.mark.slow
def test_a_training_goes_on_while_the_store_is_away_and_says_so(stack: RunningStack, object_store: ObjectStore) -> None:
    dataset = upload_noise(stack.client)
    job_id = stack.client.submit(endless(dataset))["id"]
    await_epochs(stack.client, job_id, 5)
    object_store.kill()
    try:
        with pytest.raises(ApiError, match="store_unavailable"):
            upload_noise(stack.client)
        job = await_job(stack.client, job_id, lambda _: any(_is_warning(e) for e in events(stack, job_id)))
        assert job["attempt"] == 1
        await_epochs(stack.client, job_id, job["progress"]["epoch"] + 5)
    finally:
        object_store.start()
    stack.client.call("POST", f"/v1/jobs/{job_id}/cancel")
    assert await_job(stack.client, job_id, lambda _: False)["state"] == "cancelled"


def _is_warning(event: dict[str, Any]) -> bool:
    return event["kind"] == "warning" and "object store" in event["data"]["message"]


@pytest.fixture
def api(bucket: str, settings: Settings, stores: Stores, tmp_path: Path) -> TestClient:
    """The API over a bucket, less patient than usual."""
    _connect.cache_clear()
    files = BucketFolder(tmp_path / "cache", Bucket(f"s3://{bucket}", 0.3), 1 << 20)
    files.prepare()
    app = create_app(settings, open_stores(stores.client, files))
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


@pytest.mark.usefixtures("quick_parser")
def test_callers_are_told_while_the_store_is_away_and_what_they_repeat_afterwards_leaves_nothing(
    api: TestClient, object_store: ObjectStore, bucket: str, tmp_path: Path
) -> None:
    path = f"/v1/datasets/{upload(api).json()['id']}"
    copies = list((tmp_path / "cache" / "copies").iterdir())
    assert api.get(f"{path}/rows").status_code == 200
    for copy in copies:
        copy.unlink()
    object_store.kill()
    try:
        for answer in (api.get(f"{path}/rows"), upload(api), api.delete(path)):
            refused(answer, 503, "store_unavailable")
            assert int(answer.headers["Retry-After"]) >= 1
    finally:
        object_store.start()
    assert len(object_store.files(bucket)) == 1
    refused(api.delete(path), 404, "dataset_not_found")
    assert object_store.files(bucket) == []
    assert api.get("/v1/datasets").json()["data"] == []
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file()] == []


def test_an_api_process_does_not_start_on_a_bucket_that_it_cannot_use(
    redis_url: str, bucket: str, tmp_path: Path
) -> None:
    data = {"CHAINRULE_DATA_URL": f"s3://{bucket}", "CHAINRULE_STATE_DIR": str(tmp_path)}
    wrong = {"AWS_SECRET_ACCESS_KEY": "not-the-right-one"}
    with start_api(tmp_path / "log", redis_url, **data, **wrong) as process:
        assert process.wait(60) != 0
    assert "The bucket of CHAINRULE_DATA_URL cannot be used." in (tmp_path / "log").read_text()
