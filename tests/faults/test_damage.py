"""Keys of a real stack poisoned by hand: what is damaged is told of and can be removed, and everything else goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from common.store import keys
from common.store.client import text
from common.store.stores import Stores
from tests.conftest import RunningStack
from tests.faults.breaking import events, eventually, own_stack, stores_of, submit_and_await_checkpoints
from tests.integration.data import await_epochs, endless, train, upload_noise

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SECONDS = 10.0
"""In which every answer comes, from a machine that trains all the while."""
DAMAGE = {"corrupt_record", "model_corrupt", "checkpoint_corrupt"}
REFUSALS = {
    *("job_not_found", "dataset_not_found", "model_not_found"),
    *("job_ended", "job_not_paused", "job_not_ended", "cancel_asked", "model_not_ready", "invalid_request"),
}
GARBAGE = b"\xff\xfe garbage"


def another_type(client: redis.Redis, key: str) -> None:
    is_text = client.type(key) == b"string"
    client.delete(key)
    if is_text:
        client.rpush(key, GARBAGE)
    else:
        client.set(key, GARBAGE)


def same_type(client: redis.Redis, key: str) -> None:
    kind = text(client.type(key))
    client.delete(key)
    match kind:
        case "string":
            client.set(key, GARBAGE)
        case "hash":
            client.hset(key, GARBAGE, GARBAGE)
        case "list":
            client.rpush(key, GARBAGE)
        case "set":
            client.sadd(key, GARBAGE)
        case "stream":
            client.xadd(key, {GARBAGE: GARBAGE})
        case _:
            raise AssertionError(f"no garbage of the kind {kind}")


def damaged_fields(client: redis.Redis, key: str) -> None:
    """What is under a key keeps its form; every value in it is garbage."""
    if client.type(key) == b"hash":
        client.hset(key, mapping=dict.fromkeys(client.hkeys(key), "garbage"))
    else:
        same_type(client, key)


POISONS: tuple[Callable[[redis.Redis, str], None], ...] = (another_type, same_type, damaged_fields)


@pytest.fixture(scope="module")
def damaged_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack of this module's own, which stops as any other whatever was done to it."""
    folder: Path = tmp_path_factory.mktemp("stack")
    with own_stack(folder) as running:
        yield running


def long(dataset: str) -> dict[str, Any]:
    """A job that leaves room for another."""
    return endless(dataset, cluster={"workers": 1})


def small(dataset: str) -> dict[str, Any]:
    return {**long(dataset), "training": {"epochs": 2, "batch_size": 64, "seed": 1}}


class Whole:
    """What nobody damages: an ended job, its model and data set, and a job that runs."""

    def __init__(self, stack: RunningStack) -> None:
        self.stack, self.client = stack, stack.client
        self.dataset = upload_noise(self.client, rows=200)
        self.ended = train(self.client, small(self.dataset))
        assert self.ended["state"] == "succeeded"
        self.running = str(self.client.submit(long(self.dataset))["id"])
        await_epochs(self.client, self.running, 1)
        self.model = self.client.call("GET", f"/v1/models/{self.ended['model_id']}")
        self.history = events(stack, self.ended["id"])

    def check(self) -> None:
        """All of it is as it was, and is listed."""
        client = self.client
        assert client.job(self.ended["id"]) == self.ended
        assert events(self.stack, self.ended["id"]) == self.history
        assert client.call("GET", f"/v1/models/{self.model['id']}") == self.model
        assert client.predict(self.model["id"], [[0.0] * 20])["predictions"]
        job = client.job(self.running)
        assert (job["state"], job["attempt"]) == ("running", 1)
        jobs = {job["id"] for job in client.pages("/v1/jobs", 100)}
        assert {self.ended["id"], self.running} <= jobs
        assert self.running in {job["id"] for job in client.pages("/v1/jobs", 100, state="running")}
        assert self.model["id"] in {model["id"] for model in client.pages("/v1/models", 100)}
        assert self.dataset in {dataset["id"] for dataset in client.pages("/v1/datasets", 100)}

    def check_training(self) -> None:
        """A new job trains beside the one that runs, which gets on."""
        assert train(self.client, small(self.dataset))["state"] == "succeeded"
        await_epochs(self.client, self.running, self.client.job(self.running)["progress"]["epoch"] + 1)


@pytest.fixture(scope="module")
def whole(damaged_stack: RunningStack) -> Whole:
    return Whole(damaged_stack)


ENDPOINTS = {
    "job": (
        *(("GET", ""), ("GET", "/events"), ("GET", "/metrics"), ("GET", "/checkpoints")),
        *(("POST", "/rerun"), ("POST", "/pause"), ("POST", "/resume"), ("POST", "/cancel")),
    ),
    "dataset": (("GET", ""), ("GET", "/rows")),
    "model": (("GET", ""), ("POST", "/predict")),
}


