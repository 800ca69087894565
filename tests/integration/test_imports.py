"""Data sets fetched by URI: what is allowed comes in as an upload does, and nothing else is reached."""

from __future__ import annotations

import io
import itertools
import os
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import trustme
from fastapi.testclient import TestClient

from common.settings import Settings
from common.store.bucket import Bucket, _connect
from common.store.stores import Stores
from service.fetching import Deadlines, Fetcher
from service.routes.shared import Services
from tests.integration.sites import Answer, Site, plain, redirect, site
from tests.integration.test_api import CSV, MARK, files_in, quick_parser, refused, upload
from tests.object_store import ObjectStore
from tests.shared_app import app_of

__all__ = ["quick_parser"]

pytestmark = pytest.mark.usefixtures("quick_parser")

QUICK = Deadlines(connect=1.0, idle=0.5, total=1.5)
SECRET = f"{MARK},secret\n1,2\n".encode()
"""Must never come in, nor be repeated."""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


class World:
    """The API, and names that lead to servers of the test."""

    def __init__(self, api: TestClient, authority: trustme.CA, stores: Stores, settings: Settings) -> None:
        self.api = api
        self.stores = stores
        self._settings = settings
        self._authority = authority
        self._open = ExitStack()
        self.names: dict[str, list[Sequence[str]]] = {}
        """The answers of the look-up, one after the other; the last one stays."""
        self.looked_up: list[str] = []

    def close(self) -> None:
        self._open.close()

    def site(self, *names: str, address: str = "127.0.0.1", port: int = 0, **answers: Answer) -> Site:
        """A server that the names lead to."""
        found = self._open.enter_context(
            site(self._authority, *(names or ("data.test",)), address=address, port=port, **answers)
        )
        for name in names or ("data.test",):
            self.names.setdefault(name, []).append([address])
        return found

    def allow(self, *places: str, networks: str = "127.0.0.0/8", most: int = 1 << 20) -> None:
        """Sets what the operator allows."""

        async def resolve(host: str, _: int) -> Sequence[str]:
            self.looked_up.append(host)
            answers = self.names.get(host, [[host]])
            return answers.pop(0) if len(answers) > 1 else answers[0]

        allowed = [ip_network(network) for network in networks.split(",") if network]
        changed = {"import_sources": places, "import_networks": allowed, "max_upload_bytes": most}
        fetcher = Fetcher(self._settings.model_copy(update=changed), QUICK, resolve)
        fetcher._tls.load_verify_locations(cadata=self._authority.cert_pem.bytes().decode())
        app = app_of(self.api)
        app.state.services = replace(app.state.services, fetcher=fetcher)

    def add(self, uri: str, **query: Any) -> Any:
        """Asks for a data set."""
        return self.api.post("/v1/datasets", json={"uri": uri, "name": "fetched"}, params=query)

    def refused(self, uri: str, status: int, code: str) -> list[tuple[str, str]]:
        """Checks that it is refused, and nothing stays."""
        found = refused(self.add(uri), status, code)
        assert files_in(self.stores) == []
        return found


NOT_ALLOWED = [("/uri", "source_not_allowed")]


@pytest.fixture
def world(api: TestClient, authority: trustme.CA, stores: Stores, settings: Settings) -> Iterator[World]:
    found = World(api, authority, stores, settings)
    yield found
    found.close()


@pytest.fixture
def outside(authority: trustme.CA) -> Iterator[Site]:
    """A server that nobody may reach: it would give a file away."""
    names = ("outside.test", "data.test", "localhost", "127.0.0.1", "127.0.0.3")
    with site(authority, *names, address="127.0.0.3", x=plain(SECRET), secret=plain(SECRET)) as found:
        yield found


# HTTPS


