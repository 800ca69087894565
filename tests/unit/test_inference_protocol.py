"""Tensors to rows and back: the same rows as records are, and never anything but a known error."""

from __future__ import annotations

import asyncio
import copy
import json
import struct
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Invalid, TooLarge
from common.learned import LearnedNetwork
from service.batches import predict, rows_at_once
from service.body import BodyReader
from service.inference_protocol.datatypes import WIRE, datatype_of
from service.inference_protocol.inference import Inference, Limits
from service.inference_protocol.request import read_request
from service.inference_protocol.rows import MatrixRows
from tests.integration.learned_models import KINDS, MIXED, NUMBERS, Row, network_of

NETWORKS = {name: network_of(kind) for name, kind in KINDS.items()}
LIMITS = Limits(rows=1000, tensor_bytes=1 << 20)

FLOATS = st.floats(-1e6, 1e6)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("length", "width", "income", "rank"), FLOATS | st.integers(-1000, 1000)),
    "member": st.booleans(),
    "city": st.sampled_from(["Oslo", "東京", "", "🙂"]) | st.text(max_size=5),
    "size": st.sampled_from([1, 2, 40.5, 3]) | FLOATS,
    "open": st.booleans(),
    "since": st.datetimes().map(lambda moment: moment.isoformat(timespec="seconds")),
}
ROWS = st.lists(
    st.fixed_dictionaries({name: st.none() | value for name, value in VALUES.items()}), min_size=1, max_size=8
)


def column_of(rows: Sequence[Row], name: str) -> list[Any]:
    return [row[name] for row in rows]


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A tensor for each column."""
    return [
        {"name": c.name, "shape": [len(rows), 1], "datatype": datatype_of(c), "data": column_of(rows, c.name)}
        for c in MIXED
    ]


def as_binary(tensors: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], bytes]:
    """The same in binary form, where that can say it."""
    made, parts = list[dict[str, Any]](), list[bytes]()
    for tensor in tensors:
        datatype, data = tensor["datatype"], tensor["data"]
        if datatype != "BYTES":
            datatype = "FP64" if None in data else datatype
            content = np.array([np.nan if cell is None else cell for cell in data], WIRE[datatype]).tobytes()
        elif None in data:
            made.append(tensor)
            continue
        else:
            content = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in data)
        parameters = {"binary_data_size": len(content)}
        made.append({"name": tensor["name"], "shape": tensor["shape"], "datatype": datatype, "parameters": parameters})
        parts.append(content)
    return made, b"".join(parts)


def answered(network: LearnedNetwork, document: object, binary: bytes = b"") -> dict[str, Any]:
    """What an inference answers, in JSON."""
    inference = Inference(network, read_request(json.dumps(document).encode()), LIMITS)
    answers, start = [], 0
    for size in inference.parts:
        answers.append(inference.predict(memoryview(binary)[start : start + size], start))
        start += size
    answer = inference.answer(np.concatenate(answers), {})
    assert answer.header_length is None
    return {output["name"]: output["data"] for output in json.loads(answer.body)["outputs"]}


@settings(max_examples=25)
@given(ROWS)
def test_tensors_say_what_records_say(rows: list[Row]) -> None:
    for name in ("truths", "texts", "value"):
        network = NETWORKS[name]
        expected = network.predict(rows)
        tensors = as_json(rows)
        binary, content = as_binary(tensors)
        for found in (answered(network, {"inputs": tensors}), answered(network, {"inputs": binary}, content)):
            if name == "value":
                assert found["value"] == [prediction.value for prediction in expected]
            else:
                assert found["label"] == [prediction.label for prediction in expected]
                probabilities = [list((prediction.probabilities or {}).values()) for prediction in expected]
                assert found["probabilities"] == [number for row in probabilities for number in row]


@given(
    st.integers(1, 40),
    st.sampled_from(sorted(set(WIRE) - {"BOOL"})),
    st.integers(0, 2**32),
)
def test_a_matrix_of_any_datatype_says_what_its_numbers_say(rows: int, datatype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 100, (rows, len(NUMBERS))).astype(WIRE[datatype])
    if matrix.dtype.kind == "f":
        matrix[rng.random(matrix.shape) < 0.2] = np.nan
    network = NETWORKS["quantiles"]
    numbers = matrix.astype(np.float64).tolist()
    expected = network.predict([[None if cell != cell else cell for cell in row] for row in numbers])
    tensor = {
        "name": "instances",
        "shape": list(matrix.shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": matrix.nbytes},
    }
    found = answered(network, {"inputs": [tensor]}, matrix.tobytes())
    assert found["value"] == [prediction.value for prediction in expected]


def test_rows_in_many_parts_say_what_they_say_together() -> None:
    network = NETWORKS["digits"]
    matrix = np.random.default_rng(0).normal(size=(2 * rows_at_once(network) + 17, len(NUMBERS)))
    parts = list(predict(network, MatrixRows(matrix, network.encoder.columns, "")))
    assert list(map(len, parts)) == [1024, 1024, 17]
    for row in (0, 1023, 1024, len(matrix) - 1):
        (alone,) = predict(network, MatrixRows(matrix[row : row + 1], network.encoder.columns, ""))
        np.testing.assert_allclose(np.concatenate(parts)[[row]], alone, rtol=1e-6)


# Whatever comes

STRANGE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["FP64", "BOOL", "BYTES", "INT8", "instances", "length", "label", "binary_data_size", ""])
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


def places_of(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a document."""
    keys = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    return [path, *(place for key in keys for place in places_of(document[key], (*path, key)))]


