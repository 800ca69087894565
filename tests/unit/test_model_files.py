"""Files of models from strangers: refused with every fault, or a whole model; never anything between, never a crash."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import Invalid
from common.learned import LearnedNetwork
from common.store.models import StoredModel
from service.model_files import form, tensors
from service.model_files.importing import Limits, read_model
from tests.contract import a_model
from tests.unit.rich_models import TARGETS, a_rich_model, instances

MARK = "M4RKER"
LIMITS = Limits(columns=100, parameters=10_000, lineage_bytes=2**20)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def file_of(model: StoredModel) -> bytes:
    network = LearnedNetwork.load(model.document, model.weights)
    return form.write(network, model.record.model_copy(update={"version": 1}))


PLAIN = file_of(a_model())
"""Of a model with one hidden layer."""
RICH = {target: file_of(a_rich_model(target)) for target in TARGETS}


def read(folder: Path, content: bytes, limits: Limits = LIMITS) -> StoredModel:
    path = folder / "file"
    path.write_bytes(content)
    return read_model(path, len(content), "0" * 64, limits, None, NOW)


def refused(folder: Path, content: bytes, limits: Limits = LIMITS) -> list[tuple[str, str]]:
    with pytest.raises(Invalid) as caught:
        read(folder, content, limits)
    assert caught.value.stable_code == "invalid_model_file"
    assert 1 <= len(caught.value.faults) <= 100
    assert not any(MARK in fault.message for fault in caught.value.faults)
    return [(fault.pointer, fault.code) for fault in caught.value.faults]


def parts_of(content: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Header, description and numbers of a file."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["description"]), content[8 + length :]


def made_of(header: object, numbers: bytes, description: object = None) -> bytes:
    """A file of these parts."""
    if description is not None:
        assert isinstance(header, dict)
        header["__metadata__"]["description"] = json.dumps(description)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    for target, content in RICH.items():
        model, was = read(tmp_path, content), a_rich_model(target)
        assert (model.document, model.weights) == (was.document, was.weights)


@pytest.mark.parametrize(
    "content",
    [b"", b"x", PLAIN[:7], MARK.encode() * 99, b"\0" * 8, b"\xff" * 8, b"\xff" * 99, struct.pack("<Q", 2) + b"[]"],
)
def test_what_is_no_file_of_a_model_is_refused(tmp_path: Path, content: bytes) -> None:
    assert refused(tmp_path, content)


def test_a_file_cut_short_anywhere_or_with_more_behind_it_is_refused(tmp_path: Path) -> None:
    for end in (*range(0, len(PLAIN), 23), len(PLAIN) - 1):
        assert refused(tmp_path, PLAIN[:end])
    assert refused(tmp_path, PLAIN + b"\0") == [("", "wrong_size")]


def test_a_long_header_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header, description, numbers = parts_of(PLAIN)
    monkeypatch.setattr(tensors, "MAX_HEADER", len(PLAIN) - len(numbers) - 8)
    read(tmp_path, PLAIN)
    assert refused(tmp_path, made_of(header, numbers, {**description, "": "x" * 99})) == [("", "header_too_large")]


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (b"{", "malformed_json"),
        (b'{"a":1,"a":2}', "duplicate_key"),
        (b'{"a":NaN}', "non_finite_number"),
        (b"[" * 100_000 + b"]" * 100_000, "too_deep"),
        (b'{"\xff":1}', "malformed_json"),
        (b'{"a":"\\ud800"}', "malformed_json"),
        (b'{"a":' + b"9" * 5000 + b"}", "malformed_json"),
        (b"7", "wrong_type"),
    ],
)
def test_the_header_is_json_as_strict_as_a_request(tmp_path: Path, header: bytes, code: str) -> None:
    pointers_and_codes = refused(tmp_path, struct.pack("<Q", len(header)) + header)
    assert pointers_and_codes == [("", code)]
    whole, _, numbers = parts_of(PLAIN)
    whole["__metadata__"]["description"] = header.decode("latin-1")
    assert refused(tmp_path, made_of(whole, numbers))


def test_many_tensors_and_long_lists_are_refused_with_a_short_answer(tmp_path: Path) -> None:
    header, description, numbers = parts_of(PLAIN)
    header |= {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(2_000)}
    assert len(refused(tmp_path, made_of(header, numbers))) <= 20
    header, description, numbers = parts_of(PLAIN)
    description["network"]["encoder"]["columns"] *= 500
    assert refused(tmp_path, made_of(header, numbers, description))[0] == (
        "/network/encoder/columns",
        "too_many_columns",
    )


@pytest.mark.parametrize("escaped", [False, True])
def test_more_values_than_any_model_needs_are_refused_before_they_are_parsed(tmp_path: Path, escaped: bool) -> None:
    header, _, numbers = parts_of(PLAIN)
    header["__metadata__"]["description"] = "[" + "[],[]," * 300_000 + "0]"
    content = made_of(header, numbers)
    if escaped:  # what looks like a text in the header is JSON all the same
        length = len(content) - len(numbers) - 8
        text = content[8 : 8 + length].replace(b"[],[],", b"\\u005b]\\u002c\\u005b]\\u002c")
        content = struct.pack("<Q", len(text)) + text + numbers
    place = "/__metadata__/description" if escaped else ""
    assert refused(tmp_path, content) == [(place, "header_too_large")]


@pytest.mark.parametrize(
    "path", [("network", "target", "classes"), ("model", "metrics"), ("network", "encoder", "columns")]
)
def test_longer_lists_than_any_model_has_are_not_even_validated(tmp_path: Path, path: tuple[str, ...]) -> None:
    header, description, numbers = parts_of(PLAIN)
    node = description
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = dict.fromkeys(map(str, range(10_001))) if path[-1] == "metrics" else [None] * 10_001
    assert refused(tmp_path, made_of(header, numbers, description)) == [("/__metadata__/description", "out_of_range")]


def test_sizes_are_computed_and_nothing_is_allocated_for_them(tmp_path: Path) -> None:
    header, description, numbers = parts_of(PLAIN)
    layers = [{"kind": "dense", "units": 65_536} for _ in range(64)]
    for shape in (description["network"]["network"], description["model"]["lineage"]["request"]["network"]):
        shape["layers"] = layers
    found = refused(tmp_path, made_of(header, numbers, description))
    assert found == [("/network/network/layers", "too_many_parameters")]


Spoil = Callable[[dict[str, Any], dict[str, Any]], object]


def _set(*path: str | int, value: object) -> Spoil:
    def spoil(_: dict[str, Any], description: dict[str, Any]) -> None:
        node: Any = description
        for step in path[:-1]:
            node = node[step]
        node[path[-1]] = value

    return spoil


def _tensor(name: str, **entries: object) -> Spoil:
    return lambda header, _: header[name].update(entries)


COLUMN = ("network", "encoder", "columns")
SPOILT: list[tuple[str, Spoil, list[tuple[str, str]]]] = [
    ("no tensor", lambda h, _: h.pop("layer0.bias"), [("/layer0.bias", "missing")]),
    ("a tensor too many", lambda h, _: h.update(more=h["layer0.bias"]), [("/more", "unknown_field")]),
    ("another dtype", _tensor("layer0.bias", dtype="F16"), [("/layer0.bias", "wrong_type")]),
    ("no dtype", _tensor("layer0.bias", dtype=None), [("/layer0.bias", "wrong_type")]),
    ("a huge shape", _tensor("layer0.weights", shape=[2**62, 2**62]), [("/layer0.weights", "wrong_shape")]),
    ("a shape below zero", _tensor("layer0.weights", shape=[-3, -4]), [("/layer0.weights", "wrong_shape")]),
    ("a flat shape", _tensor("layer0.weights", shape=[12]), [("/layer0.weights", "wrong_shape")]),
    ("a shape of truths", _tensor("layer0.bias", shape=[True]), [("/layer0.bias", "wrong_shape")]),
    ("offsets below zero", _tensor("layer0.bias", data_offsets=[-16, 0]), [("/layer0.bias", "wrong_offsets")]),
    ("far offsets", _tensor("layer0.bias", data_offsets=[2**63, 2**63 + 16]), [("/layer0.weights", "wrong_offsets")]),
    ("an overlap", _tensor("layer1.bias", data_offsets=[0, 8]), [("/layer0.bias", "wrong_offsets")]),
    ("no offsets", _tensor("layer0.bias", data_offsets=[]), [("/layer0.bias", "wrong_offsets")]),
    ("a tensor that is none", lambda h, _: h.update({"layer0.bias": 7}), [("/layer0.bias", "wrong_type")]),
    ("no metadata", lambda h, _: h.pop("__metadata__"), [("/__metadata__", "wrong_type")]),
    ("another format", _set("format", value="M4RKER"), [("/format", "unknown_choice")]),
    ("a later version", _set("version", value=2), [("/version", "unknown_choice")]),
    ("no model", lambda _, d: d.pop("model"), [("/model", "missing")]),
    ("more than that", lambda _, d: d.update(more=1), [("/more", "unknown_field")]),
    ("wider layers", _set("network", "network", "layers", 0, "units", value=5), [("/model/lineage/request/network", "inconsistent")]),
    ("huge layers", _set("network", "network", "layers", 0, "units", value=10**9), [("/network/network/layers/0/units", "out_of_range")]),
    ("too many layers", _set("network", "network", "layers", value=[{"kind": "layer_norm"}] * 65), [("/network/network/layers", "out_of_range")]),
    ("an unknown layer", _set("network", "network", "layers", 0, "kind", value="M4RKER"), [("/network/network/layers/0", "unknown_choice")]),
    ("a loss for numbers", _set("network", "loss", value={"kind": "mse"}), [("/network/loss", "unsuitable_loss")]),
    ("an unknown form of column", _set(*COLUMN, 0, "form", value="M4RKER"), [("/network/encoder/columns/0", "unknown_choice")]),
    ("a form that is none", _set(*COLUMN, 0, "form", value=["M4RKER"]), [("/network/encoder/columns/0", "unknown_choice")]),
    ("a column twice", _set(*COLUMN, 1, "name", value="length"), [("/network/encoder/columns/1/name", "duplicate_name")]),
    ("a name that deceives", _set(*COLUMN, 1, "name", value="a\u202eb"), [("/network/encoder/columns/1/name", "invalid_name")]),
    ("a category twice", _set(*COLUMN, 1, "categories", value=["blue", "blue"]), [("/network/encoder/columns/1/categories", "duplicate_category")]),
    ("too many categories", _set(*COLUMN, 1, "categories", value=[*map(str, range(1002))]), [("/network/encoder/columns/1/categories", "out_of_range")]),
    ("no scale", _set(*COLUMN, 0, "scale", value=0), [("/network/encoder/columns/0/scale", "out_of_range")]),
    ("a scale too small to divide by", _set(*COLUMN, 0, "scale", value=5e-324), [("/network/encoder/columns/0/scale", "out_of_range")]),
    ("a mean that is text", _set(*COLUMN, 0, "mean", value="M4RKER"), [("/network/encoder/columns/0/mean", "wrong_type")]),
    ("a fill that is too far", _set(*COLUMN, 0, "fill", value=1e300), [("/network/encoder/columns/0", "out_of_range")]),
    ("an endless fill", _set(*COLUMN, 0, "fill", value=-1.7e308), [("/network/encoder/columns/0", "out_of_range")]),
    ("no columns", _set(*COLUMN, value=[]), [("/network/encoder/columns", "too_many_columns")]),
    ("an encoder that is none", _set("network", "encoder", value=[]), [("/network/encoder", "wrong_type")]),
    ("one class", _set("network", "target", "classes", value=["a"]), [("/network/target/classes", "out_of_range")]),
    ("a class twice", _set("network", "target", "classes", value=["a", "a"]), [("/network/target/classes", "duplicate_category"), ("/model/output", "inconsistent")]),
    ("classes of two types", _set("network", "target", "classes", value=["true", True]), [("/network/target/classes", "wrong_type"), ("/model/output", "inconsistent")]),
    ("huge classes", _set("network", "target", "classes", value=[0, 10**300]), [("/network/target/classes", "out_of_range"), ("/model/output", "inconsistent")]),
    ("a task that is another", _set("model", "task", value="regression"), [("/model/task", "inconsistent")]),
    ("other inputs", _set("model", "inputs", value=[]), [("/model/inputs", "inconsistent")]),
    ("an output that is an input", _set("model", "output", "name", value="length"), [("/model/output/name", "target_is_feature")]),
    ("another number of parameters", _set("model", "parameters", value=25), [("/model/parameters", "inconsistent")]),
    ("a name that is no slug", _set("model", "name", value="M4RKER"), [("/model/name", "invalid_name")]),
    ("an id that is none", _set("model", "job_id", value="../M4RKER"), [("/model/job_id", "wrong_form")]),
    ("a time that is none", _set("model", "created_at", value="M4RKER"), [("/model/created_at", "out_of_range")]),
    ("a time before all times", _set("model", "created_at", value="0001-01-01T00:00:00+23:59"), [("/model/created_at", "out_of_range")]),
    ("a hash that is none", _set("model", "lineage", "dataset_sha256", value="M4RKER"), [("/model/lineage/dataset_sha256", "wrong_form")]),
    ("a huge lineage", _set("model", "lineage", "request", "a", value="x" * 2**20), [("/model/lineage", "out_of_range")]),
    ("a lineage without a network", _set("model", "lineage", "request", value={}), [("/model/lineage/request", "inconsistent")]),
    ("an endless number", _set("model", "lineage", "request", "a", value="INFINITE"), [("/model/lineage/request", "inconsistent")]),
    ("a version below zero", _set("model", "version", value=-1), [("/model", "out_of_range")]),
    ("a seed of 1,000 digits", _set("model", "lineage", "seed", value=10**999), [("/model", "out_of_range")]),
    ("a name with a line break", _set("model", "name", value="iris\n"), [("/model/name", "invalid_name")]),
    ("metrics without end", _set("model", "metrics", value={str(i): 0.5 for i in range(201)}), [("/model/metrics", "out_of_range")]),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "found"), [case[1:] for case in SPOILT], ids=[case[0] for case in SPOILT])
def test_every_part_of_a_file_is_checked_before_any_is_used(
    tmp_path: Path, spoil: Spoil, found: list[tuple[str, str]]
) -> None:
    header, description, numbers = parts_of(PLAIN)
    header["__metadata__"]["description"] = ""
    spoil(header, description)
    if "__metadata__" in header:
        header["__metadata__"]["description"] = json.dumps(description).replace('"INFINITE"', "1e999")
    assert refused(tmp_path, made_of(header, numbers)) == found


@pytest.mark.parametrize("bits", [b"\0\0\x80\x7f", b"\0\0\xc0\x7f", b"\0\0\x80\xff"])
def test_weights_are_finite_numbers(tmp_path: Path, bits: bytes) -> None:
    assert refused(tmp_path, PLAIN[:-4] + bits) == [("/layer1.weights", "non_finite_number")]


def test_faults_of_all_tensors_are_told_at_once(tmp_path: Path) -> None:
    header, _, numbers = parts_of(PLAIN)
    del header["layer1.bias"]
    header["layer0.bias"]["dtype"] = "F64"
    header["layer0.weights"]["shape"] = [4, 3]
    assert sorted(refused(tmp_path, made_of(header, numbers))) == [
        ("/layer0.bias", "wrong_type"),
        ("/layer0.weights", "wrong_shape"),
        ("/layer1.bias", "missing"),
    ]


# Whatever comes

_ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([0, 1, -1, 2, 1e-320, 1e-300, 1e300, -1.7e308, 1e38, 3.5e38])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places_in(node: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths of all values of a document."""
    steps: list[Any] = []
    if isinstance(node, dict):
        steps = [*node.items()]
    elif isinstance(node, list):
        steps = [*enumerate(node)]
    return [path, *(place for step, below in steps for place in places_in(below, (*path, step)))]


