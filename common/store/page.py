"""Pages of a list, newest first, with a cursor that says where the next one begins."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from common.errors import CorruptRecord, Fault, Invalid
from common.store.client import Client, text

Item = TypeVar("Item")
Stored = TypeVar("Stored")
_CURSOR = re.compile(rb"before:([0-9]{1,15})\Z")


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
    before = read_cursor(cursor)
    found = client.zrevrangebyscore(
        index, "+inf" if before is None else f"({before}", "-inf", start=0, num=limit + 1, withscores=True
    )
    ids = [(text(pair[0]), int(pair[1])) for pair in found[:limit]]
    return Page([identifier for identifier, _ in ids], _write_cursor(ids[-1][1]) if len(found) > limit else None)


def readable(found: Iterable[Stored], read: Callable[[Stored], Item]) -> list[Item]:
    """What can be read of a page: a damaged record, of which `get` tells, does not hide the others."""
    items: list[Item] = []
    for stored in found:
        with suppress(CorruptRecord):
            items.append(read(stored))
    return items
