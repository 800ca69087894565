"""Pages of a list, newest first, with a cursor that says where the next one begins."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from common.errors import CorruptRecord, Fault, Invalid
from common.store import keys
from common.store.client import Client, is_text, text, texts

Item = TypeVar("Item")
Stored = TypeVar("Stored")
_CURSOR = re.compile(rb"before:([0-9]{1,15})\Z")
_LAST_PLACE = 10**15 - 1
_CHUNK = 1000
_MOST_CHUNKS = 20
"""Looked through for one page: however few of an index are also in another, an answer takes its time and no more."""


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items, and the cursor of the next page or None."""

    data: list[Item]
    next_cursor: str | None


def read_cursor(cursor: str | None) -> int | None:
    """The place in the order of creation that a cursor stands for.

    Raises:
        Invalid: it is no cursor of ours.

    """
    if cursor is None:
        return None
    try:
        match = _CURSOR.match(base64.urlsafe_b64decode(cursor.encode("ascii")))
    except ValueError:
        match = None
    if match is None:
        raise Invalid(
            "The cursor is not valid.",
            [Fault("cursor", "invalid_cursor", "must come from `next_cursor` of a list")],
        )
    return int(match[1])


def _write_cursor(place: int) -> str:
    return base64.urlsafe_b64encode(b"before:%d" % place).decode()


def newest_first(client: Client, index: str, limit: int, cursor: str | None) -> Page[str]:
    """One page of the ids in a sorted set scored by order of creation."""
    found = _before(client, index, read_cursor(cursor), limit + 1)
    page = found[:limit]
    return Page(texts(member for member, _ in page), _write_cursor(page[-1][1]) if len(found) > limit else None)


def newest_in_both(client: Client, index: str, other: str, limit: int, cursor: str | None) -> Page[str]:
    """One page of the ids that are in two such sorted sets; it may hold fewer than `limit` and yet not be the last."""
    before = read_cursor(cursor)
    ids: list[tuple[str, int]] = []
    for _ in range(_MOST_CHUNKS):
        found = _before(client, index, before, _CHUNK)
        if not found:
            return Page([identifier for identifier, _ in ids], None)
        places = client.zmscore(other, [member for member, _ in found])
        ids += [
            (text(member), place)
            for (member, place), other_place in zip(found, places, strict=True)
            if other_place is not None and is_text(member)
        ]
        before = found[-1][1]
        if len(ids) > limit:
            before = ids[limit - 1][1]
            break
    return Page([identifier for identifier, _ in ids[:limit]], _write_cursor(before or 0))


def _before(client: Client, index: str, place: int | None, count: int) -> list[tuple[Any, int]]:
    """Members and their places, newest first; a place that no counter gives is none of ours."""
    highest = _LAST_PLACE if place is None else f"({place}"
    found = client.zrevrangebyscore(index, highest, 0, start=0, num=count, withscores=True)
    return [(pair[0], int(pair[1])) for pair in found]


def forget(client: Client, identifier: str, own: Sequence[str]) -> None:
    """Removes a record that cannot be read: its own keys, and its id wherever it stands, for what says where is damaged.

    Its own keys go last, so that a call that was cut short can be made again.
    """
    for kind, remove in (("zset", client.zrem), ("set", client.srem)):
        for index in client.scan_iter(match=f"{keys.ROOT}*", count=1000, _type=kind):
            remove(index, identifier)
    client.delete(*own)


def readable(found: Iterable[Stored], read: Callable[[Stored], Item]) -> list[Item]:
    """What can be read of a page: a damaged record, of which `get` tells, does not hide the others."""
    items: list[Item] = []
    for stored in found:
        with suppress(CorruptRecord):
            items.append(read(stored))
    return items