def harmless(folder: Path, content: bytes) -> None:
    """That a file is refused, or makes a model that answers or refuses, and that can be stored and told of."""
    try:
        model = read(folder, content)
    except Invalid:
        return
    model.record.model_dump_json()
    network = LearnedNetwork.load(model.document, model.weights)
    file_of(model)
    names = [each.name for each in model.record.inputs]
    rows: list[dict[str, object]] = [dict.fromkeys(names), dict.fromkeys(names, 0.5), *instances(2)]
    for row in rows:
        known = {name: row.get(name) for name in names}
        try:
            [prediction] = network.predict([known])
        except Invalid:
            continue
        prediction.model_dump_json()


@pytest.mark.parametrize("extreme", [5e-324, -1.7e308])
def test_no_number_of_the_description_at_the_limits_of_floats_makes_a_crash(tmp_path: Path, extreme: float) -> None:
    for target in ("texts", "a number"):
        header, description, numbers = parts_of(RICH[target])
        for *path, last in places_in(description["network"])[1:]:
            node: Any = description["network"]
            for step in path:
                node = node[step]
            if isinstance(was := node[last], float):
                node[last] = extreme
                harmless(tmp_path, made_of(header, numbers, description))
                node[last] = was


fuzzed = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzzed
@given(data=st.data())
def test_no_change_of_a_byte_makes_a_crash(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from([PLAIN, *RICH.values()])))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    harmless(tmp_path, bytes(content))