def test_a_file_is_fetched_and_described_as_if_it_had_been_uploaded(world: World) -> None:
    there = world.site(x=plain(CSV))
    world.allow(f"https://data.test:{there.port}/")
    answer = world.add(f"https://data.test:{there.port}/x.csv?signature=a%2Fb")
    assert answer.status_code == 201, answer.text
    assert there.asked == ["data.test /x.csv?signature=a%2Fb"]
    fetched, sent = answer.json(), upload(world.api, name="fetched").json()
    assert (fetched["name"], fetched["version"], sent["version"]) == ("fetched", 1, 2)
    assert [f"the same bytes as version 1 ({fetched['id']})" in warning for warning in sent["warnings"]] == [True]
    own = {"id", "version", "created_at", "warnings"}
    assert {k: v for k, v in fetched.items() if k not in own} == {k: v for k, v in sent.items() if k not in own}


def parquet() -> bytes:
    file = io.BytesIO()
    pl.DataFrame({"a": [1, 2], "b": ["x", "y"]}).write_parquet(file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("path", "answer", "form"),
    [
        ("x", plain(CSV, "text/csv; charset=utf-8"), "csv"),
        ("x.csv", plain(CSV, "text/plain"), "csv"),
        ("x.CSV", plain(CSV, "application/octet-stream"), "csv"),
        ("x.parquet", plain(parquet(), "binary/octet-stream"), "parquet"),
        ("x", plain(parquet(), "application/vnd.apache.parquet"), "parquet"),
    ],
)
def test_the_form_is_what_the_source_says_or_else_the_ending(
    world: World, path: str, answer: Answer, form: str
) -> None:
    there = world.site(x=answer)
    world.allow(f"https://data.test:{there.port}/")
    assert world.add(f"https://data.test:{there.port}/{path}").json()["format"] == form


def test_options_and_keys_are_those_of_uploads(world: World) -> None:
    there = world.site(x=plain(b"1;2\n3;-\n"))
    world.allow(f"https://data.test:{there.port}/")
    uri = f"https://data.test:{there.port}/x.csv"
    key = {"Idempotency-Key": "k"}
    options = {"delimiter": ";", "header": "false", "name": "from the query"}
    first, again = (world.api.post("/v1/datasets", json={"uri": uri}, params=options, headers=key) for _ in range(2))
    assert [(column["name"], column["missing"]) for column in first.json()["columns"]] == [("c0", 0), ("c1", 1)]
    assert first.json()["name"] == "from the query"
    assert again.json() == first.json()
    assert again.headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("answer", [plain(CSV, "text/html"), plain(CSV, Content_Encoding="br")])
def test_what_is_no_file_that_is_taken_is_refused(world: World, answer: Answer) -> None:
    there = world.site(x=answer)
    world.allow(f"https://data.test:{there.port}/")
    world.refused(f"https://data.test:{there.port}/x", 415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("body", "status", "code", "faults"),
    [
        (b"{", 400, "malformed_json", []),
        (b'{"uri": "a", "uri": "b"}', 400, "duplicate_key", []),
        (b"{}", 422, "invalid_request", [("/rows", "missing")]),
        (b'{"uri": 1}', 422, "invalid_request", [("/uri", "wrong_type")]),
        (b'{"uri": "x", "url": "y"}', 422, "invalid_request", [("/url", "unknown_field")]),
        (b'{"uri": "x", "name": "a\\u0000"}', 422, "invalid_request", [("/name", "invalid_name")]),
        (b'{"uri": "https://data.test/x.csv"}', 422, "source_not_allowed", NOT_ALLOWED),
        (b'{"uri": "file:///etc/passwd"}', 422, "source_not_allowed", NOT_ALLOWED),
        (
            b'{"uri": "%s"}' % (b"x" * (1 << 20)),
            422,
            "invalid_request",
            [("/uri", "unknown_field"), ("/rows", "missing")],
        ),
    ],
)
def test_a_body_that_is_wrong_is_refused_and_by_default_every_uri_is(
    api: TestClient, body: bytes, status: int, code: str, faults: list[tuple[str, str]]
) -> None:
    answer = api.post("/v1/datasets", content=body, headers={"Content-Type": "application/json"})
    assert refused(answer, status, code) == faults


