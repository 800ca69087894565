"""Which URIs are fetched: those that lie in an allowed place however they are read, and no others."""

from __future__ import annotations

import posixpath
from ipaddress import ip_address, ip_network
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import CannotStart, Invalid
from common.settings import Settings, read_settings
from service.fetching import may_connect
from service.sources import Sources

PLACES = ("https://data.example.org/public/", "https://[2001:db8::1]:8443/", "s3://bucket/some", "file:///srv/data/")
SOURCES = Sources(PLACES)


@pytest.mark.parametrize(
    ("uri", "understood"),
    [
        ("https://data.example.org/public/x.csv", ("https", "data.example.org", 443, "/public/x.csv")),
        (
            "HTTPS://DATA.Example.ORG:443/public/a/x.csv?sig=a%2Fb",
            ("https", "data.example.org", 443, "/public/a/x.csv"),
        ),
        ("https://data.example.org/public/a%20b.csv", ("https", "data.example.org", 443, "/public/a b.csv")),
        ("https://data.example.org/public/%C3%A4.csv", ("https", "data.example.org", 443, "/public/ä.csv")),
        ("https://[2001:DB8:0::1]:8443/x.csv", ("https", "2001:db8::1", 8443, "/x.csv")),
        ("s3://bucket/some/x.parquet", ("s3", "bucket", 0, "/some/x.parquet")),
        ("file:///srv/data/a/..x.csv", ("file", "", 0, "/srv/data/a/..x.csv")),
    ],
)
def test_a_uri_in_an_allowed_place_is_understood(uri: str, understood: tuple[str, str, int, str]) -> None:
    found = SOURCES.find(uri)
    assert (found.scheme, found.host, found.port, found.path) == understood


def test_what_is_asked_for_is_what_was_written() -> None:
    found = SOURCES.find("https://data.example.org/public/a%20b.csv?x=%2F&y=1")
    assert (found.authority, found.target) == ("data.example.org", "/public/a%20b.csv?x=%2F&y=1")
    assert SOURCES.find("https://[2001:db8::1]:8443/x").authority == "[2001:db8::1]:8443"


@pytest.mark.parametrize(
    "uri",
    [
        # other places
        "https://data.example.org/private/x.csv",
        "https://data.example.org/publicity/x.csv",
        "https://data.example.org/x.csv",
        "https://data.example.org:444/public/x.csv",
        "https://data.example.org.evil.test/public/x.csv",
        "https://evil.test/public/x.csv",
        "https://evil.test/https://data.example.org/public/x.csv",
        "s3://other/some/x.csv",
        "s3://bucket/something/x.csv",
        "s3://bucket/x.csv",
        "file:///srv/database/x.csv",
        "file:///etc/passwd",
        # other schemes, and none
        "http://data.example.org/public/x.csv",
        "ftp://data.example.org/public/x.csv",
        "jdbc:h2:mem:x",
        "data:text/csv,a,b",
        "gopher://data.example.org/public/x.csv",
        "dict://data.example.org:11211/public/x",
        "/srv/data/x.csv",
        "srv/data/x.csv",
        "x.csv",
        "//data.example.org/public/x.csv",
        "https:data.example.org/public/x.csv",
        "https:/data.example.org/public/x.csv",
        "https:///data.example.org/public/x.csv",
        "file:/srv/data/x.csv",
        "file://localhost/srv/data/x.csv",
        "file://data.example.org/srv/data/x.csv",
        "file:////srv/data/x.csv",
        "file:///C:/x.csv",
        # this machine, written in many ways
        "https://localhost/public/x.csv",
        "https://127.0.0.1/public/x.csv",
        "https://2130706433/public/x.csv",
        "https://0x7f000001/public/x.csv",
        "https://0177.0.0.1/public/x.csv",
        "https://127.1/public/x.csv",
        "https://0/public/x.csv",
        "https://[::1]/public/x.csv",
        "https://[::ffff:127.0.0.1]/public/x.csv",
        "https://[::]/public/x.csv",
        "https://[fe80::1%25eth0]/public/x.csv",
        "https://169.254.169.254/latest/meta-data/",
        # credentials, fragments, and what would hide a host
        "https://user:secret@data.example.org/public/x.csv",
        "https://user@data.example.org/public/x.csv",
        "https://data.example.org@evil.test/public/x.csv",
        "https://evil.test#@data.example.org/public/x.csv",
        "https://data.example.org/public/x.csv#part",
        "https://data.example.org\\@evil.test/public/x.csv",
        "https://evil.test\\.data.example.org/public/x.csv",
        "https://data.example.org%2eevil.test/public/x.csv",
        "https://data.example.org%00.evil.test/public/x.csv",
        "https://data.example.org./public/x.csv",
        "https://data.example.org:/public/x.csv",
        "https://data.example.org:0/public/x.csv",
        "https://data.example.org:65536/public/x.csv",
        "https://data.example.org:x/public/x.csv",
        "https://dаta.example.org/public/x.csv",  # a Cyrillic letter  # noqa: RUF001
        "https://data。example。org/public/x.csv",
        "https://ⓓata.example.org/public/x.csv",
        "https://[data.example.org]/public/x.csv",
        # ways out of the folder
        "https://data.example.org/public/../private/x.csv",
        "https://data.example.org/public/..",
        "https://data.example.org/public/./x.csv",
        "https://data.example.org/public//x.csv",
        "https://data.example.org//public/x.csv",
        "https://data.example.org/public/%2e%2e/private/x.csv",
        "https://data.example.org/public/%2E./private/x.csv",
        "https://data.example.org/public/..%2fprivate/x.csv",
        "https://data.example.org/public/..%5cprivate/x.csv",
        "https://data.example.org/public/%252e%252e/private/x.csv",
        "https://data.example.org/public/..;/private/x.csv\\",
        "https://data.example.org/public/..\\private\\x.csv",
        "https://data.example.org/public%2fx.csv",
        "file:///srv/data/../../etc/passwd",
        "file:///srv/data/%2e%2e/x.csv",
        "file:///srv/data/x.csv%00.parquet",
        "file:///srv/data/x.csv?x",
        "s3://bucket/some/../x.csv",
        "s3://bucket/some/x.csv?versionId=1",
        "s3://bucket:9000/some/x.csv",
        "s3://key:secret@bucket/some/x.csv",
        # no file, and what is no URI
        "https://data.example.org/public/",
        "file:///srv/data/",
        "",
        " https://data.example.org/public/x.csv",
        "https://data.example.org/public/x.csv\n",
        "https://data.example.org/public/x.csv\r\nHost: evil.test",
        "https://data.example.org/public/a b.csv",
        "https://data.example.org/public/\tx.csv",
        "https://data.example.org/public/x%0d%0aHost:evil.csv",
        "https://data.example.org/public/%zz.csv",
        "https://data.example.org/public/%ff.csv",
        "https://[2001:db8::1/x.csv",
        "https://data.example.org/public/" + "x" * 2048,
    ],
)
def test_any_other_uri_is_refused_in_the_same_words(uri: str) -> None:
    with pytest.raises(Invalid) as caught:
        SOURCES.find(uri)
    assert caught.value.stable_code == "source_not_allowed"
    ((fault),) = caught.value.faults
    assert (fault.pointer, fault.code) == ("/uri", "source_not_allowed")
    assert fault.message == "must lie in a place that the operator of this server allows"


