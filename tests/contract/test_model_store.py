"""Learned models in the store."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import redis
import safetensors.numpy

from common.errors import CorruptRecord, Invalid, NotFound, StorageFull
from common.store import keys
from common.store.client import raw
from common.store.models import UNPUBLISHED_SECONDS, ModelStore
from common.store.stores import Stores
from service.predictor import Predictor
from tests.contract import a_model, publish, running, traces


def test_a_model_is_invisible_until_its_job_has_ended_and_is_whole_then(stores: Stores) -> None:
    claim = running(stores)
    model = a_model(claim.job_id)
    stores.models.save(model)
    assert stores.models.page(10).data == []
    for call in (stores.models.get, stores.models.load, stores.models.delete):
        with pytest.raises(NotFound):
            call(model.record.id)
    with pytest.raises(NotFound):
        stores.models.resolve("iris")
    stores.jobs.succeed(claim, "patience", {}, (model.record.id, "iris"))
    stored = stores.models.load(model.record.id)
    assert (stored.document, stored.weights) == (model.document, model.weights)
    assert stored.record == stores.models.get(model.record.id) == model.record.model_copy(update={"version": 1})


def test_what_no_job_publishes_expires_and_what_was_published_stays(stores: Stores) -> None:
    lost = a_model()
    stores.models.save(lost)
    assert 0 < int(stores.client.ttl(keys.model(lost.record.id))) <= UNPUBLISHED_SECONDS
    assert stores.client.ttl(keys.model(publish(stores).id)) == -1


def test_versions_count_from_one_for_each_name_and_none_is_given_twice(stores: Stores) -> None:
    first, second, other = publish(stores), publish(stores), publish(stores, "wine")
    assert (first.version, second.version, other.version) == (1, 2, 1)
    stores.models.delete(second.id)
    assert publish(stores).version == 3


def test_a_reference_is_an_id_a_name_or_a_version_of_it(stores: Stores) -> None:
    first, second = publish(stores), publish(stores)
    assert stores.models.resolve("iris") == second.id
    assert stores.models.resolve("iris@1") == first.id
    assert stores.models.resolve("iris@2") == second.id
    assert stores.models.resolve(first.id) == first.id
    stores.models.delete(second.id)
    assert stores.models.resolve("iris") == first.id


@pytest.mark.parametrize(
    "reference",
    [
        "iris@3",
        "iris@0",
        "iris@01",
        "iris@-1",
        "iris@+1",
        "iris@1e0",
        "iris@(1",
        "iris@inf",
        "iris@",
        "@1",
        "wine",
        "IRIS",
        "",
        "*",
        "../iris",
        "iris@1@1",
        "mdl_x",
        "iris\n",
        "iris@1\n",
        "iris@9999999999",
        "a" * 64,
    ],
)
def test_a_reference_to_nothing_is_not_found(stores: Stores, reference: str) -> None:
    publish(stores)
    with pytest.raises(NotFound) as caught:
        stores.models.resolve(reference)
    assert caught.value.stable_code == "model_not_found"


def test_lists_are_newest_first_and_may_be_of_one_name(stores: Stores) -> None:
    ids = [publish(stores, name).id for name in ("iris", "wine", "iris", "iris")]
    assert [model.id for model in stores.models.page(10).data] == ids[::-1]
    first = stores.models.page(2, name="iris")
    rest = stores.models.page(2, first.next_cursor, name="iris")
    assert [model.id for model in first.data + rest.data] == [ids[3], ids[2], ids[0]]
    assert rest.next_cursor is None
    assert stores.models.page(10, name="*").data == []


def test_a_deleted_model_leaves_nothing_but_the_count_of_its_name(stores: Stores) -> None:
    kept, gone = publish(stores), publish(stores)
    stores.models.delete(gone.id)
    assert [model.id for model in stores.models.page(10, name="iris").data] == [kept.id]
    for call in (stores.models.get, stores.models.load, stores.models.delete):
        with pytest.raises(NotFound):
            call(gone.id)
    assert traces(stores, gone.id) == set()
    assert stores.jobs.get(gone.job_id).model_id == gone.id


def flip(client: redis.Redis, key: str, name: str) -> None:
    stored = client.hget(key, name)
    assert isinstance(stored, bytes)
    client.hset(key, name, stored[:-1] + bytes([stored[-1] ^ 1]))


SPOILT: dict[str, Callable[[redis.Redis, str], object]] = {
    "a bit of the first chunk": lambda client, key: flip(client, key, keys.model_chunk(0)),
    "a bit of the third chunk": lambda client, key: flip(client, key, keys.model_chunk(2)),
    "a bit of the checksum": lambda client, key: flip(client, key, "sha256"),
    "a chunk cut short": lambda client, key: client.hset(key, keys.model_chunk(1), b"\0\0\0\0"),
    "a chunk gone": lambda client, key: client.hdel(key, keys.model_chunk(1)),
    "two chunks changed about": lambda client, key: swap(client, key, keys.model_chunk(1), keys.model_chunk(2)),
    "a chunk too few": lambda client, key: client.hincrby(key, "chunks", -1),
    "a chunk too many": lambda client, key: client.hincrby(key, "chunks", 1),
    "endlessly many chunks": lambda client, key: client.hset(key, "chunks", 10**15),
    "no number of chunks": lambda client, key: client.hset(key, "chunks", "garbage"),
    "chunks of an earlier version": lambda client, key: client.hdel(key, "chunks"),
    "no checksum": lambda client, key: client.hdel(key, "sha256"),
}


def swap(client: redis.Redis, key: str, one: str, other: str) -> None:
    first, second = client.hmget(key, one, other)
    assert first is not None
    assert second is not None
    client.hset(key, mapping={one: second, other: first})


@pytest.mark.parametrize("name", SPOILT)
def test_damaged_weights_are_never_loaded_and_harm_no_other_model(stores: Stores, name: str) -> None:
    stores = in_chunks_of(stores, 300)
    broken, whole = publish(stores), publish(stores)
    SPOILT[name](stores.client, keys.model(broken.id))
    with pytest.raises(CorruptRecord) as caught:
        stores.models.load(broken.id)
    assert caught.value.stable_code == "model_corrupt"
    assert stores.models.load(whole.id).record == whole
    assert len(stores.models.page(10).data) == 2
    stores.models.delete(broken.id)
    assert traces(stores, broken.id) == set()


def in_chunks_of(stores: Stores, size: int) -> Stores:
    return replace(stores, models=ModelStore(stores.client, stores.aliases, chunk_bytes=size))


@pytest.mark.parametrize("size", [7, 300, 10**6])
def test_a_model_reads_back_as_it_was_written_however_it_is_cut(stores: Stores, size: int) -> None:
    model = a_model(seed=3)
    in_chunks_of(stores, size).models.publish(model)
    loaded = stores.models.load(model.record.id)
    assert (loaded.document, loaded.weights) == (model.document, model.weights)
    fields = stores.client.hgetall(keys.model(model.record.id))
    chunks = [raw(value) for name, value in fields.items() if raw(name).startswith(b"chunk:")]
    assert max(map(len, chunks)) <= size
    assert stores.client.hget(keys.model(model.record.id), "chunks") == str(len(chunks)).encode()


def test_what_is_stored_is_a_file_that_safetensors_reads(stores: Stores) -> None:
    model = a_model(seed=4)
    stores.models.save(model)
    content = stores.client.hget(keys.model(model.record.id), keys.model_chunk(0))
    assert isinstance(content, bytes)
    tensors = safetensors.numpy.load(content)
    assert list(tensors) == ["parameters"]
    assert tensors["parameters"].tobytes() == model.weights


def test_a_model_that_the_store_has_no_room_for_leaves_nothing(stores: Stores) -> None:
    model = a_model()
    large = replace(model, weights=model.weights * 50_000)
    used = stores.client.info("memory")["used_memory"]
    stores.client.config_set("maxmemory", used + 2**20)
    try:
        with pytest.raises(StorageFull):
            in_chunks_of(stores, 2**17).models.save(large)
        assert traces(stores, model.record.id) == set()
    finally:
        stores.client.config_set("maxmemory", 0)
    stores.models.save(large)


def test_a_publication_that_comes_again_is_the_same_one(stores: Stores) -> None:
    model = a_model()
    for _ in range(2):  # as when the answer to the first was lost on its way
        created = stores.models.publish(model, idempotency_key="once", digest="d")
        assert (created.id, stores.models.get(model.record.id).version) == (model.record.id, 1)
    assert stores.client.ttl(keys.model(model.record.id)) == -1
    again = a_model(seed=5)
    assert stores.models.publish(again, idempotency_key="once", digest="d").replayed
    assert traces(stores, again.record.id) == set()
    with pytest.raises(Invalid):
        stores.models.publish(again, idempotency_key="once", digest="other")
    assert traces(stores, again.record.id) == set()
    assert stores.models.load(model.record.id).weights == model.weights


GOLDEN = json.loads((Path(__file__).parent / "model_of_0_1_0.json").read_text())
"""A model as an earlier version stored it, before there were chunks, and what it predicted."""


def older(stores: Stores) -> str:
    fields = {**GOLDEN["fields"], "weights": base64.b64decode(GOLDEN["fields"]["weights"])}
    stores.client.hset(keys.model(GOLDEN["id"]), mapping=fields)
    stores.client.zadd(keys.MODELS, {GOLDEN["id"]: 1})
    stores.client.zadd(keys.model_versions("iris"), {GOLDEN["id"]: 1})
    return str(GOLDEN["id"])


def test_a_model_of_an_earlier_version_predicts_as_it_did(stores: Stores) -> None:
    model_id = older(stores)
    assert stores.models.resolve("iris") == model_id
    network = Predictor(stores, stores, 1 << 20).find("iris").network
    [prediction] = network.predict([{"length": 4.5, "colour": "red"}])
    assert prediction.model_dump(exclude_none=True) == GOLDEN["prediction"]
    stores.models.delete(model_id)
    assert traces(stores, model_id) == set()


@pytest.mark.parametrize("name", ["weights", "document", "sha256"])
def test_damage_of_a_model_of_an_earlier_version_is_told_of(stores: Stores, name: str) -> None:
    model_id = older(stores)
    flip(stores.client, keys.model(model_id), name)
    with pytest.raises(CorruptRecord) as caught:
        stores.models.load(model_id)
    assert caught.value.stable_code == "model_corrupt"


@pytest.mark.parametrize("garbage", [b"{", b"{}", b"\xff"])
def test_a_damaged_record_is_told_of_and_hides_no_other(stores: Stores, garbage: bytes) -> None:
    broken, whole = publish(stores), publish(stores)
    stores.client.hset(keys.model(broken.id), "record", garbage)
    for call in (stores.models.get, stores.models.load):
        with pytest.raises(CorruptRecord) as caught:
            call(broken.id)
        assert caught.value.stable_code == "model_corrupt"
    assert [model.id for model in stores.models.page(10).data] == [whole.id]


def test_a_model_of_another_type_is_told_of_and_hides_no_other(stores: Stores) -> None:
    broken, whole = publish(stores), publish(stores)
    stores.client.set(keys.model(broken.id), "garbage")
    for call in (stores.models.get, stores.models.load):
        with pytest.raises(CorruptRecord):
            call(broken.id)
    assert [model.id for model in stores.models.page(10).data] == [whole.id]
