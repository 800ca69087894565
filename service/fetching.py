"""Data sets fetched from where they lie: over HTTPS, out of a bucket, or from a folder of this machine.

What a caller may name is `sources.py`. This is about what lies behind a name: an address is looked up once, checked, and
connected to; a redirect is checked as if it had been asked for; a link does not lead out of its folder; and nobody is
waited for endlessly.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path

import httpcore2
from starlette.concurrency import run_in_threadpool

from common.errors import FilesUnavailable, SourceUnavailable, TooLarge
from common.settings import Settings
from common.store.bucket import Bucket
from service.sources import Source, Sources, not_allowed

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From host and port to addresses, as texts."""

_MOST_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = [("User-Agent", "chainrule"), ("Accept", "*/*"), ("Accept-Encoding", "identity"), ("Connection", "close")]
_CHUNK_BYTES = 1 << 20
_NAT64 = ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """For how long a source is waited for, in seconds."""

    connect: float = 10.0
    idle: float = 30.0
    total: float = 600.0


@dataclass(frozen=True, slots=True)
class Opened:
    """A source that is being read."""

    source: Source
    media_type: str | None
    """As the source says it."""
    coding: str
    """`identity` where it is not compressed."""
    chunks: AsyncIterator[bytes]


async def look_up(host: str, port: int) -> Sequence[str]:
    """The addresses that the system knows for a name."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(place[0]) for *_, place in found]


class Fetcher:
    """Opens sources.

    Args:
        settings: what is allowed, and how large it may be.
        deadlines: how long it may take.
        resolve: looks names up.

    Raises:
        CannotStart: what is allowed is not said in a way that can be understood.

    """

    def __init__(self, settings: Settings, deadlines: Deadlines = Deadlines(), resolve: Resolve = look_up) -> None:
        self._sources = Sources(settings.import_sources)
        self._networks = settings.import_networks
        self._most_bytes = settings.max_upload_bytes
        self._deadlines = deadlines
        self._resolve = resolve

    @asynccontextmanager
    async def open(self, uri: str) -> AsyncIterator[Opened]:
        """What lies at a URI, to be read as long as the context lasts.

        Raises:
            Invalid: it is not allowed (`source_not_allowed`), or leads to what is not.
            SourceUnavailable: it does not answer in time, or not with a file.
            TooLarge: it has more bytes than may be uploaded.

        """
        source = self._sources.find(uri)
        try:
            async with (
                asyncio.timeout(self._deadlines.total),
                self._opened(source) as opened,
                aclosing(self._counted(opened.chunks)) as chunks,
            ):
                yield Opened(opened.source, opened.media_type, opened.coding, chunks)
        except TimeoutError as error:
            raise SourceUnavailable(
                f"The source took longer than {self._deadlines.total:g} seconds.", hint="Upload the file instead."
            ) from error

    def _opened(self, source: Source) -> AbstractAsyncContextManager[Opened]:
        if source.scheme == "https":
            return self._over_https(source)
        return self._in_bucket(source) if source.scheme == "s3" else self._in_folder(source)

    async def _counted(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            self._check_size(size)
            yield chunk

    def _check_size(self, size: int) -> None:
        if size > self._most_bytes:
            raise TooLarge(f"The source is larger than the {self._most_bytes} bytes allowed here.")

    # HTTPS

    @asynccontextmanager
    async def _over_https(self, source: Source) -> AsyncIterator[Opened]:
        limits = {"connect": self._deadlines.connect, "read": self._deadlines.idle, "write": self._deadlines.idle}
        backend = _CheckedNetwork(self._networks, self._resolve)
        with _https_explained():
            async with httpcore2.AsyncConnectionPool(self._tls, network_backend=backend) as pool:
                for _ in range(1 + _MOST_REDIRECTS):
                    url = httpcore2.URL(scheme="https", host=source.host, port=source.port, target=source.target)
                    headers = [("Host", source.authority), *_HEADERS]
                    async with pool.stream("GET", url, headers=headers, extensions={"timeout": limits}) as answer:
                        said = {name.lower().decode("latin-1"): text.decode("latin-1") for name, text in answer.headers}
                        if answer.status in _REDIRECTS and "location" in said:
                            source = self._sources.follow(source, said["location"])
                            continue
                        if answer.status != 200:
                            raise SourceUnavailable(f"The source answered {answer.status} instead of a file.")
                        if (length := said.get("content-length", "")).isdigit():
                            self._check_size(int(length))
                        coding = said.get("content-encoding", "identity").strip().lower()
                        async with aclosing(_https_chunks(answer)) as chunks:
                            yield Opened(source, said.get("content-type"), coding, chunks)
                        return
        raise SourceUnavailable(f"The source redirects more than {_MOST_REDIRECTS} times.")

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpcore2.default_ssl_context()

    # A bucket

    @asynccontextmanager
    async def _in_bucket(self, source: Source) -> AsyncIterator[Opened]:
        bucket = Bucket(f"s3://{source.host}", self._deadlines.idle)
        try:
            found = await run_in_threadpool(bucket.get, source.path.removeprefix("/"))
        except (FileNotFoundError, FilesUnavailable) as error:
            raise SourceUnavailable("The bucket does not answer, or not with this object.") from error
        self._check_size(found.size)
        yield Opened(source, found.media_type, "identity", _bucket_chunks(found.chunks))

    # A folder

    @asynccontextmanager
    async def _in_folder(self, source: Source) -> AsyncIterator[Opened]:
        try:
            descriptor = await run_in_threadpool(_open_below, Path(source.root), Path(source.path))
        except (OSError, RuntimeError) as error:  # the latter for a link that leads to itself
            raise SourceUnavailable("There is no such file, or it cannot be read.") from error
        with os.fdopen(descriptor, "rb") as file:
            self._check_size(os.fstat(descriptor).st_size)

            async def chunks() -> AsyncIterator[bytes]:
                while chunk := await run_in_threadpool(file.read, _CHUNK_BYTES):
                    yield chunk

            yield Opened(source, None, "identity", chunks())


def may_connect(address: Address, networks: Sequence[Network]) -> bool:
    """Whether an address is public, or in a network that the operator named."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return may_connect(address.ipv4_mapped, networks)
        if address in _NAT64:
            return may_connect(IPv4Address(int(address) & 0xFFFFFFFF), networks)
    if any(address in network for network in networks):
        return True
    if not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified:
        return False
    # tunnels to an address inside of the address
    return isinstance(address, IPv4Address) or not (address.is_site_local or address.sixtofour or address.teredo)