@pytest.mark.parametrize("name", ["outside.test", "localhost", "127.0.0.3"])
def test_a_host_that_is_not_allowed_is_not_even_looked_up(world: World, outside: Site, name: str) -> None:
    world.names[name] = [["127.0.0.3"]]
    world.allow(f"https://data.test:{outside.port}/")
    assert world.refused(f"https://{name}:{outside.port}/secret.csv", 422, "source_not_allowed") == NOT_ALLOWED
    assert (world.looked_up, outside.connections) == ([], 0)


# Redirects


def test_redirects_to_what_is_allowed_are_followed(world: World) -> None:
    other = world.site("other.test", x=plain(CSV))
    there = world.site(a=redirect(["/b?c=1"]), b=redirect([f"https://other.test:{other.port}/x.csv"]))
    world.allow(f"https://data.test:{there.port}/", f"https://other.test:{other.port}/")
    assert world.add(f"https://data.test:{there.port}/a.csv").status_code == 201
    assert (there.asked, other.asked) == (["data.test /a.csv", "data.test /b?c=1"], ["other.test /x.csv"])


@pytest.mark.parametrize(
    "location",
    [
        "https://outside.test:{port}/secret.csv",
        "//outside.test:{port}/secret.csv",
        "https://127.0.0.3:{port}/secret.csv",
        "https://2130706435:{port}/secret.csv",
        "https://[::ffff:127.0.0.3]:{port}/secret.csv",
        "https://data.test:{port}@outside.test:{port}/secret.csv",
        "http://data.test:{here}/secret.csv",
        "file:///etc/passwd",
        "file://{folder}/secret.csv",
        "s3://bucket/secret.csv",
        "ftp://outside.test/secret.csv",
        "data:text/csv,a",
        "../secret/x.csv",
        "/public/%2e%2e/secret.csv",
        "/secret.csv",
        "\\\\outside.test\\secret.csv",
        "?#x",
        "ä",
    ],
)
def test_a_redirect_to_anything_else_is_not_followed(
    world: World, outside: Site, tmp_path: Path, location: str
) -> None:
    (tmp_path / "secret.csv").write_bytes(SECRET)
    locations: list[str] = []
    there = world.site(public=redirect(locations), secret=plain(SECRET))
    locations.append(location.format(port=outside.port, here=there.port, folder=tmp_path))
    world.names |= {"outside.test": [["127.0.0.3"]], "2130706435": [["127.0.0.3"]]}
    world.allow(f"https://data.test:{there.port}/public/", f"file://{tmp_path}/", "s3://bucket/")
    uri = f"https://data.test:{there.port}/public/x.csv"
    assert world.refused(uri, 422, "source_not_allowed") == NOT_ALLOWED
    assert there.asked == ["data.test /public/x.csv"]
    assert outside.connections == 0


def test_redirects_end(world: World) -> None:
    there = world.site(x=redirect(itertools.repeat("/x")))
    world.allow(f"https://data.test:{there.port}/")
    world.refused(f"https://data.test:{there.port}/x", 502, "source_unavailable")
    assert len(there.asked) == 4


# Addresses


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["169.254.169.254"],
        ["10.0.0.1"],
        ["fe80::1%lo"],
        ["0.0.0.0"],  # noqa: S104
        ["93.184.216.34", "127.0.0.1"],
    ],
    ids=",".join,
)
def test_a_name_that_leads_to_an_address_that_is_not_public_is_refused(world: World, addresses: list[str]) -> None:
    there = world.site(x=plain(SECRET))
    world.names["data.test"] = [addresses]
    world.allow(f"https://data.test:{there.port}/", networks="")
    uri = f"https://data.test:{there.port}/x.csv"
    assert world.refused(uri, 422, "source_not_allowed") == NOT_ALLOWED
    assert (world.looked_up, there.connections) == (["data.test"], 0)


