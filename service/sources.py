"""Where data sets may be fetched from: what a URI says, and whether it lies in a place that the operator allows.

A URI is taken apart once, here, and what it was understood as is what is fetched: nobody reads it again in another way.
Whatever two readers could understand differently (encoded dots and slashes, backslashes, credentials, empty segments)
is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv6Address
from pathlib import PurePosixPath
from urllib.parse import SplitResult, unquote_to_bytes, urljoin, urlsplit

from common.errors import CannotStart, Fault, Invalid
from common.settings import BUCKET, PREFIX

_LONGEST = 2048
_HTTPS_PORT = 443
_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~:/?\[\]!$&'()*+,;=%]*")
"""Those of RFC 3986 but `#`, which begins a fragment, and `@`, which ends credentials."""
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_AMBIGUOUS = re.compile(r"[\x00-\x1f\x7f/\\.%]")
_ENCODED = re.compile(r"%([0-9A-Fa-f]{2})")
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")


@dataclass(frozen=True, slots=True)
class Source:
    """A URI as it was understood."""

    scheme: str
    """`https`, `s3` or `file`."""
    host: str
    """Lower case, an IPv6 address without brackets; the bucket; empty for a file."""
    port: int
    path: str
    """Decoded; begins with a slash and has no empty segments."""
    target: str
    """Path and query as they were written, for the request line."""
    root: str = "/"
    """Of the allowed place it lies in; ends with a slash."""

    def is_below(self, place: Source) -> bool:
        """Whether it lies in a folder."""
        return (self.scheme, self.host, self.port) == (place.scheme, place.host, place.port) and self.path.startswith(
            place.root
        )

    @property
    def authority(self) -> str:
        """Host and port as a `Host` header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _HTTPS_PORT else f"{host}:{self.port}"

    @property
    def suffixes(self) -> list[str]:
        """The endings of the file's name, lower case: `.csv`, `.gz`."""
        return [suffix.lower() for suffix in PurePosixPath(self.path).suffixes]


class Sources:
    """The places that the operator allows.

    Args:
        places: URIs of folders, e.g. https://data.example.org/, s3://bucket/prefix/, file:///srv/data/.

    Raises:
        CannotStart: one of them is no such URI.

    """

    def __init__(self, places: Sequence[str]) -> None:
        self._places = [_place(uri) for uri in places]

    def find(self, uri: str) -> Source:
        """What a URI leads to.

        Raises:
            Invalid: it is malformed, or lies in no place that is allowed (`source_not_allowed`).

        """
        source = _read(uri)
        if source is not None and not source.path.endswith("/"):
            for place in self._places:
                if source.is_below(place):
                    return replace(source, root=place.root)
        raise not_allowed("must lie in a place that the operator of this server allows")

    def follow(self, source: Source, location: str) -> Source:
        """What a redirect leads to, which must be allowed as if it had been asked for.

        Raises:
            Invalid: it is not.

        """
        try:
            joined = urljoin(f"https://{source.authority}{source.target}", location)
        except ValueError:
            joined = ""
        found = self.find(joined)
        if found.scheme != "https":
            raise not_allowed("leads to another kind of source")
        return found


def not_allowed(reason: str) -> Invalid:
    """The error for a URI that is not fetched; it never says what is."""
    message = "The data set is not fetched from there."
    return Invalid(message, [Fault("/uri", "source_not_allowed", reason)], code="source_not_allowed")


def _place(uri: str) -> Source:
    place = _read(uri)
    if place is None or "?" in place.target:
        raise CannotStart(
            f"{PREFIX}IMPORT_SOURCES must be https://host/folder/, s3://bucket/folder/ or file:///folder/ URIs, "
            "separated by commas, without credentials, queries and fragments."
        )
    return replace(place, root=f"{place.path.rstrip('/')}/")


def _read(uri: str) -> Source | None:
    """What a URI says; None where it says nothing that is fetched, or could be understood in two ways."""
    if len(uri) > _LONGEST or not _CHARACTERS.fullmatch(uri) or _ESCAPE.search(uri):
        return None
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        return None
    path = _path(parts.path)
    if path is None:
        return None
    if parts.scheme == "https":
        host = _host(parts)
        if host is None or port == 0:
            return None
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        return Source("https", host, port or _HTTPS_PORT, path, target)
    if parts.query or port is not None:
        return None
    if parts.scheme == "s3" and re.fullmatch(BUCKET, parts.netloc):
        return Source("s3", parts.netloc, 0, path, parts.path)
    if parts.scheme == "file" and not parts.netloc and uri.startswith("file:///"):
        return Source("file", "", 0, path, parts.path)
    return None


def _host(parts: SplitResult) -> str | None:
    host = parts.hostname or ""
    if ":" in host:
        try:
            return str(IPv6Address(host)) if "%" not in host else None
        except AddressValueError:
            return None
    if parts.netloc.endswith(":") or not _NAME.fullmatch(host):
        return None
    return host


def _path(written: str) -> str | None:
    """A decoded path; None if it is none that everybody understands in the same way."""
    if any(_AMBIGUOUS.match(chr(int(code, 16))) for code in _ENCODED.findall(written)):
        return None
    try:
        path = unquote_to_bytes(written or "/").decode()
    except UnicodeDecodeError:
        return None
    first, *segments = path.split("/")
    if first or any(segment in ("", ".", "..") for segment in segments[:-1]) or segments[-1] in (".", ".."):
        return None
    return path
