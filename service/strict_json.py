"""JSON as this API takes it: UTF-8, no duplicate keys, no NaN, no infinities, no endless depth or digits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import NoReturn

import jiter

from common.errors import Unreadable

MAX_DEPTH = 100
Container = dict[str, object] | list[object]
_CONTAINERS = {dict, list}
_MAX_DIGITS = 4300
"""Of a whole number; Python itself takes no more."""


def parse(body: bytes) -> object:
    """The document in `body`.

    Raises:
        Unreadable: with the code `malformed_json`, `duplicate_key`, `non_finite_number` or `too_deep`.

    """
    try:
        document: object = jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="keys")
    except ValueError:  # whatever it is, the slower reader says it in our words
        return _slowly(body)
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_depth(document)
    return document


def _slowly(body: bytes) -> object:
    if not body.strip():
        raise Unreadable("The body is empty; a JSON document was expected.")
    try:
        text = body.decode("utf-8")
        document = _decoder.decode(text)
        _check(document)
    except UnicodeDecodeError as error:
        raise Unreadable(f"The body is not UTF-8 (byte {error.start}).") from None
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        raise Unreadable(f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.") from None
    return document


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Unreadable("A key stands twice in an object.", code="duplicate_key")
    return fields


def _constant(_: str) -> NoReturn:
    raise Unreadable("NaN and infinities are no JSON.", code="non_finite_number")


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise Unreadable(f"A number has more than {_MAX_DIGITS} digits.")
    return int(digits)


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer)


def _check(document: object) -> None:
    """Depth is bounded, and no text is half a surrogate pair."""
    for level in _levels(document):
        for node in level:
            if isinstance(node, dict):
                for key in node:
                    _check_text(key)
            for value in _values(node):
                if isinstance(value, str):
                    _check_text(value)
    if isinstance(document, str):
        _check_text(document)


def _check_depth(document: object) -> None:
    for _ in _levels(document):
        pass


def _levels(document: object) -> Iterator[list[Container]]:
    """The containers of a document, level by level; refused beyond the last level that is allowed."""
    level = [document] if isinstance(document, dict | list) else []
    for _ in range(MAX_DEPTH):
        if not level:
            return
        yield level
        holding = [node for node in level if not _CONTAINERS.isdisjoint(map(type, _values(node)))]
        level = [value for node in holding for value in _values(node) if isinstance(value, dict | list)]
    if level:
        raise _too_deep()


def _values(node: Container) -> Iterable[object]:
    return node.values() if isinstance(node, dict) else node


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Unreadable("A text holds half of a surrogate pair.") from None


def _too_deep() -> Unreadable:
    return Unreadable(f"The body is nested deeper than {MAX_DEPTH} levels.", code="too_deep")