@fuzzed
@given(data=st.data())
def test_no_change_of_the_description_makes_a_crash(tmp_path: Path, data: st.DataObject) -> None:
    header, description, numbers = parts_of(data.draw(st.sampled_from([PLAIN, *RICH.values()])))
    for _ in range(data.draw(st.integers(1, 2))):
        *path, last = data.draw(st.sampled_from(places_in(description)[1:]))
        node: Any = description
        for step in path:
            node = node[step]
        node[last] = data.draw(_ANY)
        if data.draw(st.integers(0, 3)) == 0:
            del node[last]
    harmless(tmp_path, made_of(header, numbers, description))


@fuzzed
@given(data=st.data())
def test_no_change_of_a_tensor_s_entry_makes_a_crash(tmp_path: Path, data: st.DataObject) -> None:
    header, description, numbers = parts_of(RICH["texts"])
    names = [name for name in header if name != "__metadata__"]
    name = data.draw(st.sampled_from(names))
    entry = data.draw(
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I32", "BOOL", ""]),
                "shape": st.lists(st.integers(-1, 2**64), max_size=3) | st.just(header[name]["shape"]),
                "data_offsets": st.lists(st.integers(-8, 2**64), max_size=3)
                | st.sampled_from([header[other]["data_offsets"] for other in names]),
            }
        )
        | _ANY
    )
    header[name] = entry
    harmless(tmp_path, made_of(header, numbers, description))