def test_without_places_nothing_is_allowed() -> None:
    with pytest.raises(Invalid):
        Sources(()).find("https://data.example.org/public/x.csv")


PIECES = ["https://", "data.example.org", "/public/", "/", "..", ".", "%2e", "%2f", "%", "\\", "@", ":", "#", "?", "x"]


@given(st.lists(st.sampled_from(PIECES)).map("".join) | st.text().map("https://data.example.org/public/".__add__))
def test_what_is_found_lies_below_its_place_however_it_is_read(uri: str) -> None:
    try:
        found = SOURCES.find(uri)
    except Invalid:
        return
    for path in (found.path, unquote(found.path), urlsplit(uri).path, unquote(unquote(urlsplit(uri).path))):
        assert posixpath.normpath(path).startswith("/public/")
    assert urlsplit(uri).hostname == found.host == "data.example.org"
    assert "\\" not in uri
    assert urlsplit(uri).username is None


@pytest.mark.parametrize(
    "place",
    [
        "data.example.org",
        "http://data.example.org/",
        "https://user@data.example.org/",
        "https://data.example.org/?x",
        "https://data.example.org/a/../b/",
        "s3://B/",
        "file://host/srv/",
        "/srv/data/",
        "*",
        "https://*/",
    ],
)
def test_a_place_that_cannot_be_understood_keeps_the_server_from_starting(place: str) -> None:
    with pytest.raises(CannotStart, match="CHAINRULE_IMPORT_SOURCES"):
        Sources(["https://good.example.org/", place])


def test_places_and_networks_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().import_sources == ()
    monkeypatch.setenv("CHAINRULE_IMPORT_SOURCES", "https://a.test/, s3://bucket/x/,")
    monkeypatch.setenv("CHAINRULE_IMPORT_NETWORKS", "10.1.0.0/16,fd00::/8")
    settings = read_settings()
    assert settings.import_sources == ("https://a.test/", "s3://bucket/x/")
    assert settings.import_networks == (ip_network("10.1.0.0/16"), ip_network("fd00::/8"))
    monkeypatch.setenv("CHAINRULE_IMPORT_NETWORKS", "10.1.2.3/16")
    with pytest.raises(CannotStart, match="CHAINRULE_IMPORT_NETWORKS"):
        read_settings()


NOT_PUBLIC = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255"),  # noqa: S104
    *("192.168.0.1", "169.254.169.254", "100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1"),
    *("203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "febf::1", "fec0::1", "fc00::1", "fd12:3456::1", "ff02::1", "2001:db8::1", "100::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1"),
    *("64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1", "2001:0:7f00:1::", "2001::1"),
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_connected_to_only_where_its_network_is_named(address: str) -> None:
    assert not may_connect(ip_address(address), ())
    assert not may_connect(ip_address(address), (ip_network("10.200.0.0/16"), ip_network("fd99::/16")))
    assert may_connect(ip_address(address), (ip_network("0.0.0.0/0"), ip_network("::/0")))


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_a_public_address_is_connected_to(address: str) -> None:
    assert may_connect(ip_address(address), ())