def changed(document: Any, path: tuple[Any, ...], value: object) -> Any:
    if not path:
        return value
    copied = copy.deepcopy(document)
    node = copied
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return copied


@given(st.data())
def test_a_request_that_was_tampered_with_is_answered_or_refused(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["texts", "digits"]))
    if name == "texts":
        rows = [row for row in KINDS["texts"].rows if None not in row.values()]
        inputs, binary = as_binary(as_json(rows)) if data.draw(st.booleans()) else (as_json(rows), b"")
    else:
        binary = np.ones((3, 4)).tobytes()
        parameters = {"binary_data_size": len(binary)}
        inputs = [{"name": "instances", "shape": [3, 4], "datatype": "FP64", "parameters": parameters}]
    document: Any = {"id": "1", "inputs": inputs, "outputs": [{"name": "label", "parameters": {"binary_data": False}}]}
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(places_of(document)))
        document = changed(document, path, data.draw(STRANGE))
    if data.draw(st.booleans()):
        cut = data.draw(st.integers(0, len(binary)))
        binary = binary[:cut] + data.draw(st.binary(max_size=12)) + binary[cut + data.draw(st.integers(0, 12)) :]
    try:
        inference = Inference(NETWORKS[name], read_request(json.dumps(document).encode()), LIMITS)
        parts, start = inference.parts, 0
        if sum(parts) != len(binary):  # which the route refuses
            return
        for size in parts:
            inference.answer(inference.predict(memoryview(binary)[start : start + size], start), {})
            start += size
    except (Invalid, TooLarge):
        pass


# Bodies


async def stream(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@given(st.lists(st.binary(max_size=9), max_size=9), st.lists(st.integers(0, 12), max_size=9))
def test_a_body_is_read_in_pieces_of_any_size(chunks: list[bytes], sizes: list[int]) -> None:
    whole = b"".join(chunks)

    async def read() -> None:
        reader, start = BodyReader(stream(chunks), len(whole)), 0
        for size in sizes:
            assert bytes(await reader.read(size)) == whole[start : start + size]
            start += size
        assert await reader.rest() == whole[start:]
        assert not await reader.read(1)

    asyncio.run(read())


def test_a_body_is_not_read_beyond_its_limit() -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(10)

    with pytest.raises(TooLarge):
        asyncio.run(BodyReader(endless(), 95).rest())
    assert taken == 10


def test_a_body_takes_memory_only_as_it_comes() -> None:
    before, held = psutil.Process().memory_info().rss, 0

    async def stalling() -> AsyncIterator[bytes]:
        nonlocal held
        yield b"ab"
        held = psutil.Process().memory_info().rss - before

    assert bytes(asyncio.run(BodyReader(stalling(), 1 << 28).read(1 << 28))) == b"ab"
    assert held < 1 << 27
