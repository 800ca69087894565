"""API keys: made once, known by their hashes, asked for as soon as there is one."""

from __future__ import annotations

import pytest

from common.errors import StoreUnavailable, Unauthorized
from common.store import keys
from common.store.access import AccessStore, digest
from common.store.stores import Stores
from service.middleware import KeyRing


class FakeClock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_key_is_long_new_each_time_and_stored_as_its_hash_only(stores: Stores) -> None:
    one, other = stores.access.create("ci"), stores.access.create("ci")
    assert one != other
    assert len(one) >= 43
    assert stores.access.digests() == {digest(one), digest(other)}
    stored = str(stores.client.hgetall(keys.ACCESS_KEYS))
    assert one not in stored
    assert one.removeprefix("ck_") not in stored


def test_a_key_made_elsewhere_is_taken(stores: Stores) -> None:
    stores.access.add("made elsewhere", "secret file")
    KeyRing(stores.access).check("Bearer made elsewhere")


def test_without_keys_everyone_passes(stores: Stores) -> None:
    KeyRing(stores.access).check(None)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Basic {key}",
        "{key}",
        "Bearer {key}x",
        "Bearer  {key}",
        "Bearer {digest}",
        "bearer\t{key}",
        "Bearer {key} ",
    ],
)
def test_with_keys_nobody_passes_without_one(stores: Stores, authorization: str | None) -> None:
    key = stores.access.create("ci")
    ring = KeyRing(stores.access)
    given = authorization.format(key=key, digest=digest(key)) if authorization is not None else None
    with pytest.raises(Unauthorized) as caught:
        ring.check(given)
    assert key not in caught.value.message
    ring.check(f"Bearer {key}")
    ring.check(f"bearer {key}")


def test_the_first_key_is_asked_for_within_seconds(stores: Stores) -> None:
    clock = FakeClock()
    ring = KeyRing(stores.access, clock)
    ring.check(None)
    key = stores.access.create("ci")
    clock.now += 5.1
    with pytest.raises(Unauthorized):
        ring.check(None)
    ring.check(f"Bearer {key}")


def test_a_new_key_works_at_once_and_a_wrong_one_asks_the_store_twice_a_second_at_most(stores: Stores) -> None:
    stores.access.create("first")
    clock = FakeClock()
    store = CountingStore(stores)
    ring = KeyRing(store, clock)
    for _ in range(50):
        with pytest.raises(Unauthorized):
            ring.check("Bearer wrong")
    assert store.asked == 1
    second = stores.access.create("second")
    clock.now += 0.6
    ring.check(f"Bearer {second}")
    assert store.asked == 2


def test_a_key_that_is_gone_stops_working_within_seconds(stores: Stores) -> None:
    clock = FakeClock()
    ring = KeyRing(stores.access, clock)
    kept, gone = stores.access.create("kept"), stores.access.create("gone")
    ring.check(f"Bearer {gone}")
    stores.client.hdel(keys.ACCESS_KEYS, digest(gone))
    clock.now += 5.1
    with pytest.raises(Unauthorized):
        ring.check(f"Bearer {gone}")
    ring.check(f"Bearer {kept}")


def test_while_the_store_is_away_the_last_answer_counts_and_without_one_nobody_passes(stores: Stores) -> None:
    clock = FakeClock()
    key = stores.access.create("ci")
    store = CountingStore(stores)
    known, fresh = KeyRing(store, clock), KeyRing(store, clock)
    known.check(f"Bearer {key}")
    store.is_away = True
    clock.now += 60
    known.check(f"Bearer {key}")
    with pytest.raises(Unauthorized):
        known.check("Bearer wrong")
    for authorization in (None, f"Bearer {key}"):
        with pytest.raises(StoreUnavailable):
            fresh.check(authorization)


@pytest.mark.parametrize("has_key", [True, False])
def test_a_store_that_is_away_is_asked_every_few_seconds_and_not_by_every_request(
    stores: Stores, has_key: bool
) -> None:
    clock = FakeClock()
    authorization = f"Bearer {stores.access.create('ci')}" if has_key else None
    store = CountingStore(stores)
    ring = KeyRing(store, clock)
    ring.check(authorization)
    store.is_away = True
    clock.now += 60
    before = store.asked
    for _ in range(50):
        ring.check(authorization)
        clock.now += 0.05
    assert store.asked == before + 1
    store.is_away = False
    clock.now += 5
    ring.check(authorization)
    assert store.asked > before + 1


class CountingStore(AccessStore):
    """Counts how often it is asked, and may be away."""

    def __init__(self, stores: Stores) -> None:
        super().__init__(stores.client)
        self.asked = 0
        self.is_away = False

    def digests(self) -> frozenset[str]:
        self.asked += 1
        if self.is_away:
            raise StoreUnavailable("away")
        return super().digests()