def test_an_address_that_stands_in_an_allowed_uri_must_be_public_too(world: World) -> None:
    there = world.site("127.0.0.1", x=plain(SECRET))
    world.allow(f"https://127.0.0.1:{there.port}/", networks="10.0.0.0/8")
    world.refused(f"https://127.0.0.1:{there.port}/x.csv", 422, "source_not_allowed")
    assert there.connections == 0
    world.allow(f"https://127.0.0.1:{there.port}/")
    assert world.add(f"https://127.0.0.1:{there.port}/x.csv").status_code == 201


def test_a_name_is_looked_up_once_and_what_was_checked_is_what_is_connected_to(world: World, outside: Site) -> None:
    there = world.site(x=plain(CSV), port=outside.port)
    world.names["data.test"] = [["127.0.0.1"], ["127.0.0.3"]]  # rebinds after the first look
    world.allow(f"https://data.test:{there.port}/", networks="127.0.0.1/32")
    assert world.add(f"https://data.test:{there.port}/x.csv").status_code == 201
    assert world.looked_up == ["data.test"]
    assert outside.connections == 0
    refused(world.add(f"https://data.test:{there.port}/x.csv"), 422, "source_not_allowed")
    assert outside.connections == 0


def test_a_redirect_to_a_name_that_has_been_rebound_is_refused(world: World, outside: Site) -> None:
    there = world.site(a=redirect(["/x.csv"]), port=outside.port)
    world.names["data.test"] = [["127.0.0.1"], ["127.0.0.3"]]
    world.allow(f"https://data.test:{there.port}/", networks="127.0.0.1/32")
    world.refused(f"https://data.test:{there.port}/a.csv", 422, "source_not_allowed")
    assert outside.connections == 0


def test_the_next_address_serves_where_the_first_does_not_answer(world: World) -> None:
    there = world.site(x=plain(CSV))
    world.names["data.test"] = [["127.0.0.9", "127.0.0.1"]]
    world.allow(f"https://data.test:{there.port}/")
    assert world.add(f"https://data.test:{there.port}/x.csv").status_code == 201


@pytest.mark.parametrize("names", [("other.test",), ("127.0.0.1",)], ids=["another name", "the address"])
def test_a_server_must_prove_the_name_it_was_asked_for(world: World, names: tuple[str]) -> None:
    there = world.site(*names, x=plain(SECRET))
    world.names["data.test"] = [["127.0.0.1"]]
    world.allow(f"https://data.test:{there.port}/")
    world.refused(f"https://data.test:{there.port}/x.csv", 502, "source_unavailable")
    assert there.asked == []


def test_a_server_that_nobody_vouches_for_is_not_believed(world: World) -> None:
    with site(trustme.CA(), "data.test", x=plain(SECRET)) as there:
        world.names["data.test"] = [["127.0.0.1"]]
        world.allow(f"https://data.test:{there.port}/")
        world.refused(f"https://data.test:{there.port}/x.csv", 502, "source_unavailable")
        assert there.asked == []


# Bad servers

CHUNK = b"1,2\n" * 4096


def _stream(head: bytes, chunks: Callable[[Site], Iterator[bytes]]) -> Callable[[list[Site]], Answer]:
    def of(sites: list[Site]) -> Answer:
        def answer(connection: ssl.SSLSocket, _: str) -> None:
            connection.sendall(head)
            for chunk in chunks(sites[0]):
                connection.sendall(chunk)

        return answer

    return of


def _stall(first: bytes) -> Callable[[Site], Iterator[bytes]]:
    def chunks(there: Site) -> Iterator[bytes]:
        yield first
        there.over.wait(30)

    return chunks


def _drip(there: Site) -> Iterator[bytes]:
    while not there.over.wait(0.1):
        yield b"1"


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\n"


