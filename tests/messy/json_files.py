"""Rows as JSON, in thirty ways."""

from __future__ import annotations

from typing import Any

from tests.messy.case import Case, refused, taken


def lines(name: str, origin: str, *rows: bytes) -> tuple[str, str, bytes]:
    """NDJSON."""
    return name, origin, b"\n".join(rows) + b"\n"


N: Any = {"format": "ndjson"}
NDJSON_FILES: list[Case] = [
    taken(
        *lines("a key that comes late", "pola-rs/polars#29330", *[b'{"a":1}'] * 200, b'{"a":1,"b":2}'),
        {"a": [1] * 201, "b": [None] * 200 + [2]},
        **N,
    ),
    taken(
        *lines("a key that goes", "Eventual-Inc/Daft#4993", b'{"a":1,"b":"x"}', b'{"a":2}'),
        {"a": [1, 2], "b": ["x", None]},
        **N,
    ),
    taken(
        *lines("null, and then a text", "apache/arrow#40107", b'{"userId":null}', b'{"userId":"for-example"}'),
        {"userId": [None, "for-example"]},
        **N,
    ),
    taken(
        *lines("null all the way", "pola-rs/polars#5875", b'{"a":null,"n":1}', b'{"a":null,"n":2}'),
        {"a": [None, None], "n": [1, 2]},
        **N,
    ),
    refused(*lines("a list", "pola-rs/polars#18244", b'{"a":1}', b'{"a":[1]}'), "nested_value", "row 2, column a", **N),
    refused(
        *lines("an object in an object", "pola-rs/polars#5875", b'{"struct":{"a":1}}'),
        "nested_value",
        "row 1, column struct",
        **N,
    ),
    taken(
        *lines("numbers and texts", "databendlabs/databend#19928", b'{"a":1}', b'{"a":"x"}', b'{"a":2.50}'),
        {"a": ["1", "x", "2.5"]},
        "mixed types, numbers and texts (first at row 2)",
        **N,
    ),
    taken(
        *lines("booleans and numbers", "SQLite's booleans", b'{"a":true}', b'{"a":0}', b'{"a":1}'),
        {"a": ["true", "0", "1"]},
        "mixed types, booleans and numbers (first at rows 2, 3)",
        **N,
    ),
    taken(
        *lines("a number as a text", "JavaScript's BigInt", b'{"id":"9007199254740993"}'),
        {"id": ["9007199254740993"]},
        **N,
    ),
    taken(
        *lines("beyond 2^53", "langfuse/langfuse#14449", b'{"id":107505301260286111}'),
        {"id": [107505301260286111]},
        **N,
    ),
    taken(
        *lines("beyond 2^53 beside fractions", "langfuse/langfuse#14449", b'{"id":107505301260286111}', b'{"id":0.5}'),
        {"id": [107505301260286112.0, 0.5]},
        "1 of 2 values are whole numbers too large to be kept exactly here (first at row 1)",
        **N,
    ),
    taken(
        *lines("beyond 64 bits", "keenerd/jshon#58", b'{"t":18446744073709548794}'),
        {"t": [1.844674407370955e19]},
        "too large to be kept exactly here",
        **N,
    ),
    refused(
        *lines("beyond every float", "RFC 8259, 6", b'{"t":1' + b"0" * 400 + b"}"),
        "invalid_data",
        "row 1, column t",
        **N,
    ),
    refused(*lines("1e400", "RFC 8259, 6", b'{"t":1}', b'{"t":1e400}'), "invalid_data", "row 2, column t", **N),
    refused(*lines("5,000 digits", "CVE-2020-10735", b'{"t":' + b"7" * 5000 + b"}"), "malformed_json", "row 1", **N),
    refused(*lines("NaN of Python's json", "mk23/jmxproxy#1", b'{"Value":NaN}'), "non_finite_number", "row 1", **N),
    refused(
        *lines("-Infinity of JavaScript", "gildas-lormeau/JSONVue#4", b'{"a":-Infinity}'),
        "non_finite_number",
        "row 1",
        **N,
    ),
    refused(*lines("a key twice", "RFC 8259, 4", b'{"a":1,"a":2}'), "duplicate_key", "row 1", **N),
    refused(
        *lines("a key twice, once escaped", "RFC 8259, 8.3", b'{"a":1,"\\u0061":2}'), "duplicate_key", "row 1", **N
    ),
    refused(
        *lines("nested nine thousand times", "sidorares/json-bigint#93", b'{"a":' * 9000 + b"1" + b"}" * 9000),
        "too_deep",
        "row 1",
        **N,
    ),
    refused(*lines("half a surrogate pair", "RFC 8259, 8.2", b'{"a":"\\ud83d"}'), "malformed_json", "row 1", **N),
    taken(*lines("a whole surrogate pair", "RFC 8259, 7", b'{"a":"\\ud83d\\ude00"}'), {"a": ["\U0001f600"]}, **N),
    refused(*lines("a number behind two zeros", "akheron/jansson#331", b'{"a":00}'), "malformed_json", "row 1", **N),
    refused(*lines("single quotes", "Python's repr", b"{'a': 1}"), "malformed_json", "row 1", **N),
    refused(*lines("a trailing comma", "JavaScript", b'{"a":1,}'), "malformed_json", "row 1", **N),
    refused(*lines("a comment", "JSON5", b'{"a":1} // one'), "malformed_json", "row 1", **N),
    refused(*lines("two objects in a line", "concatenated JSON", b'{"a":1}{"a":2}'), "malformed_json", "row 1", **N),
    refused("an object over several lines", "jq without -c", b'{\n  "a": 1\n}\n', "malformed_json", "row 1", **N),
    refused(
        *lines("an array of rows", "pandas' to_json without lines", b'[{"a":1},{"a":2}]'), "no_object", "row 1", **N
    ),
    refused(*lines("CSV", "a wrong Content-Type", b"a,b", b"1,2"), "malformed_json", "row 1", **N),
    refused(
        *lines("an empty line within", "ndjson-spec, 3.1", b'{"a":1}', b"", b'{"a":2}'), "ragged_row", "row 2", **N
    ),
    taken("no line break at the end, CRLF before", "ndjson-spec, 3.1", b'{"a":1}\r\n{"a":2}', {"a": [1, 2]}, **N),
    taken("a byte order mark", "RFC 8259, 8.1", b'\xef\xbb\xbf{"a":1}\n', {"a": [1]}, **N),
    refused(*lines("invalid UTF-8", "RFC 8259, 8.1", b'{"a":"\xff"}'), "malformed_json", "row 1", **N),
    refused("UTF-16", "RFC 8259, 8.1", '{"a":1}\n'.encode("utf-16"), "not_utf8", "row 1", **N),
    refused("nothing", "touch(1)", b"", "no_rows", "row 1", **N),
    refused(*lines("rows without keys", "RFC 8259, 4", b"{}", b"{}"), "empty_name", "row 1", **N),
    taken(
        *lines("texts keep their spaces, and words for gaps", "RFC 8259, 7", b'{"a":" NA "}', b'{"a":""}'),
        {"a": [" NA ", ""]},
        **N,
    ),
    taken(*lines("a date is a text", "RFC 8259 has no dates", b'{"d":"2024-01-27"}'), {"d": ["2024-01-27"]}, **N),
    taken(
        *lines("minus zero, and a float that is whole", "RFC 8259, 6", b'{"a":-0.0,"b":1.0}'),
        {"a": [-0.0], "b": [1.0]},
        **N,
    ),
]

