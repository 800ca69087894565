"""JSON as the API takes it."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import Unreadable
from service.strict_json import MAX_DEPTH, parse

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(DOCUMENTS, st.booleans())
def test_every_document_comes_back_as_it_was(document: object, escaped: bool) -> None:
    assert parse(json.dumps(document, ensure_ascii=escaped).encode()) == document


MARK = "M4RKER"

REFUSED: list[tuple[str, bytes, str]] = [
    ("nothing", b"", "malformed_json"),
    ("spaces", b" \n\t", "malformed_json"),
    ("a word", b"M4RKER", "malformed_json"),
    ("half an object", b'{"a": "M4RKER"', "malformed_json"),
    ("a comma too many", b'{"a": "M4RKER",}', "malformed_json"),
    ("single quotes", b"{'M4RKER': 1}", "malformed_json"),
    ("a comment", b'{"a": 1} // M4RKER', "malformed_json"),
    ("two documents", b'{"a": 1}{"M4RKER": 2}', "malformed_json"),
    ("a control character", b'{"a": "M4RKER\x01"}', "malformed_json"),
    ("an unknown escape", b'{"a": "M4RKER\\q"}', "malformed_json"),
    ("a form", b"M4RKER=1&b=2", "malformed_json"),
    ("a leading zero", b'{"a": 01}', "malformed_json"),
    ("a number of 5,000 digits", b"[" + b"9" * 5000 + b"]", "malformed_json"),
    ("a negative number of 5,000 digits", b"[-" + b"9" * 5000 + b"]", "malformed_json"),
    ("invalid UTF-8", b'{"a": "M4RKER\xff"}', "malformed_json"),
    ("overlong UTF-8", b'{"a": "M4RKER\xc0\xaf"}', "malformed_json"),
    ("a raw surrogate", b'{"a": "M4RKER\xed\xa0\x80"}', "malformed_json"),
    ("UTF-16", '{"a": "M4RKER"}'.encode("utf-16"), "malformed_json"),
    ("UTF-16 without mark", '{"a": "M4RKER"}'.encode("utf-16-le"), "malformed_json"),
    ("UTF-32", '{"a": "M4RKER"}'.encode("utf-32"), "malformed_json"),
    ("a byte order mark", b'\xef\xbb\xbf{"a": "M4RKER"}', "malformed_json"),
    ("a lone surrogate", b'{"a": "M4RKER\\ud800"}', "malformed_json"),
    ("a lone low surrogate", b'{"a": ["M4RKER\\udc00"]}', "malformed_json"),
    ("a lone surrogate in a key", b'{"M4RKER\\ud800": 1}', "malformed_json"),
    ("a key twice", b'{"M4RKER": 1, "M4RKER": 1}', "duplicate_key"),
    ("a key twice, once escaped", b'{"M4RKER": 1, "M4RKE\\u0052": 1}', "duplicate_key"),
    ("a key twice further down", b'[{"a": {"M4RKER": 1, "M4RKER": 2}}]', "duplicate_key"),
    ("NaN", b'{"a": NaN}', "non_finite_number"),
    ("Infinity", b'{"a": [Infinity]}', "non_finite_number"),
    ("-Infinity", b'{"a": -Infinity}', "non_finite_number"),
    ("101 levels", b"[" * 101 + b"]" * 101, "too_deep"),
    ("100,000 levels", b"[" * 100_000, "too_deep"),
    ("100,000 levels of objects", b'{"a":' * 100_000, "too_deep"),
]


@pytest.mark.parametrize(("body", "code"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_is_no_strict_json_is_refused_without_an_echo(body: bytes, code: str) -> None:
    with pytest.raises(Unreadable) as caught:
        parse(body)
    assert caught.value.stable_code == code
    assert MARK not in str(caught.value)
    assert len(caught.value.message) < 200


def nested(levels: int, innermost: bytes) -> bytes:
    return b"[" * levels + innermost + b"]" * levels


def test_a_hundred_levels_are_taken_and_no_more() -> None:
    assert MAX_DEPTH == 100
    for innermost in (b"", b"1", b'{"a": 1}'):
        levels = MAX_DEPTH - innermost.count(b"{")
        parse(nested(levels, innermost))
        with pytest.raises(Unreadable) as caught:
            parse(nested(levels + 1, innermost))
        assert caught.value.stable_code == "too_deep"


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert parse(b'"\\ud83d\\ude42"') == "🙂"


def test_a_long_number_is_taken_up_to_a_thousand_digits() -> None:
    assert parse(b"9" * 1000) == int("9" * 1000)
    assert parse(b"-" + b"9" * 999) == -int("9" * 999)


def test_where_a_fault_lies_is_told() -> None:
    with pytest.raises(Unreadable, match="line 2, column 7"):
        parse(b'{"a": 1,\n "b": x}')
    with pytest.raises(Unreadable, match="byte 7"):
        parse(b'{"a": "\xff"}')


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=60)
    | st.text(alphabet='{}[]",:0123456789eE.+-\\u truefalsn\ud800').map(lambda t: t.encode("utf-8", "replace"))
)
def test_no_body_does_anything_but_parse_or_be_refused(body: bytes) -> None:
    try:
        document = parse(body)
    except Unreadable:
        return
    json.dumps(document, ensure_ascii=False).encode()