@pytest.mark.parametrize(
    ("behaviour", "status", "code"),
    [
        (_stream(OK + b"\r\na,b\n", lambda _: itertools.repeat(CHUNK)), 413, "too_large"),
        (_stream(OK + b"Content-Length: 99999999999\r\n\r\n", _stall(b"a,b\n")), 413, "too_large"),
        (_stream(b"", _stall(b"")), 502, "source_unavailable"),
        (_stream(OK, _stall(b"")), 502, "source_unavailable"),
        (_stream(OK + b"Content-Length: 1000\r\n\r\n", _stall(b"a,b\n")), 502, "source_unavailable"),
        (_stream(OK + b"\r\na,b\n", _drip), 502, "source_unavailable"),
        (_stream(OK + b"X: ", _drip), 502, "source_unavailable"),
        (_stream(OK, lambda _: itertools.repeat(b"X: " + b"x" * 65536 + b"\r\n")), 502, "source_unavailable"),
        (_stream(b"", lambda _: itertools.repeat(b"HTTP/1.1 102 Wait\r\n\r\n" * 1000)), 502, "source_unavailable"),
        (_stream(OK + b"Content-Length: 1000\r\n\r\n", lambda _: iter([b"a,b\n1,2\n"])), 502, "source_unavailable"),
        (
            _stream(OK + b"Transfer-Encoding: chunked\r\n\r\n", lambda _: iter([b"5\r\na,b\n1"])),
            502,
            "source_unavailable",
        ),
        (_stream(f"{MARK} is no answer\r\n\r\n".encode(), lambda _: iter([])), 502, "source_unavailable"),
        (_stream(b"", lambda _: iter([])), 502, "source_unavailable"),
        (_stream(OK + b"Content-Length: 0\r\n\r\n", lambda _: iter([])), 422, "empty_body"),
    ],
    ids=[
        *("endless", "too long", "silent", "silent in its head", "stalling", "dripping", "dripping in its head"),
        *("endless head", "endless waiting", "too short", "half a chunk", "no HTTP", "closing", "empty"),
    ],
)
def test_a_server_that_behaves_badly_is_given_up_in_time_and_nothing_is_left(
    world: World, behaviour: Callable[[list[Site]], Answer], status: int, code: str
) -> None:
    sites: list[Site] = []
    sites.append(world.site(x=behaviour(sites)))
    world.allow(f"https://data.test:{sites[0].port}/")
    world.refused(f"https://data.test:{sites[0].port}/x.csv", status, code)


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oops", "204 No Content", "206 Partial Content", "401 Who"])
def test_an_answer_that_is_no_file_is_never_repeated(world: World, status: str) -> None:
    there = world.site(x=plain(b"" if status.startswith("204") else SECRET, status=status))
    world.allow(f"https://data.test:{there.port}/")
    world.refused(f"https://data.test:{there.port}/x.csv", 502, "source_unavailable")


def test_a_host_that_nobody_knows_or_that_refuses_is_unavailable(world: World) -> None:
    there = world.site(x=plain(CSV))
    world.close()
    world.allow(f"https://data.test:{there.port}/")
    world.refused(f"https://data.test:{there.port}/x.csv", 502, "source_unavailable")

    async def unknown(_: str, __: int) -> Sequence[str]:
        raise OSError(-2, f"{MARK}: Name or service not known")

    services = app_of(world.api).state.services
    services.fetcher._resolve = unknown
    world.refused(f"https://data.test:{there.port}/x.csv", 502, "source_unavailable")


# Folders


def test_a_file_is_read_from_an_allowed_folder_links_inside_of_it_included(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "srv" / "deep"
    folder.mkdir(parents=True)
    (folder / "real data.csv").write_bytes(CSV)
    (tmp_path / "srv" / "link.csv").symlink_to("deep/real data.csv")
    (tmp_path / "entry").symlink_to(tmp_path / "srv")
    world.allow(f"file://{tmp_path}/srv", f"file://{tmp_path}/entry/")
    for uri in ("srv/deep/real%20data.csv", "srv/link.csv", "entry/link.csv"):
        assert world.add(f"file://{tmp_path}/{uri}").json()["rows"] == 3
    assert world.add(f"file://{tmp_path}/srv/none.csv").json()["code"] == "source_unavailable"


def test_no_way_leads_out_of_an_allowed_folder(world: World, tmp_path: Path) -> None:
    folder, outside = tmp_path / "srv", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "secret.csv").write_bytes(SECRET)
    (folder / "file.csv").symlink_to(outside / "secret.csv")
    (folder / "folder").symlink_to(outside)
    (folder / "relative.csv").symlink_to("../outside/secret.csv")
    (folder / "chain.csv").symlink_to("file.csv")
    world.allow(f"file://{folder}/")
    for name in ("file.csv", "folder/secret.csv", "relative.csv", "chain.csv", "../outside/secret.csv"):
        assert world.refused(f"file://{folder}/{name}", 422, "source_not_allowed") == NOT_ALLOWED