R: Any = {"format": "rows"}
ROWS_FILES: list[Case] = [
    taken("rows", "this API", b'{"name":"x","rows":[{"a":1},{"b":"y"}]}', {"a": [1, None], "b": [None, "y"]}, **R),
    Case(
        "records of pandas",
        "pandas' to_json(orient='records')",
        b'[{"a":1}]',
        R,
        error="invalid_request",
        refused=("wrong_type", ""),
    ),
    Case(
        "columns of pandas",
        "pandas' to_json",
        b'{"a":{"0":1,"1":2}}',
        R,
        error="invalid_request",
        refused=("unknown_field", "/a"),
    ),
    Case("half a document", "a connection that broke", b'{"rows":[{"a":1},', R, error="malformed_json"),
    Case("a key twice", "RFC 8259, 4", b'{"rows":[{"a":1,"a":1}]}', R, error="duplicate_key"),
    Case("NaN", "Python's json", b'{"rows":[{"a":NaN}]}', R, error="non_finite_number"),
    refused(
        "a row that is a list", "pandas' to_json(orient='values')", b'{"rows":[{"a":1},[1]]}', "no_object", "row 2", **R
    ),
    refused("no rows", "RFC 8259, 5", b'{"rows":[]}', "no_rows", "row 1", **R),
]