BODIES = {"/predict": {"instances": [[0.0] * 20]}, "/rerun": {"cluster": {"workers": 0}}}
"""A rerun that is refused: it would train beside the others."""


def check_answers(stack: RunningStack, kind: str, identifier: str) -> None:
    """Every endpoint says in time, and in words that callers know, how it is with what was damaged."""
    with httpx2.Client(base_url=stack.url, timeout=SECONDS) as http:
        for method, path in ENDPOINTS[kind]:
            answer = http.request(method, f"/v1/{kind}s/{identifier}{path}", json=BODIES.get(path))
            said = None if answer.is_success else answer.json()["code"]
            assert said is None or said in DAMAGE | REFUSALS, (method, path, answer.text)
            assert answer.status_code != 500 or said in DAMAGE, (method, path, answer.text)


def check_removal(stack: RunningStack, stores: Stores, kind: str, identifier: str) -> None:
    """What was damaged can be deleted, and leaves nothing."""

    def is_gone() -> bool:
        status = http.delete(f"/v1/{kind}s/{identifier}").status_code
        assert status in (204, 404, 409)  # a job that runs is being cancelled
        return status != 409

    with httpx2.Client(base_url=stack.url, timeout=SECONDS) as http:
        eventually(is_gone, 20)
    eventually(lambda: not any(traces(stores, identifier)), 20)


def traces(stores: Stores, identifier: str) -> Iterator[str]:
    """Keys of a record, and indexes in which it stands."""
    client = stores.client
    yield from map(text, client.scan_iter(match=f"*{identifier}*", count=1000))
    for index in map(text, client.scan_iter(match=f"{keys.ROOT}*", count=1000, _type="zset")):
        if client.zscore(index, identifier) is not None:
            yield index
    for index in map(text, client.scan_iter(match=f"{keys.ROOT}*", count=1000, _type="set")):
        if client.sismember(index, identifier):
            yield index


def names(stores: Stores, identifier: str) -> list[str]:
    """The keys that hold something of a record."""
    return sorted(map(text, stores.client.scan_iter(match=f"*{identifier}*", count=1000)))


def spoil_each(stack: RunningStack, stores: Stores, whole: Whole, kind: str, identifier: str) -> None:
    """Poisons every key of a record in every way, one at a time, and puts it back."""
    for name in names(stores, identifier):
        before = stores.client.dump(name)
        assert before is not None
        for poison in POISONS:
            poison(stores.client, name)
            check_answers(stack, kind, identifier)
            whole.check()
            stores.client.restore(name, 0, before, replace=True)


def test_whatever_is_damaged_of_an_ended_job_a_model_or_a_data_set_everything_else_goes_on(
    damaged_stack: RunningStack, whole: Whole
) -> None:
    client = damaged_stack.client
    with stores_of(damaged_stack) as stores:
        dataset = upload_noise(client, rows=200)
        job = train(client, {**small(dataset), "labels": {"team": "vision"}})
        model = str(job["model_id"])
        claimant = client.submit({**small(dataset), "base_model_id": model, "cluster": {"workers": 64}})["id"]
        spoil_each(damaged_stack, stores, whole, "job", job["id"])
        stores.client.sadd(keys.TO_ARCHIVE, job["id"])
        stores.history.archive(job["id"])
        spoil_each(damaged_stack, stores, whole, "job", job["id"])
        for kind, identifier in (("model", model), ("dataset", dataset)):
            assert len(names(stores, identifier)) == 2
            spoil_each(damaged_stack, stores, whole, kind, identifier)
        client.call("POST", f"/v1/jobs/{claimant}/cancel")
        for kind, identifier in (("model", model), ("dataset", dataset), ("job", job["id"]), ("job", claimant)):
            another_type(stores.client, f"{keys.ROOT}{kind}:{identifier}")
            check_removal(damaged_stack, stores, kind, identifier)
    whole.check()
    whole.check_training()


@pytest.mark.parametrize("poison", POISONS)
def test_whatever_is_damaged_of_a_running_job_everything_else_goes_on(
    damaged_stack: RunningStack, whole: Whole, poison: Callable[[redis.Redis, str], None]
) -> None:
    with stores_of(damaged_stack) as stores:
        for of in (keys.job, keys.job_events, keys.job_metrics, keys.job_checkpoints):
            victim = submit_and_await_checkpoints(damaged_stack, long(whole.dataset), 1)
            assert of(victim) in names(stores, victim)
            poison(stores.client, of(victim))
            check_answers(damaged_stack, "job", victim)
            whole.check()
            check_removal(damaged_stack, stores, "job", victim)
    whole.check()
    whole.check_training()
