"""Watching and steering jobs over HTTP, with the calls of a run made by hand."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from common.schemas.jobs import JobEvent
from common.settings import Settings
from common.store import keys
from common.store.client import Client, connect
from common.store.history import HistoryStore
from common.store.stores import Stores
from service.changes import Changes
from service.event_stream import BEGINNING, EventReader, stream
from service.merge_patch import merged
from service.routes.shared import Services
from service.shared_reads import SharedReads
from tests.contract import a_progress, create, running, save_checkpoint, submit
from tests.integration.test_api import UNKNOWN, refused
from tests.shared_app import app_of


@pytest.fixture(scope="module")
def changes(redis_url: str) -> Iterator[Changes]:
    """Who hears of changes."""
    with closing(connect(redis_url, retries=1)) as client:
        listening = Changes(client, most=10)
        listening.start()
        yield listening
        listening.stop()
        listening.join()


@pytest.fixture
def api(one_app: TestClient, changes: Changes, settings: Settings, stores: Stores) -> TestClient:
    """The shared API, over stores of this test's own."""
    app_of(one_app).state.services = replace(Services.over(settings, stores), changes=changes)
    return one_app


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "pause"),
        ("POST", "resume"),
        ("POST", "rerun"),
        ("GET", "checkpoints"),
        ("GET", "events"),
        ("GET", ""),
    ],
)
def test_a_job_that_is_not_there_is_not_found(api: TestClient, method: str, path: str) -> None:
    for job_id in (UNKNOWN["job"], "job_", "job_%00"):
        refused(api.request(method, f"/v1/jobs/{job_id}/{path}".rstrip("/")), 404, "job_not_found")


@pytest.mark.parametrize(
    ("query", "pointer"),
    [("wait=-1", "wait"), ("wait=61", "wait"), ("wait=nan", "wait"), ("revision=-1", "revision"), ("wait=x", "wait")],
)
def test_a_wait_that_makes_no_sense_is_refused(api: TestClient, stores: Stores, query: str, pointer: str) -> None:
    ((found, _),) = refused(api.get(f"/v1/jobs/{submit(stores)}?{query}"), 422, "invalid_request")
    assert pointer in found


def test_a_wait_is_answered_at_once_where_there_is_something_new(api: TestClient, stores: Stores) -> None:
    job_id = submit(stores)
    began = time.monotonic()
    assert api.get(f"/v1/jobs/{job_id}?wait=60&revision=0").json()["revision"] == 1
    stores.jobs.cancel(job_id)
    ended = api.get(f"/v1/jobs/{job_id}?wait=60&revision=1000").json()  # an ended job does not change any more
    assert ended["state"] == "cancelled"
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("change", ["lost", "progress", "cancel", "end"])
def test_a_wait_ends_with_any_change(api: TestClient, stores: Stores, change: str) -> None:
    claim = running(stores)
    revision = stores.jobs.get(claim.job_id).revision
    answers: list[Any] = []
    waiting = threading.Thread(
        target=lambda: answers.append(api.get(f"/v1/jobs/{claim.job_id}?wait=60&revision={revision}"))
    )
    waiting.start()
    match change:
        case "lost":
            stores.jobs.requeue(claim, "lost")
        case "progress":
            stores.jobs.record(claim, progress=a_progress(3))
        case "cancel":
            stores.jobs.cancel(claim.job_id)
        case "end":
            stores.jobs.end_cancelled(claim)
            waiting.join(30)
            assert answers[0].json()["state"] == "cancelled"
            return
    waiting.join(30)
    assert answers[0].json()["revision"] == revision + 1