def test_a_folder_that_becomes_a_link_between_the_look_and_the_opening_is_not_followed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, outside = tmp_path / "srv", tmp_path / "outside"
    for place in (folder / "a", outside):
        place.mkdir(parents=True)
        (place / "x.csv").write_bytes(SECRET)
    world.allow(f"file://{folder}/")
    resolve = Path.resolve

    def swapped_meanwhile(path: Path, strict: bool = False) -> Path:
        found = resolve(path, strict)
        if path.name == "x.csv":
            (folder / "a").rename(tmp_path / "aside")
            (folder / "a").symlink_to(outside)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Path, "resolve", swapped_meanwhile)
        answer = world.add(f"file://{folder}/a/x.csv")
    assert answer.status_code in (422, 502)
    assert files_in(world.stores) == []


def test_what_is_no_plain_file_is_not_read(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "srv"
    (folder / "folder.csv").mkdir(parents=True)
    os.mkfifo(folder / "pipe.csv")
    (folder / "unreadable.csv").symlink_to("nowhere")
    (folder / "loop.csv").symlink_to("loop.csv")
    (folder / "large.csv").write_bytes(b"")
    os.truncate(folder / "large.csv", 1 << 30)
    world.allow(f"file://{folder}/", "file:///dev/", "file:///proc/")
    for uri in ("folder.csv", "pipe.csv", "unreadable.csv", "loop.csv"):
        world.refused(f"file://{folder}/{uri}", 502, "source_unavailable")
    world.refused("file:///dev/zero", 502, "source_unavailable")
    world.refused(f"file://{folder}/large.csv", 413, "too_large")


# Buckets


def test_an_object_is_read_from_an_allowed_place_of_a_bucket(
    world: World, bucket: str, object_store: ObjectStore
) -> None:
    _connect.cache_clear()
    store = Bucket(f"s3://{bucket}", 5.0)
    store.put("in/x y.csv", CSV, "0")
    store.put("in/large.csv", b"x" * (2 << 20), "0")
    store.put("out/x.csv", SECRET, "0")
    world.allow(f"s3://{bucket}/in/")
    assert world.add(f"s3://{bucket}/in/x%20y.csv").json()["rows"] == 3
    files = files_in(world.stores)
    refused(world.add(f"s3://{bucket}/in/large.csv"), 413, "too_large")
    refused(world.add(f"s3://{bucket}/in/none.csv"), 502, "source_unavailable")
    for uri in (f"s3://{bucket}/out/x.csv", f"s3://{bucket}/in/../out/x.csv", "s3://other/in/x.csv"):
        assert refused(world.add(uri), 422, "source_not_allowed") == NOT_ALLOWED
    object_store.freeze()
    try:
        refused(world.add(f"s3://{bucket}/in/x%20y.csv"), 502, "source_unavailable")
    finally:
        object_store.thaw()
    assert files_in(world.stores) == files


def test_the_services_take_what_the_settings_allow(settings: Settings, stores: Stores, tmp_path: Path) -> None:
    services = Services.over(settings.model_copy(update={"import_sources": (f"file://{tmp_path}/",)}), stores)
    assert services.fetcher._sources.find(f"file://{tmp_path}/x.csv").path == f"{tmp_path}/x.csv"
