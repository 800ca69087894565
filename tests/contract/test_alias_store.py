"""Aliases in the store: each move is one step, and is remembered."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest

from common.errors import Conflict, Invalid, NotFound
from common.schemas.aliases import Alias
from common.store import keys
from common.store.aliases import MOST_ALIASES, MOST_MOVES, AliasStore
from common.store.stores import Stores
from tests.contract import a_model, publish, submit


def test_an_alias_stands_for_the_model_that_it_points_to(stores: Stores) -> None:
    first, second = publish(stores), publish(stores)
    stores.aliases.move("iris", "live", first.id)
    assert stores.models.resolve("iris@live") == first.id
    stores.aliases.move("iris", "live", second.id)
    assert stores.models.resolve("iris@live") == second.id
    with pytest.raises(NotFound):
        stores.models.resolve("wine@live")


@pytest.mark.parametrize("alias", ["latest", "1a", "v2", "2024-01-01", "3.1", "0x1", "1e0", "a" * 63, "live.eu_1"])
def test_no_word_is_reserved_and_a_slug_may_begin_with_a_number(stores: Stores, alias: str) -> None:
    first, _ = publish(stores), publish(stores)
    with pytest.raises(NotFound):
        stores.models.resolve(f"iris@{alias}")
    stores.aliases.move("iris", alias, first.id)
    assert stores.models.resolve(f"iris@{alias}") == first.id


def test_history_tells_what_an_alias_pointed_to_and_since_when(stores: Stores) -> None:
    times = iter(datetime(2026, 1, day, tzinfo=UTC) for day in range(1, 9))
    aliases = AliasStore(stores.client, lambda: next(times))
    first, second = publish(stores), publish(stores)
    for model in (first, second, second, first):
        aliases.move("iris", "live", model.id)
    aliases.remove("iris", "live")
    [told] = aliases.of_name("iris")
    assert [(move.model_id, move.version, move.changed_at.day) for move in told.history] == [
        (None, None, 5),
        (first.id, 1, 4),
        (second.id, 2, 2),  # to move it to where it is changes nothing
        (first.id, 1, 1),
    ]
    assert (told.model_id, told.version, told.changed_at) == (None, None, told.history[0].changed_at)
    back = aliases.move("iris", "live", first.id)
    assert (back.model_id, back.version, len(back.history)) == (first.id, 1, 5)


def test_the_newest_moves_are_remembered(stores: Stores) -> None:
    models = publish(stores), publish(stores)
    for count in range(MOST_MOVES + 3):
        told = stores.aliases.move("iris", "live", models[count % 2].id)
        assert len(told.history) == min(count + 1, MOST_MOVES)
    assert stores.client.llen(keys.alias_history("iris", "live")) == MOST_MOVES


def test_a_model_tells_its_aliases_wherever_it_is_shown(stores: Stores) -> None:
    first, second, wine = publish(stores), publish(stores), publish(stores, "wine")
    for name, alias, model in (("iris", "live", first), ("iris", "canary", first), ("wine", "live", wine)):
        stores.aliases.move(name, alias, model.id)
    assert stores.models.get(first.id).aliases == ("canary", "live")
    assert [model.aliases for model in stores.models.page(9).data] == [("live",), (), ("canary", "live")]
    assert [model.aliases for model in stores.models.page(9, name="iris").data] == [(), ("canary", "live")]
    stores.aliases.move("iris", "live", second.id)
    assert stores.models.get(first.id).aliases == ("canary",)
    assert stores.models.get(second.id).aliases == ("live",)


def test_an_alias_points_to_published_models_of_its_name_only(stores: Stores) -> None:
    publish(stores)
    wine, hidden = publish(stores, "wine"), a_model()
    stores.models.save(hidden)
    for model_id, code in (
        (wine.id, "unsuitable_model"),
        (hidden.record.id, "model_not_found"),
        ("mdl_0000000000000000000000000", "model_not_found"),
        ("iris", "model_not_found"),
        ("", "model_not_found"),
    ):
        with pytest.raises(Invalid) as caught:
            stores.aliases.move("iris", "live", model_id)
        assert [(fault.pointer, fault.code) for fault in caught.value.faults] == [("/model_id", code)]
    assert stores.aliases.of_name("iris") == []


def test_what_is_not_there_is_not_found(stores: Stores) -> None:
    with pytest.raises(NotFound):
        stores.aliases.of_name("iris")
    model = publish(stores)
    assert stores.aliases.of_name("iris") == []
    with pytest.raises(NotFound) as caught:
        stores.aliases.remove("iris", "live")
    assert caught.value.stable_code == "alias_not_found"
    stores.aliases.move("iris", "live", model.id)
    stores.aliases.remove("iris", "live")
    with pytest.raises(NotFound):
        stores.aliases.remove("iris", "live")
    with pytest.raises(NotFound):
        stores.models.resolve("iris@live")


def test_the_aliases_of_a_deleted_model_go_with_it_and_history_tells(stores: Stores) -> None:
    kept, gone = publish(stores), publish(stores)
    for alias, model in (("older", kept), ("live", gone), ("canary", gone)):
        stores.aliases.move("iris", alias, model.id)
    stores.models.delete(gone.id)
    told = {alias.alias: alias for alias in stores.aliases.of_name("iris")}
    assert {name: alias.model_id for name, alias in told.items()} == {"older": kept.id, "live": None, "canary": None}
    assert [move.model_id for move in told["live"].history] == [None, gone.id]
    for alias in ("live", "canary"):
        with pytest.raises(NotFound):
            stores.models.resolve(f"iris@{alias}")


def test_a_name_has_so_many_aliases_and_removed_ones_make_room(stores: Stores) -> None:
    model = publish(stores)
    for number in range(MOST_ALIASES):
        stores.aliases.move("iris", f"a{number}", model.id)
    with pytest.raises(Conflict) as caught:
        stores.aliases.move("iris", "one-more", model.id)
    assert caught.value.stable_code == "too_many_aliases"
    stores.aliases.move("iris", "a7", model.id)
    stores.aliases.remove("iris", "a7")
    stores.aliases.move("iris", "one-more", model.id)
    names = [alias.alias for alias in stores.aliases.of_name("iris")]
    assert (len(names), "a7" in names, "one-more" in names) == (MOST_ALIASES, False, True)
    assert not stores.client.exists(keys.alias_history("iris", "a7"))


def test_a_model_that_is_deleted_while_aliases_move_is_never_pointed_to_afterwards(stores: Stores) -> None:
    for _ in range(8):
        kept, gone = publish(stores), publish(stores)
        refused: list[Invalid] = []

        def moves(kept: str = kept.id, gone: str = gone.id, refused: list[Invalid] = refused) -> None:
            for count in range(20):
                try:
                    stores.aliases.move("iris", "live", kept if count % 2 else gone)
                except Invalid as error:
                    refused.append(error)

        mover = threading.Thread(target=moves)
        mover.start()
        stores.models.delete(gone.id)
        mover.join()
        told: Alias = stores.aliases.of_name("iris")[0]
        assert told.model_id in (None, kept.id)
        assert gone.id.encode() not in stores.client.hvals(keys.model_aliases("iris"))


def test_a_model_that_a_job_begins_with_keeps_its_aliases(stores: Stores) -> None:
    model = publish(stores)
    stores.aliases.move("iris", "live", model.id)
    submit(stores, base_model_id=model.id)
    with pytest.raises(Conflict):
        stores.models.delete(model.id)
    assert stores.models.resolve("iris@live") == model.id
