"""JSON as this API takes it: UTF-8, no duplicate keys, no NaN, no infinities, no endless depth or digits."""

from __future__ import annotations

import json
from typing import NoReturn

from common.errors import Unreadable

MAX_DEPTH = 100
_MAX_DIGITS = 1000


def parse(body: bytes) -> object:
    """The document in `body`.

    Raises:
        Unreadable: with the code `malformed_json`, `duplicate_key`, `non_finite_number` or `too_deep`.

    """
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
    """Walks through the containers: depth is bounded, and no text is half a surrogate pair."""
    level, depth = [document], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH and any(isinstance(node, dict | list) for node in level):
            raise _too_deep()
        below: list[object] = []
        for node in level:
            if isinstance(node, dict):
                for key in node:
                    _check_text(key)
                below += node.values()
            elif isinstance(node, list):
                below += node
            elif isinstance(node, str):
                _check_text(node)
        level = below


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Unreadable("A text holds half of a surrogate pair.") from None


def _too_deep() -> Unreadable:
    return Unreadable(f"The body is nested deeper than {MAX_DEPTH} levels.", code="too_deep")
