"""Learned models in the store."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from common.errors import CorruptRecord, NotFound
from common.store import keys
from common.store.models import UNPUBLISHED_SECONDS
from common.store.stores import Stores
from tests.contract import a_model, publish, running


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
    assert stores.client.exists(keys.model(gone.id)) == 0
    assert stores.jobs.get(gone.job_id).model_id == gone.id


def flip(client: redis.Redis, key: str, name: str) -> None:
    stored = client.hget(key, name)
    assert isinstance(stored, bytes)
    client.hset(key, name, stored[:-1] + bytes([stored[-1] ^ 1]))


SPOILT: dict[str, Callable[[redis.Redis, str], object]] = {
    "a bit of the weights": lambda client, key: flip(client, key, "weights"),
    "a bit of the document": lambda client, key: flip(client, key, "document"),
    "a bit of the checksum": lambda client, key: flip(client, key, "sha256"),
    "weights cut short": lambda client, key: client.hset(key, "weights", b"\0\0\0\0"),
    "no weights": lambda client, key: client.hdel(key, "weights"),
    "no checksum": lambda client, key: client.hdel(key, "sha256"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_damaged_weights_are_never_loaded_and_harm_no_other_model(stores: Stores, name: str) -> None:
    broken, whole = publish(stores), publish(stores)
    SPOILT[name](stores.client, keys.model(broken.id))
    with pytest.raises(CorruptRecord) as caught:
        stores.models.load(broken.id)
    assert caught.value.stable_code == "model_corrupt"
    assert stores.models.load(whole.id).record == whole
    assert len(stores.models.page(10).data) == 2
    stores.models.delete(broken.id)


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