class _CheckedNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that may be connected to, and to none that was looked up again since it was checked."""

    def __init__(self, networks: Sequence[Network], resolve: Resolve) -> None:
        self._networks = networks
        self._resolve = resolve
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """A connection to one of the addresses of `host`, all of which must be allowed."""
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolve(host, port)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout from error
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError from error
        for address in addresses:
            self._check(address)
        failure: Exception = httpcore2.ConnectError("no address")
        for address in addresses:
            try:
                stream = await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
                continue
            try:
                self._check(stream.get_extra_info("server_addr")[0])
            except BaseException:
                await stream.aclose()
                raise
            return stream
        raise failure

    def _check(self, address: str) -> None:
        if not may_connect(ip_address(address.partition("%")[0]), self._networks):
            raise not_allowed("leads to an address that is not public")


@contextmanager
def _https_explained() -> Iterator[None]:
    """Errors of the client as this product's; what the source said is never repeated."""
    try:
        yield
    except httpcore2.TimeoutException as error:
        raise SourceUnavailable("The source does not answer, or has stopped in the middle.") from error
    except (httpcore2.NetworkError, httpcore2.ProtocolError, ssl.SSLError) as error:
        raise SourceUnavailable("The source could not be reached, did not prove who it is, or broke off.") from error


async def _https_chunks(answer: httpcore2.Response) -> AsyncGenerator[bytes, None]:
    with _https_explained():
        async for chunk in answer.aiter_stream():
            if chunk:
                yield chunk


async def _bucket_chunks(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    try:
        while chunk := await run_in_threadpool(next, chunks, b""):
            yield chunk
    except FilesUnavailable as error:
        raise SourceUnavailable("The bucket stopped in the middle.") from error


def _open_below(root: Path, path: Path) -> int:
    """Opens a file for reading; links are followed, but not out of `root`, also if somebody changes one meanwhile.

    Raises:
        OSError: there is no such file, or it cannot be read.
        Invalid: it lies elsewhere.

    """
    root, path = root.resolve(strict=True), path.resolve(strict=True)
    if not path.is_relative_to(root):
        raise not_allowed("leads out of the place that is allowed")
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        *folders, name = path.relative_to(root).parts or (".",)
        for folder in folders:
            below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        return _plain(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=here))
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link, where there was none a moment ago
            raise not_allowed("leads out of the place that is allowed") from error
        raise
    finally:
        os.close(here)


def _plain(file: int) -> int:
    """Refuses pipes and devices, which may never end."""
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "no plain file")
    return file