def lines(api: TestClient, job_id: str, last: str | None = None) -> list[tuple[str, str, dict[str, Any]]]:
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
    answer = api.get(f"/v1/jobs/{job_id}/events", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    found = []
    for block in answer.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((fields["event"], fields["id"], json.loads(fields["data"])))
    return found


def test_server_sent_events_are_those_of_the_list(api: TestClient, stores: Stores) -> None:
    claim = running(stores)
    stores.jobs.record(claim, kind="warning", event={"message": "line one\nline two é ✓"})
    stores.jobs.end_cancelled(claim)
    listed = api.get(f"/v1/jobs/{claim.job_id}/events").json()["data"]
    streamed = lines(api, claim.job_id)
    assert [(kind, place) for kind, place, _ in streamed] == [(event["kind"], event["id"]) for event in listed]
    assert [data for *_, data in streamed] == [{**event["data"], "at": event["at"]} for event in listed]
    assert streamed[-1][2]["state"] == "cancelled"
    for place in range(1, len(streamed)):
        assert lines(api, claim.job_id, streamed[place - 1][1]) == streamed[place:]


def test_a_client_that_has_seen_the_end_is_told_not_to_come_back(api: TestClient, stores: Stores) -> None:
    claim = running(stores)
    stores.jobs.end_cancelled(claim)
    last = api.get(f"/v1/jobs/{claim.job_id}/events").json()["data"][-1]["id"]
    headers = {"Accept": "text/event-stream", "Last-Event-ID": last}
    for archived in (False, True):
        if archived:
            stores.history.archive(claim.job_id)
        answer = api.get(f"/v1/jobs/{claim.job_id}/events", headers=headers)
        assert (answer.status_code, answer.content) == (204, b"")


def test_an_event_id_that_is_none_is_refused(api: TestClient, stores: Stores) -> None:
    job_id = submit(stores)
    for bad in ("x", "1", "1-2-3", "-", "(1-0", "9" * 30 + "-0"):
        answer = api.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": bad})
        assert refused(answer, 422, "invalid_request") == [("Last-Event-ID", "invalid_event_id")]


def test_a_stream_that_waits_ends_with_its_job(api: TestClient, stores: Stores) -> None:
    claim = running(stores)
    seen: list[Any] = []
    watching = threading.Thread(target=lambda: seen.append(lines(api, claim.job_id)))
    watching.start()
    stores.jobs.end_cancelled(claim)
    watching.join(30)
    assert seen[0][-1][2]["state"] == "cancelled"


class Meanwhile(HistoryStore):
    """In which something happens right after the first reading of events."""

    def __init__(self, client: Client, happens: Callable[[], None]) -> None:
        super().__init__(client)
        self._happens: list[Callable[[], None]] = [happens]

    def events(self, job_id: str, after: str | None = None) -> list[JobEvent]:
        found = super().events(job_id, after)
        if self._happens:
            self._happens.pop()()
        return found


def ends_meanwhile(api: TestClient, stores: Stores) -> str:
    """A job that ends right after its events have been read for the first time."""
    claim = running(stores)
    services = app_of(api).state.services
    history = Meanwhile(stores.client, lambda: stores.jobs.end_cancelled(claim))
    app_of(api).state.services = replace(services, stores=replace(stores, history=history))
    return claim.job_id


def test_the_last_event_is_told_although_it_comes_between_two_looks(api: TestClient, stores: Stores) -> None:
    job_id = ends_meanwhile(api, stores)
    last = stores.history.events(job_id)[-1].id
    ((kind, _, data),) = lines(api, job_id, last)
    assert (kind, data["state"]) == ("state", "cancelled")


def test_a_stream_from_a_place_after_all_events_ends_with_its_job(api: TestClient, stores: Stores) -> None:
    assert lines(api, ends_meanwhile(api, stores), "9999999999999999-0") == []


def test_a_stream_of_an_ended_job_whose_events_are_lost_ends(api: TestClient, stores: Stores) -> None:
    claim = running(stores)
    stores.jobs.end_cancelled(claim)
    stores.client.delete(keys.job_events(claim.job_id))
    for last in ("", "1-0", "9999999999999999-0"):
        headers = {"Accept": "text/event-stream", "Last-Event-ID": last}
        assert api.get(f"/v1/jobs/{claim.job_id}/events", headers=headers).status_code == 204


def calls(stores: Stores, command: str) -> int:
    """How often the store was asked this."""
    statistics = stores.client.info("commandstats")
    return int(statistics.get(f"cmdstat_{command}", {}).get("calls", 0))


def test_the_store_is_read_for_all_watchers_of_a_job_at_once(stores: Stores, changes: Changes) -> None:
    claim = running(stores)
    reader, watchers, told = EventReader(stores.jobs, stores.history, SharedReads()), 100, 30

    def change() -> None:
        for epoch in range(told):
            stores.jobs.record(claim, kind="progress", event={"epoch": epoch})
        stores.jobs.end_cancelled(claim)

    async def scenario() -> list[bytes]:
        has_begun = asyncio.Semaphore(0)

        async def watch() -> bytes:
            seen = b""
            async for piece in stream(reader, changes, claim.job_id, BEGINNING):
                seen += piece
                has_begun.release()
            return seen

        watching = [asyncio.create_task(watch()) for _ in range(watchers)]
        for _ in watching:
            await has_begun.acquire()
        await asyncio.to_thread(change)
        return await asyncio.gather(*watching)

    before, began = calls(stores, "xrange"), time.monotonic()
    seen = asyncio.run(scenario())
    wakes = 2 + (time.monotonic() - began) / 0.18
    assert calls(stores, "xrange") - before <= 2 * wakes  # and not one for each watcher
    assert set(seen) == {seen[0]}
    assert seen[0].count(b"event: progress") == told
    assert seen[0].count(b"event: state") == 4


def test_watchers_of_a_busy_job_are_woken_ten_times_a_second_at_most_and_miss_no_change(
    stores: Stores, changes: Changes
) -> None:
    claim = running(stores)
    is_over = threading.Event()

    def keep_busy() -> None:
        while not is_over.wait(0.002):
            stores.jobs.record(claim, progress=a_progress(1))

    async def wakes_in(seconds: float) -> int:
        wakes = 0
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            with changes.of(claim.job_id) as changed:  # each time anew, as long polls do
                wakes += await changed.wait(left)
        return wakes

    async def last_change_is_told() -> bool:
        with changes.of(claim.job_id) as changed:
            await changed.wait(1)
            await asyncio.to_thread(stores.jobs.end_cancelled, claim)
            return await changed.wait(2)

    async def scenario() -> None:
        busy = asyncio.create_task(asyncio.to_thread(keep_busy))
        try:
            wakes = await wakes_in(1.0)
        finally:
            is_over.set()
            await busy
        assert 2 <= wakes <= 11
        assert await last_change_is_told()

    asyncio.run(scenario())


def test_who_finds_as_many_waiting_as_there_is_room_for_is_told_so_and_others_are_answered(
    api: TestClient, stores: Stores, settings: Settings
) -> None:
    full = replace(Services.over(settings, stores), changes=Changes(stores.client, most=0))
    app_of(api).state.services = full
    path = f"/v1/jobs/{submit(stores)}"
    events = api.get(f"{path}/events", headers={"Accept": "text/event-stream"})
    for answer in (api.get(f"{path}?wait=1"), events):
        refused(answer, 503, "too_many_watchers")
        assert answer.headers["Retry-After"]
    assert api.get(path).json()["state"] == "queued"
    assert api.get(f"{path}/events").json()["data"]


def test_pausing_and_resuming_follow_the_states(api: TestClient, stores: Stores) -> None:
    job_id = submit(stores)
    assert api.post(f"/v1/jobs/{job_id}/pause").json()["state"] == "paused"
    answer = api.post(f"/v1/jobs/{job_id}/pause")
    assert (answer.status_code, answer.json()["state"]) == (202, "paused")
    assert api.get("/v1/jobs?state=paused").json()["data"][0]["id"] == job_id
    answer = api.post(f"/v1/jobs/{job_id}/resume")
    assert (answer.status_code, answer.json()["queue_position"]) == (202, 0)
    refused(api.post(f"/v1/jobs/{job_id}/resume"), 409, "job_not_paused")
    api.post(f"/v1/jobs/{job_id}/cancel")
    for verb in ("pause", "resume"):
        refused(api.post(f"/v1/jobs/{job_id}/{verb}"), 409, "job_ended")


def test_checkpoints_are_listed_newest_first(api: TestClient, stores: Stores) -> None:
    claim = running(stores)
    assert api.get(f"/v1/jobs/{claim.job_id}/checkpoints").json() == {"data": []}
    for epoch in (1, 2):
        save_checkpoint(stores, claim, epoch)
    listed = api.get(f"/v1/jobs/{claim.job_id}/checkpoints").json()["data"]
    assert [(one["number"], one["epoch"], one["attempt"]) for one in listed] == [(2, 2, 1), (1, 1, 1)]
    assert set(listed[0]) == {"number", "attempt", "epoch", "step", "bytes", "seconds", "sha256", "created_at"}


def test_a_rerun_is_the_request_as_it_came_with_the_same_seed(api: TestClient, stores: Stores) -> None:
    dataset, other = create(stores).id, create(stores).id
    body = {"dataset_id": dataset, "target": "species", "name": "one", "training": {"epochs": 7}}
    first = api.post("/v1/jobs", json=body).json()
    answer = api.post(f"/v1/jobs/{first['id']}/rerun")
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/v1/jobs/{answer.json()['id']}"
    assert answer.json()["request"] == first["request"]
    # what followed from the data set follows from the new one
    moved = api.post(f"/v1/jobs/{first['id']}/rerun", json={"dataset_id": other, "name": None}).json()
    assert moved["request"] == {**first["request"], "dataset_id": other, "name": None, "model_name": "iris"}
    once, twice = (
        api.post(f"/v1/jobs/{first['id']}/rerun", json={}, headers={"Idempotency-Key": "k"}) for _ in range(2)
    )
    assert once.json()["id"] == twice.json()["id"]
    assert twice.headers["Idempotent-Replayed"] == "true"
    refused(
        api.post(f"/v1/jobs/{moved['id']}/rerun", json={}, headers={"Idempotency-Key": "k"}),
        422,
        "idempotency_key_reused",
    )
    assert refused(api.post(f"/v1/jobs/{first['id']}/rerun", json={"epochs": 3}), 422, "invalid_request") == [
        ("/epochs", "unknown_field")
    ]
    refused(api.post(f"/v1/jobs/{first['id']}/rerun", json=[1]), 422, "invalid_request")


@pytest.mark.parametrize(
    ("given", "patch"),
    [
        ({}, {"optimizer": {"learning_rate": 0.1}}),
        ({"optimizer": "sgd"}, {"optimizer": {"learning_rate": 0.1}}),
        ({}, {"validation": {"fraction": 0.2}}),
        ({"cluster": {"synchrony": "local_steps"}}, {"cluster": {"synchrony": {"steps": 8}}}),
    ],
)
def test_a_rerun_changes_options_of_a_choice_that_was_left_at_its_default_or_given_bare(
    api: TestClient, stores: Stores, given: dict[str, Any], patch: dict[str, Any]
) -> None:
    first = api.post("/v1/jobs", json={"dataset_id": create(stores).id, "target": "species", **given}).json()
    answer = api.post(f"/v1/jobs/{first['id']}/rerun", json=patch)
    assert answer.status_code == 201, answer.text
    assert answer.json()["request"] == merged(first["request"], patch)


def with_key(api: TestClient, path: str, body: object) -> Any:
    return api.post(path, json=body, headers={"Idempotency-Key": "k"})


def test_the_same_request_has_the_same_answer_whatever_has_changed_around_it(
    api: TestClient, stores: Stores, settings: Settings
) -> None:
    dataset = create(stores).id
    body = {"dataset_id": dataset, "target": "species", "cluster": {"workers": 4}}
    first = with_key(api, "/v1/jobs", body).json()["id"]
    stores.jobs.cancel(first)
    stores.datasets.delete(dataset)
    services = app_of(api).state.services
    app_of(api).state.services = replace(services, settings=settings.model_copy(update={"max_workers": 1}))
    again = with_key(api, "/v1/jobs", body)
    assert (again.status_code, again.json()["id"]) == (201, first)
    assert (again.headers["Idempotent-Replayed"], again.headers["Location"]) == ("true", f"/v1/jobs/{first}")
    refused(with_key(api, "/v1/jobs", {**body, "priority": "high"}), 422, "idempotency_key_reused")
    assert api.post("/v1/jobs?dry_run=true", json=body, headers={"Idempotency-Key": "k"}).status_code == 404
    stores.jobs.delete(first)  # and the key is free again
    refused(with_key(api, "/v1/jobs", body), 404, "dataset_not_found")


def test_the_same_rerun_has_the_same_answer_whatever_has_changed_around_it(api: TestClient, stores: Stores) -> None:
    dataset = create(stores).id
    job_id = api.post("/v1/jobs", json={"dataset_id": dataset, "target": "species"}).json()["id"]
    path = f"/v1/jobs/{job_id}/rerun"
    first = with_key(api, path, {"priority": 1}).json()["id"]
    for ended in (job_id, first):
        stores.jobs.cancel(ended)
    stores.datasets.delete(dataset)
    stores.jobs.delete(job_id)
    again = with_key(api, path, {"priority": 1})
    assert (again.status_code, again.json()["id"], again.headers["Idempotent-Replayed"]) == (201, first, "true")
    refused(with_key(api, path, {"priority": "high"}), 422, "idempotency_key_reused")


def test_a_filter_that_says_nothing_is_none(api: TestClient, stores: Stores) -> None:
    seen, paused = submit(stores, labels={"team": "vision"}), submit(stores)
    stores.jobs.pause(paused)

    def listed(query: str) -> list[str]:
        return [job["id"] for job in api.get(f"/v1/jobs?{query}").json()["data"]]

    assert listed("state=&label=") == [paused, seen]
    assert listed("state=&label=team:vision") == [seen]
    assert listed("state=paused&label=") == [paused]
    for query in ("state=asleep", "label=" + "a:" * 200):
        refused(api.get(f"/v1/jobs?{query}"), 422, "invalid_request")
    parameters = {one["name"]: one for one in api.get("/openapi.json").json()["paths"]["/v1/jobs"]["get"]["parameters"]}
    assert "paused" in str(parameters["state"]["schema"])


def test_predicting_with_a_job_that_has_learned_nothing_is_refused(api: TestClient, stores: Stores) -> None:
    claim = running(stores)
    save_checkpoint(stores, claim)  # whose weights were never evaluated
    body = {"instances": [{"length": 1.0, "colour": "red"}]}
    for job_id in (submit(stores), claim.job_id):
        refused(api.post(f"/v1/models/{job_id}/predict", json=body), 409, "model_not_ready")
        refused(api.get(f"/v1/models/{job_id}"), 409, "model_not_ready")
    refused(api.post(f"/v1/models/{UNKNOWN['job']}/predict", json=body), 404, "job_not_found")


def test_a_model_to_begin_with_must_be_there_and_fit(api: TestClient, stores: Stores) -> None:
    dataset = create(stores).id
    body = {"dataset_id": dataset, "target": "species", "base_model_id": UNKNOWN["mdl"]}
    assert refused(api.post("/v1/jobs", json=body), 422, "invalid_request") == [("/base_model_id", "model_not_found")]
    assert refused(api.post("/v1/jobs", json={**body, "base_model_id": 7}), 422, "invalid_request") == [
        ("/base_model_id", "wrong_type")
    ]


def test_every_new_route_is_described_with_an_example(api: TestClient) -> None:
    document = api.get("/openapi.json").json()
    for path in ("pause", "resume", "rerun", "checkpoints"):
        assert f"/v1/jobs/{{job_id}}/{path}" in document["paths"]
    stream = document["paths"]["/v1/jobs/{job_id}/events"]["get"]["responses"]["200"]["content"]
    assert "event: state" in stream["text/event-stream"]["example"]
    examples = document["paths"]["/v1/jobs/{job_id}/rerun"]["post"]["requestBody"]["content"]["application/json"]
    assert examples["examples"]
