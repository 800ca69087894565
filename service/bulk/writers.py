"""Predictions in the form in which they go out, some rows at a time."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import polars as pl

from common.prediction_table import LABEL, PROBABILITY, QUANTILE
from service.bulk.forms import Form
from service.bulk.parquet_writer import ParquetWriter


class Writer(Protocol):
    """Writes one answer."""

    def rows(self, frame: pl.DataFrame) -> bytes:
        """Some more predictions; what of the answer can go out."""

    def end(self) -> Iterator[bytes]:
        """The rest of the answer."""

    def failure(self, problem: bytes) -> bytes:
        """How the answer says that it ends here, and why, to a caller who has had a part of it; `problem` is a JSON document."""

    def close(self) -> None:
        """Leaves nothing behind."""


def make_writer(form: Form, model_id: str, place: Callable[[], Path], limit: int) -> Writer:
    """The writer of that form; what it has to keep on disk is at a `place`, and at most `limit` bytes."""
    if form == "parquet":
        return ParquetWriter(place, limit)
    if form == "ndjson":
        return NdjsonWriter()
    if form == "json":
        return JsonWriter(model_id)
    return CsvWriter("\t" if form == "tsv" else ",")


class CsvWriter:
    """A line with the names, and a line for each row."""

    def __init__(self, separator: str) -> None:
        self._separator = separator
        self._began = False

    def rows(self, frame: pl.DataFrame) -> bytes:
        """The lines of some rows."""
        text = io.BytesIO()
        frame.write_csv(text, include_header=not self._began, separator=self._separator)
        self._began = True
        return text.getvalue()

    def end(self) -> Iterator[bytes]:
        """Nothing."""
        return iter(())

    def failure(self, _: bytes) -> bytes:
        """Nothing: CSV has no place for it."""
        return b""

    def close(self) -> None:
        """Nothing is there to be left."""


class NdjsonWriter:
    """An object in each line, as in `predictions` of a JSON answer."""

    def rows(self, frame: pl.DataFrame) -> bytes:
        """The lines of some rows."""
        return _objects(frame)

    def end(self) -> Iterator[bytes]:
        """Nothing."""
        return iter(())

    def failure(self, problem: bytes) -> bytes:
        """A last line."""
        return b'{"error":' + problem + b"}\n"

    def close(self) -> None:
        """Nothing is there to be left."""


class JsonWriter:
    """One document, as of a JSON body."""

    def __init__(self, model_id: str) -> None:
        self._before = b'{"model_id":' + json.dumps(model_id).encode() + b',"predictions":['

    def rows(self, frame: pl.DataFrame) -> bytes:
        """The objects of some rows, and what stands before them."""
        before, self._before = self._before, b","
        return before + _objects(frame).removesuffix(b"\n").replace(b"\n", b",")

    def end(self) -> Iterator[bytes]:
        """The end of the document."""
        yield b"]}"

    def failure(self, _: bytes) -> bytes:
        """Nothing: a document that is not whole cannot be read."""
        return b""

    def close(self) -> None:
        """Nothing is there to be left."""


def _objects(frame: pl.DataFrame) -> bytes:
    """Rows as lines of JSON."""
    first, *others = frame.get_columns()
    columns = [first]
    if others:
        prefix, name = (PROBABILITY, "probabilities") if first.name == LABEL else (QUANTILE, "quantiles")
        members = [series.alias(series.name.removeprefix(prefix)) for series in others]
        columns.append(pl.DataFrame(members).to_struct(name))
    text = io.BytesIO()
    pl.DataFrame(columns).write_ndjson(text)
    return text.getvalue()
