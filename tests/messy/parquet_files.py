"""Parquet: of odd writers, damaged, or not at all. Some may end their reader, so that they are read in a child."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from tests.messy.case import Case, refused, taken

P: Any = {"format": "parquet"}


def parquet(frame: pl.DataFrame, **options: Any) -> bytes:
    """As Polars writes it."""
    file = io.BytesIO()
    frame.write_parquet(file, **options)
    return file.getvalue()


PLAIN = parquet(pl.DataFrame({"a": [1, 2], "b": ["x", None]}), compression="uncompressed")


def _changed(place: int, *values: int) -> bytes:
    content = bytearray(PLAIN)
    content[place : place + len(values) or None] = bytes(values)
    return bytes(content)


def _series(values: list[Any], kind: Any) -> bytes:
    return parquet(pl.DataFrame({"a": pl.Series(values, dtype=kind)}))


PARQUET_FILES: list[Case] = [
    refused(
        "a text of 2 MB that takes 4 KB",
        "apache/parquet-format, Encodings.md: dictionaries",
        parquet(pl.DataFrame({"a": ["x", "y" * (2 << 20)]})),
        "cell_too_long",
        "row 2, column a",
        **P,
    ),
    *(
        refused(
            f"a date beyond the year 9999 as {name}",
            "RFC 3339, section 5.6",
            parquet(pl.DataFrame({"a": pl.Series([0, value]).cast(kind)})),
            "invalid_data",
            "row 2, column a",
            **P,
        )
        for name, kind, value in (
            ("days", pl.Date, 2**31 - 1),
            ("milliseconds", pl.Datetime("ms"), 2**61),
            ("microseconds", pl.Datetime("us", "UTC"), -(2**62)),
        )
    ),
    taken("plain", "apache/parquet-format", PLAIN, {"a": [1, 2], "b": ["x", None]}, **P),
    *(
        taken(
            f"compressed by {codec}",
            "apache/parquet-format, Compression.md",
            parquet(pl.DataFrame({"a": [1] * 99}), compression=codec),
            {"a": [1] * 99},
            **P,
        )
        for codec in ("snappy", "gzip", "brotli", "lz4", "zstd")
    ),
    taken(
        "a row group for each row",
        "pandas' row_group_size=1",
        parquet(pl.DataFrame({"a": range(50)}), row_group_size=1),
        {"a": list(range(50))},
        **P,
    ),
    taken(
        "whole numbers of 8 bits",
        "apache/parquet-format, LogicalTypes.md",
        _series([-128, 127], pl.Int8),
        {"a": [-128, 127]},
        **P,
    ),
    taken(
        "without a sign, to the end of 64 bits",
        "apache/parquet-format, LogicalTypes.md",
        _series([0, 2**64 - 1], pl.UInt64),
        {"a": [0.0, 2.0**64]},
        "whole numbers beyond 63 bits are kept as floats",
        **P,
    ),
    taken(
        "without a sign, and small",
        "apache/parquet-format, LogicalTypes.md",
        _series([0, 2**63 - 1], pl.UInt64),
        {"a": [0, 2**63 - 1]},
        **P,
    ),
    taken(
        "NaN for a gap", "pandas' floats", _series([1.5, float("nan"), None], pl.Float64), {"a": [1.5, None, None]}, **P
    ),
    refused(
        "an infinite number", "numpy", _series([1.5, float("-inf")], pl.Float64), "invalid_data", "row 2, column a", **P
    ),
    taken("decimals", "Spark's DecimalType", _series(["1.10", "2.25"], pl.Decimal(10, 2)), {"a": [1.1, 2.25]}, **P),
    taken(
        "decimals of 20 digits",
        "Oracle's NUMBER",
        _series(["12345678901234567890.5"], pl.Decimal(21, 1)),
        {"a": [12345678901234567890.5]},
        "decimals of more than 15 digits are kept as floats",
        **P,
    ),
    taken("categories", "pandas' category", _series(["x", None, "x"], pl.Categorical), {"a": ["x", None, "x"]}, **P),
    taken("nothing but gaps", "pyarrow's null type", _series([None, None], pl.Null), {"a": [None, None]}, **P),
    taken(
        "a moment in a zone",
        "Spark's TimestampType",
        _series([datetime(2024, 1, 1, tzinfo=UTC)], pl.Datetime("ns", "UTC")),
        {"a": [datetime(2024, 1, 1, tzinfo=UTC)]},
        **P,
    ),
    refused(
        "a list",
        "apache/parquet-format, LogicalTypes.md",
        _series([[1]], pl.List(pl.Int64)),
        "unsupported_type",
        "column a",
        **P,
    ),
    refused(
        "a struct",
        "apache/parquet-format, LogicalTypes.md",
        _series([{"x": 1}], pl.Struct({"x": pl.Int64})),
        "unsupported_type",
        "column a",
        **P,
    ),
    refused("bytes", "Spark's BinaryType", _series([b"x"], pl.Binary), "unsupported_type", "column a", **P),
    refused(
        "a duration", "pandas' timedelta", _series([timedelta(1)], pl.Duration), "unsupported_type", "column a", **P
    ),
    refused("no rows", "an empty partition of Spark", _series([], pl.Int64), "no_rows", "row 1", **P),
    refused(
        "a name that is empty",
        "Spark's CSV reader",
        parquet(pl.DataFrame({"": [1]})),
        "empty_name",
        "header, column 1",
        **P,
    ),
    refused(
        "a name with a line break",
        "Excel's headers",
        parquet(pl.DataFrame({"a\nb": [1]})),
        "invalid_name",
        "header, column 1",
        **P,
    ),
    refused(
        "cut off behind the data", "openobserve/openobserve#6099", PLAIN[: len(PLAIN) // 2], "unreadable", "file", **P
    ),
    refused("without its last byte", "parquet-go/parquet-go#537", PLAIN[:-1], "unreadable", "file", **P),
    refused(
        "a footer longer than the file",
        "parquet-go/parquet-go#537",
        PLAIN[:-8] + b"\xff\xff\xff\x7fPAR1",
        "unreadable",
        "file",
        **P,
    ),
    refused("a footer of no length", "apache/arrow-rs#9705", PLAIN[:-8] + b"\0\0\0\0PAR1", "unreadable", "file", **P),
    refused("two files in one", "cat(1)", PLAIN + b"\n", "unreadable", "file", **P),
    refused(
        "encrypted", "apache/parquet-format, Encryption.md", b"PARE" + PLAIN[4:-4] + b"PARE", "encrypted", "file", **P
    ),
    refused("nothing", "touch(1)", b"", "unreadable", "file", **P),
    refused("an Arrow file", "a wrong Content-Type", b"ARROW1\0\0" + bytes(64), "unreadable", "file", **P),
    refused("CSV", "a wrong Content-Type", b"a,b\n1,2\n3,4\n5,6\n", "unreadable", "file", **P),
    refused("gzip", "a wrong Content-Type", b"\x1f\x8b\x08\0" + bytes(60), "compressed", "file", **P),
]

DAMAGED = {
    f"byte {place} of {len(PLAIN)} is another, as in {origin}": _changed(place, PLAIN[place] ^ 0xFF)
    for place, origin in zip(
        np.linspace(4, len(PLAIN) - 9, 12).astype(int).tolist(),
        ["apache/parquet-java#2266", "databendlabs/databend#14296", "questdb/questdb#7223", "nao1215/filesql#415"] * 3,
        strict=True,
    )
}
"""Changed in one byte: whatever comes of it, the parser gives an answer."""
