"""What a careless or hostile caller may send: always a problem with a stable code, never a crash, never an echo."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import signal
import socket
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.store.stores import Stores
from tests.conftest import start_api
from tests.contract import create, publish
from tests.integration.test_api import CSV, MARK, files_in, quick_parser, refused, request_of, upload

__all__ = ["quick_parser"]

JSON = {"Content-Type": "application/json"}

# Bodies

BODIES: list[tuple[str, bytes, int, str]] = [
    ("nothing", b"", 400, "malformed_json"),
    ("no JSON", b"M4RKER", 400, "malformed_json"),
    ("half of it", b'{"dataset_id": "M4RKER', 400, "malformed_json"),
    ("a form", b"dataset_id=M4RKER", 400, "malformed_json"),
    ("XML", b"<?xml version='1.0'?><a>M4RKER</a>", 400, "malformed_json"),
    ("101 levels", b'{"a":' * 101 + b"1" + b"}" * 101, 400, "too_deep"),
    ("100,000 levels", b"[" * 100_000 + b"]" * 100_000, 400, "too_deep"),
    ("a key twice", b'{"M4RKER":1,"M4RKER":2}', 400, "duplicate_key"),
    ("NaN", b'{"M4RKER":NaN}', 400, "non_finite_number"),
    ("Infinity", b'{"a":-Infinity}', 400, "non_finite_number"),
    ("5,000 digits", b'{"a":' + b"7" * 5000 + b"}", 400, "malformed_json"),
    ("invalid UTF-8", b'{"a":"M4RKER\xff"}', 400, "malformed_json"),
    ("UTF-16", '{"a":"M4RKER"}'.encode("utf-16"), 400, "malformed_json"),
    ("a lone surrogate", b'{"a":"M4RKER\\ud800"}', 400, "malformed_json"),
    ("a lone surrogate as a key", b'{"\\udfff":1}', 400, "malformed_json"),
    ("an array", b'["M4RKER"]', 422, "invalid_request"),
    ("a text", b'"M4RKER"', 422, "invalid_request"),
    ("a number", b"1e400", 422, "invalid_request"),
    ("null", b"null", 422, "invalid_request"),
    ("nothing in it", b"{}", 422, "invalid_request"),
    ("a pickle", pickle.dumps({"a": 1}), 400, "malformed_json"),
    ("gzip", gzip.compress(b"{}"), 400, "malformed_json"),
]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/models/iris/predict"])
@pytest.mark.parametrize(("body", "status", "code"), [case[1:] for case in BODIES], ids=[case[0] for case in BODIES])
def test_a_body_that_is_none_is_refused(
    api: TestClient, stores: Stores, path: str, body: bytes, status: int, code: str
) -> None:
    publish(stores)
    refused(api.post(path, content=body, headers=JSON), status, code)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.binary(max_size=40), st.sampled_from(["/v1/jobs", "/v1/models/iris/predict"]))
def test_no_bytes_at_all_make_it_fail(api: TestClient, body: bytes, path: str) -> None:
    assert api.post(path, content=body, headers=JSON).status_code in (400, 404, 422)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["name", "features", "network", "loss", "optimizer", "training", "validation", "stopping", "cluster", "labels"]


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), ANY_JSON, max_size=4))
def test_no_request_at_all_makes_it_fail(api: TestClient, stores: Stores, body: dict[str, object]) -> None:
    dataset = stores.datasets.page(1).data or [create(stores)]
    answer = api.post("/v1/jobs", json={**request_of(dataset[0]), **body})
    assert answer.status_code in (201, 400, 422), answer.text
    if answer.status_code == 422:
        assert refused(answer, 422, "invalid_request")


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(ANY_JSON | st.fixed_dictionaries({"length": ANY_JSON, "colour": ANY_JSON}), max_size=3))
def test_no_instances_at_all_make_a_prediction_fail(api: TestClient, stores: Stores, instances: list[object]) -> None:
    if not stores.models.page(1).data:
        publish(stores)
    answer = api.post("/v1/models/iris/predict", json={"instances": instances})
    assert answer.status_code in (200, 422), answer.text
    json.loads(answer.text, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("pointer", "literal"),
    [
        ("/optimizer/learning_rate", b'{"optimizer":{"kind":"adam","learning_rate":1e400}}'),
        ("/optimizer/learning_rate", b'{"optimizer":{"kind":"adam","learning_rate":-1e400}}'),
        ("/optimizer/learning_rate", b'{"optimizer":{"kind":"sgd","learning_rate":1e-400}}'),
        ("/optimizer/learning_rate", b'{"optimizer":{"kind":"sgd","learning_rate":1e308}}'),
        ("/optimizer/learning_rate", b'{"optimizer":{"kind":"sgd","learning_rate":"0.1"}}'),
        ("/optimizer/learning_rate", b'{"optimizer":{"kind":"sgd","learning_rate":true}}'),
        ("/optimizer/learning_rate", b'{"optimizer":{"kind":"sgd","learning_rate":null}}'),
        ("/training/epochs", b'{"training":{"epochs":9223372036854775808}}'),
        ("/training/epochs", b'{"training":{"epochs":' + b"9" * 999 + b"}}"),
        ("/training/epochs", b'{"training":{"epochs":1.5}}'),
        ("/training/batch_size", b'{"training":{"batch_size":0}}'),
        ("/cluster/workers", b'{"cluster":{"workers":10000}}'),
        ("/network/layers", b'{"network":{"layers":[]}}'),
        ("/network/layers/0/units", b'{"network":{"layers":[{"kind":"dense","units":1000000000}]}}'),
        ("/stopping/target_loss", b'{"stopping":{"target_loss":1e999}}'),
        ("/labels/a", b'{"labels":{"a":["M4RKER"]}}'),
        ("/__class__", b'{"__class__":"M4RKER"}'),
        ("/loss", b'{"loss":{"kind":"__class__","M4RKER":1}}'),
        (
            "/network/layers/0/activation",
            b'{"network":{"layers":[{"kind":"dense","units":1,"activation":"os.system"}]}}',
        ),
    ],
)
def test_a_number_or_a_choice_that_cannot_be_is_refused_at_its_place(
    api: TestClient, stores: Stores, pointer: str, literal: bytes
) -> None:
    head = f'{{"dataset_id":"{create(stores).id}","target":"species",'.encode()
    answer = api.post("/v1/jobs", content=head + literal[1:], headers=JSON)
    assert [place for place, _ in refused(answer, 422, "invalid_request")] == [pointer]


def test_ten_thousand_layers_are_refused_with_a_short_answer(api: TestClient, stores: Stores) -> None:
    network = {"layers": [{"kind": "dense", "units": 1}] * 10_000}
    answer = api.post("/v1/jobs", json=request_of(create(stores), network=network))
    assert refused(answer, 422, "invalid_request") == [("/network/layers", "out_of_range")]


@pytest.mark.parametrize(
    "changes",
    [
        {"features": ["nothing"] * 20_000},
        {"features": [1] * 20_000},
        {f"unknown{place}": 1 for place in range(20_000)},
        {"labels": {f"bad key {place}": 1 for place in range(20)}, "columns": {"a": [1] * 20_000}},
    ],
)
def test_very_many_faults_make_a_short_answer(api: TestClient, stores: Stores, changes: dict[str, object]) -> None:
    body = request_of(create(stores), **changes)
    answer = api.post("/v1/jobs", json=body)
    assert 1 <= len(refused(answer, 422, "invalid_request")) <= 100
    assert len(answer.content) < 50_000
    checked = api.post("/v1/jobs", params={"dry_run": "1"}, json=body)
    assert checked.json()["valid"] is False
    assert len(checked.content) < 50_000


# Headers


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/plain",
        "text/json",
        "application/jsonx",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/json5, application/json",
        "M4RKER",
        "text/csv",
        "application/problem+json",
        "*/*",
    ],
)
def test_json_of_another_type_is_refused(api: TestClient, kind: str) -> None:
    for path in ("/v1/jobs", "/v1/models/iris/predict")[: 1 if kind == "text/csv" else 2]:  # which is predicted
        answer = api.post(path, content=b'{"M4RKER":1}', headers={"Content-Type": kind})
        refused(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/plain",
        "application/octet-stream",
        "multipart/form-data",
        "application/zip",
        "application/python-pickle",
        "application/x-npy",
        "application/x-tar",
        "M4RKER",
        "*/*",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "application/vnd.apache.arrow.file",
    ],
)
def test_a_file_of_another_type_is_refused_unread(api: TestClient, stores: Stores, kind: str) -> None:
    refused(upload(api, CSV, kind), 415, "unsupported_media_type")
    assert files_in(stores) == []


def test_a_body_without_a_type_is_refused(api: TestClient) -> None:
    for path in ("/v1/jobs", "/v1/datasets"):
        request = api.build_request("POST", path, content=b"{}")
        assert "Content-Type" not in request.headers
        refused(api.send(request), 415, "unsupported_media_type")


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "deflate", "br", "zstd", "gzip, gzip", "identity, gzip", "M4RKER"])
def test_a_compressed_body_is_refused_and_not_expanded(api: TestClient, stores: Stores, coding: str) -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    headers = {"Content-Encoding": coding}
    if coding.lower() != "gzip":
        refused(upload(api, bomb, headers=headers), 415, "unsupported_media_type")
    for path in ("/v1/jobs", "/v1/models/iris/predict"):
        answer = api.post(path, content=bomb, headers={**JSON, **headers})
        refused(answer, 415, "unsupported_media_type")
    assert files_in(stores) == []


def test_a_body_that_is_coded_as_itself_is_read(api: TestClient, stores: Stores) -> None:
    body = request_of(create(stores))
    assert api.post("/v1/jobs", json=body, headers={"Content-Encoding": "identity"}).status_code == 201


# Names and ids

KEPT = ["emoji 🙂", "名前", "x" * 200, "../../etc/passwd", "%2f%2e", "*", "$HOME", "`id`", "<script>alert(1)</script>"]
KEPT += ["'; FLUSHALL", "a:b", "{}", "[0]", "\\", '"', "C:\\x", "file:///etc/passwd", "👩\u200d🔬", "=1+1", "a\u0301"]


@pytest.mark.usefixtures("quick_parser")
@pytest.mark.parametrize("name", KEPT)
def test_a_name_is_kept_as_text_and_never_acted_on(api: TestClient, stores: Stores, name: str) -> None:
    dataset = upload(api, name=name).json()
    assert dataset["name"] == name
    assert api.get(f"/v1/datasets/{dataset['id']}").json()["name"] == name
    job = api.post("/v1/jobs", json={"dataset_id": dataset["id"], "target": "species", "name": name}).json()
    assert job["name"] == name
    assert api.get(f"/v1/jobs/{job['id']}").json()["name"] == name
    assert files_in(stores) == [f"{dataset['id']}.parquet"]


@pytest.mark.parametrize(
    "name", ["M4RKER\n", "\r", "\0", "\x1b[31m", "\u202eM4RKER", "a\u2066b", "\u200f", "\u2028", "\ufeff", "x" * 10_000]
)
def test_a_name_that_misleads_is_refused(api: TestClient, stores: Stores, name: str) -> None:
    code = "invalid_name" if len(name) < 200 else "out_of_range"
    assert refused(upload(api, name=name), 422, "invalid_request") == [("name", code)]
    answer = api.post("/v1/jobs", json=request_of(create(stores), name=name))
    assert refused(answer, 422, "invalid_request") == [("/name", code)]


TRICKS = ["..", "...", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%00", "ds_%00", "ds_0000000000000000000000000%00", "*", "?"]
TRICKS += ["ds_000000000000000000000000%0a", "ds_0000000000000000000000000.parquet", "ds_../../x", "-1", "%ff", "%25"]
TRICKS += [
    "ds_0000000000000000000000000/../ds_1",
    "DS_0000000000000000000000000",
    "ds_" + "0" * 5000,
    "名",
    "%F0%9F%99%82",
]


@pytest.mark.parametrize("trick", TRICKS)
def test_an_id_with_a_trick_in_it_finds_nothing(api: TestClient, stores: Stores, trick: str) -> None:
    create(stores)
    for collection in ("datasets", "jobs", "models"):
        for suffix in ("", "/rows", "/events"):
            answer = api.get(f"/v1/{collection}/{trick}{suffix}")
            if answer.status_code != 404:  # the client has walked up the path before it sent it
                assert answer.request.url.path.rstrip("/") in ("/v1", "/v1/datasets", "/v1/jobs", "/v1/models")
                continue
            assert refused(answer, 404, answer.json()["code"]) == []
            assert answer.json()["code"].endswith("not_found")


# Files


def as_zip(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, CSV)
    return file.getvalue()


def as_tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        information = tarfile.TarInfo("../../data.csv")
        information.size = len(CSV)
        archive.addfile(information, io.BytesIO(CSV))
    return file.getvalue()


def saved(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


class Exploit:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, int]]:
        return os.mkdir, (str(self.path), 0o700)


FORMATS: dict[str, bytes] = {
    "npy": saved(lambda file: np.save(file, np.arange(9.0))),
    "npz": saved(lambda file: np.savez(file, a=np.arange(9.0))),
    "zip": as_zip("data.csv"),
    "xlsx": as_zip("xl/workbook.xml"),
    "tar": as_tar(),
    "gzip": gzip.compress(CSV),
    "feather": saved(lambda file: pl.DataFrame({"a": [1, 2]}).write_ipc(file)),
    "pickle": pickle.dumps({"a": [1, 2]}, 4),
    "executable": b"\x7fELF\x02\x01\x01" + bytes(60),
    "random bytes": np.random.default_rng(1).bytes(5000),
}


@pytest.mark.usefixtures("quick_parser")
@pytest.mark.parametrize("kind", ["text/csv", "application/vnd.apache.parquet", "application/x-ndjson"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_is_not_what_it_says_is_refused(api: TestClient, stores: Stores, name: str, kind: str) -> None:
    answer = upload(api, FORMATS[name], kind, name=f"{name}.csv")
    refused(answer, 422, "invalid_data")
    assert files_in(stores) == []


@pytest.mark.usefixtures("quick_parser")
def test_csv_and_parquet_that_trade_their_types_are_refused(api: TestClient, stores: Stores) -> None:
    parquet = saved(lambda file: pl.DataFrame({"a": [1, 2]}).write_parquet(file))
    refused(upload(api, parquet, "text/csv"), 422, "invalid_data")
    refused(upload(api, CSV, "application/vnd.apache.parquet"), 422, "invalid_data")
    assert files_in(stores) == []


@pytest.mark.parametrize("kind", ["text/csv", "application/vnd.apache.parquet"])
def test_nothing_is_ever_unpickled(api: TestClient, stores: Stores, tmp_path: Path, kind: str) -> None:
    exploit = Exploit(tmp_path / "pwned")
    for protocol in (0, 4):
        pickle.loads(pickle.dumps(exploit, protocol))  # noqa: S301  # it works
        exploit.path.rmdir()
    refused(upload(api, pickle.dumps(exploit, 4), kind, name="data.csv"), 422, "invalid_data")
    assert files_in(stores) == []
    assert upload(api, pickle.dumps(exploit, 0), kind).status_code in (201, 422)  # it is lines of text
    assert not exploit.path.exists()


CSV_FAULTS: list[tuple[str, bytes, str, str]] = [
    ("empty", b"\n", "header, column 1", "empty_name"),
    ("header only", b"a,b\n", "row 1", "no_rows"),
    ("ragged", b"a,b\n1,2\nM4RKER\n", "row 2", "ragged_row"),
    ("unclosed quote", b'a,b\n"M4RKER,2\n', "row 1", "unclosed_quote"),
    ("duplicate names", b"M4RKER,M4RKER\n1,2\n", "header, column 2", "duplicate_name"),
    ("empty name", b"a,\n1,2\n", "header, column 2", "empty_name"),
    ("NUL", b"a\nM4RKER\0\n", "row 1, column a", "nul_character"),
    ("UTF-16", "a\nM4RKER\n".encode("utf-16"), "row 1", "not_utf8"),
    ("Latin-1", b"a\nM4RKER\xe9\n", "row 1, column a", "not_utf8"),
    ("a cell of 2 MB", b"a\n" + b"M4RKER" * 350_000 + b"\n", "row 1", "cell_too_long"),
    ("100,000 columns", b",".join(b"c%d" % place for place in range(100_000)) + b"\n", "header", "too_many_columns"),
    ("infinity", b"a\n1\ninf\n", "row 2, column a", "invalid_data"),
]


@pytest.mark.usefixtures("quick_parser")
@pytest.mark.parametrize(
    ("content", "place", "code"), [case[1:] for case in CSV_FAULTS], ids=[case[0] for case in CSV_FAULTS]
)
def test_a_csv_file_is_refused_with_row_and_column_and_without_its_cells(
    api: TestClient, stores: Stores, content: bytes, place: str, code: str
) -> None:
    assert refused(upload(api, content), 422, "invalid_data")[0] == (place, code)
    assert files_in(stores) == []


@pytest.mark.usefixtures("quick_parser")
def test_a_number_column_with_a_text_in_its_last_row_is_told_of(api: TestClient) -> None:
    dataset = upload(api, b"age,y\n" + b"".join(b"%d,%d\n" % (i % 30, i % 2) for i in range(200)) + b"old,1\n").json()
    assert any("age" in warning and "row 201" in warning for warning in dataset["warnings"])
    assert dataset["columns"][0]["kind"] == "categorical"


# A server of its own, spoken to over a socket


@dataclass
class Server:
    """An API process."""

    port: int
    log: Path
    data: Path

    def send(self, data: bytes, *, half_close: bool = False) -> bytes:
        """What is answered until the server closes the connection."""
        with closing(socket.create_connection(("127.0.0.1", self.port), timeout=20)) as connection:
            answer = b""
            with suppress(ConnectionError):  # it may close before it has read everything
                connection.sendall(data)
                if half_close:
                    connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65_536):
                    answer += part
            return answer

    def forgets_uploads(self) -> None:
        """Waits until nothing is left of what was refused: it may close a connection before it has cleaned up."""
        deadline = time.monotonic() + 10
        while any(path.is_file() for path in self.data.rglob("*")):
            assert time.monotonic() < deadline
            assert self.is_alive()

    def is_alive(self) -> bool:
        return self.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").startswith(
            b"HTTP/1.1 200 "
        )


@pytest.fixture(scope="module")
def server(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    process = start_api(folder / "log", redis_url, CHAINRULE_MAX_UPLOAD_BYTES="5000", CHAINRULE_STATE_DIR=str(folder))
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "answers at http://127.0.0.1:" in line
    yield Server(int(line.rsplit(":", 1)[1]), folder / "log", folder / "data")
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    process.stdout.close()


def post(path: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    lines = (b"POST " + path + b" HTTP/1.1", b"Host: localhost", b"Connection: close", *headers, b"", body)
    return b"\r\n".join(lines)


TYPE = b"Content-Type: application/json"
REQUESTS: list[tuple[str, bytes, bytes]] = [
    ("two hosts", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", b"400"),
    ("no host", b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n", b"400"),
    ("another host", b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", b"400"),
    ("another protocol", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
    ("two lengths", post(b"/v1/jobs", TYPE, b"Content-Length: 2", b"Content-Length: 3", body=b"{} "), b"400"),
    ("a negative length", post(b"/v1/jobs", TYPE, b"Content-Length: -2", body=b"{}"), b"400"),
    ("a length of 5,000 digits", post(b"/v1/datasets", TYPE, b"Content-Length: " + b"9" * 5000), b"400"),
    ("a length in hexadecimal", post(b"/v1/jobs", TYPE, b"Content-Length: 0x2", body=b"{}"), b"400"),
    ("a length and chunks", post(b"/v1/jobs", TYPE, b"Content-Length: 4", b"Transfer-Encoding: chunked",
                                 body=b"2\r\n{}\r\n0\r\n\r\n"), b"4"),
    ("chunks that are none", post(b"/v1/jobs", TYPE, b"Transfer-Encoding: chunked", body=b"M4RKER\r\n{}\r\n0\r\n\r\n"),
     b"400"),
    ("a coding unknown", post(b"/v1/jobs", TYPE, b"Transfer-Encoding: M4RKER", body=b"{}"), b"400"),
    ("a carriage return in a header", post(b"/v1/jobs", b"Idempotency-Key: a\rb"), b"400"),
    ("a space before the colon", post(b"/v1/jobs", b"Content-Length : 2", body=b"{}"), b"400"),
    ("64 KB of headers", post(b"/v1/jobs", b"X-Much: " + b"a" * 65_536), b"431"),
    ("a path that goes up", b"GET /v1/datasets/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
     b"404"),
    ("a path that goes up encoded", b"GET /static-offline-docs/..%2f..%2f..%2fapp.py HTTP/1.1\r\nHost: localhost\r\n"
     b"Connection: close\r\n\r\n", b"404"),
    ("a path that goes up among the assets", b"GET /static-offline-docs/../../app.py HTTP/1.1\r\nHost: localhost\r\n"
     b"Connection: close\r\n\r\n", b"404"),
    ("a path of NUL", b"GET /v1/jobs/%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"404"),
    ("another server's path", b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"400"),
    ("a tunnel", b"CONNECT evil.example:80 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"400"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "status"), [case[1:] for case in REQUESTS], ids=[case[0] for case in REQUESTS])
def test_a_request_that_is_none_is_refused_and_the_server_lives(server: Server, data: bytes, status: bytes) -> None:
    answer = server.send(data)
    assert answer.startswith(b"HTTP/1.1 " + status), answer[:200]
    assert MARK.encode() not in answer
    assert b"Traceback" not in answer
    assert server.is_alive()


@pytest.mark.parametrize(
    "data",
    [
        post(b"/v1/jobs", *[b"X-%d: M4RKER" % place for place in range(60_000)]),
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        post(
            b"/v1/jobs",
            TYPE,
            b"Transfer-Encoding: chunked",
            body=b"2\r\n{}\r\n0\r\n" + b"".join(b"X-%d: M4RKER\r\n" % place for place in range(60_000)) + b"\r\n",
        ),
        post(
            b"/v1/jobs", TYPE, b"Transfer-Encoding: chunked", body=b"2;" + b"M4RKER" * 200_000 + b"\r\n{}\r\n0\r\n\r\n"
        ),
        post(b"/v1/jobs", b"X-Folded: a", *[b" M4RKER" for _ in range(150_000)]),
    ],
    ids=["headers", "path", "trailers", "chunk extension", "folded header"],
)
def test_a_megabyte_outside_of_the_body_ends_the_connection(server: Server, data: bytes) -> None:
    answer = server.send(data)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert MARK.encode() not in answer
    assert server.is_alive()


def test_a_body_that_ends_early_stores_nothing_and_is_no_error_of_ours(server: Server, stores: Stores) -> None:
    for path, kind in ((b"/v1/datasets", b"text/csv"), (b"/v1/jobs", b"application/json")):
        data = post(path, b"Content-Type: " + kind, b"Content-Length: 100", body=b"a,b\n1")
        answer = server.send(data, half_close=True)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert server.is_alive()
    assert stores.datasets.page(10).data == []
    server.forgets_uploads()
    assert "Traceback" not in server.log.read_text()


def test_a_body_over_the_limit_ends_the_connection_however_it_comes(server: Server) -> None:
    kind = b"Content-Type: text/csv"
    declared = server.send(post(b"/v1/datasets", kind, b"Content-Length: 99999999", body=b"a\n"))
    chunk = b"1000\r\n" + b"a" * 4096 + b"\r\n"
    streamed = server.send(post(b"/v1/datasets", kind, b"Transfer-Encoding: chunked", body=chunk * 2))
    for answer in (declared, streamed):
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in head.lower()
        assert json.loads(body)["code"] == "too_large"
    server.forgets_uploads()
    assert server.is_alive()


def test_two_requests_on_one_connection_get_their_own_answers(server: Server) -> None:
    first = b"GET /v1/jobs?limit=0 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    second = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = server.send(first + second)
    assert answer.index(b"HTTP/1.1 422") < answer.index(b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1") == 2


def test_headers_that_come_after_a_body_are_none_of_the_request(server: Server) -> None:
    body = b"2\r\n{}\r\n0\r\nContent-Type: text/csv\r\nHost: evil.example\r\n\r\n"
    answer = server.send(post(b"/v1/jobs", TYPE, b"Transfer-Encoding: chunked", body=body))
    assert answer.startswith(b"HTTP/1.1 422 ")  # as without them: fields are missing


def test_a_wish_for_another_protocol_is_passed_over_and_the_body_is_read(server: Server) -> None:
    wish = (b"Host: localhost", b"Connection: Upgrade, HTTP2-Settings", b"UPGRADE: h2c", b"HTTP2-Settings: AAEAAEAA")
    lines = (b"POST /v1/jobs HTTP/1.1", *wish, TYPE, b"Content-Length: 25", b"", b'{"a":"b\\r\\n\\r\\nupgrade:"}')
    last = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = server.send(b"\r\n".join(lines) + last)
    assert answer.startswith(b"HTTP/1.1 422 "), answer[:200]
    assert b"HTTP/1.1 200 " in answer
    csv = b"a,b\r\nupgrade:,1\r\nc,2\r\n"
    upload = (
        b"POST /v1/datasets HTTP/1.1",
        *wish,
        b"Content-Type: text/csv",
        b"Content-Length: %d" % len(csv),
        b"",
        csv,
    )
    assert b'"rows":2' in server.send(b"\r\n".join(upload) + last)


def test_thousands_of_requests_that_wait_for_no_answer_end_the_connection(server: Server) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = server.send(request * 5000)
    assert answer.count(b"HTTP/1.1 200") < 100
    assert server.is_alive()
    some = server.send(request * 5 + request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert some.count(b"HTTP/1.1 200") == 6


def test_what_is_set_wrong_does_not_start_and_says_why(redis_url: str, stores: Stores, tmp_path: Path) -> None:
    cases = [
        ("chainrule keys create", redis_url, {"CHAINRULE_HOST": "::"}),
        ("CHAINRULE_REDIS_URL must begin with", "localhost:6379", {}),
        ("Check CHAINRULE_REDIS_URL", "unix:///nowhere/redis.sock", {}),
        ("CHAINRULE_PORTT: no such setting", redis_url, {"CHAINRULE_PORTT": "1"}),
    ]
    assert stores.access.digests() == frozenset()
    processes = [
        start_api(tmp_path / str(place), url, CHAINRULE_STATE_DIR=str(tmp_path), **variables)
        for place, (_, url, variables) in enumerate(cases)
    ]
    for place, (process, (reason, _, _)) in enumerate(zip(processes, cases, strict=True)):
        with process:
            assert process.wait(30) == 1
            assert process.stdout is not None
            assert process.stdout.read() == ""
        said = (tmp_path / str(place)).read_text()
        assert reason in said
        assert "Traceback" not in said


def test_a_misspelt_query_parameter_is_refused_and_starts_nothing(api: TestClient) -> None:
    answer = api.post("/v1/jobs?dryrun=true", json={"dataset_id": "ds_1", "target": "a"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["code"] == "unknown_parameter"
    assert "dry_run" in answer.json()["errors"][0]["message"]
    assert api.get("/v1/models?nmae=x").status_code == 422
    assert api.get("/v1/jobs").json()["data"] == []


def test_a_name_that_is_too_long_to_be_a_field_is_cut_in_the_answer(api: TestClient) -> None:
    answer = api.post("/v1/jobs", json={"dataset_id": "ds_1", "target": "a", "x" * 100_000: 1})
    assert answer.status_code == 422
    assert len(answer.content) < 1000


def test_a_query_parameter_that_is_given_twice_is_refused_unless_it_is_a_list(api: TestClient) -> None:
    for query, place in (("label=team:a&label=env:dev", "label"), ("state=queued&state=running", "state")):
        answer = api.get(f"/v1/jobs?{query}")
        assert answer.status_code == 422
        assert [(e["pointer"], e["code"]) for e in answer.json()["errors"]] == [(place, "repeated_parameter")]
    csv = {"Content-Type": "text/csv"}
    answer = api.post("/v1/datasets?name=gaps&null=none&null=nil", content=b"a,b\n1,none\nnil,2\n", headers=csv)
    assert answer.status_code == 201, answer.text
    assert [column["missing"] for column in answer.json()["columns"]] == [1, 1]


def test_a_query_parameter_that_is_given_thousands_of_times_takes_no_time(api: TestClient) -> None:
    began = time.monotonic()
    refused(api.get("/v1/models?" + "limit&" * 10_000), 422, "invalid_request")
    assert time.monotonic() - began < 2
