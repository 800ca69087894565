"""The composition root of an API process: `python -m service`."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import socket
import sys
from functools import partial

import httpx2
import uvicorn

from common.errors import CannotStart, ChainruleError, FilesUnavailable
from common.settings import Settings, read_settings
from common.store.client import connect
from common.store.files import open_files
from common.store.stores import Stores, open_stores
from service.app import create_app
from service.changes import Changes
from service.connections import MOST_AT_ONCE, Connection
from service.listener import bind
from service.quick_lane import QuickLane
from service.redis_server import check_redis

_RETRIES = 3
"""Repetitions of a command before a caller is told that the store is away: well under a second if it is gone."""
_TIMEOUT = 1.0
"""Seconds for each of them, if the store is frozen."""
_FILES_SECONDS = 5.0
"""For which an object store is waited for."""


class _Server(uvicorn.Server):
    """Tells whoever started it when it takes requests."""

    ready_fd: int | None = None
    app: QuickLane
    changes: Changes

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.changes.start()
        await _warm_up(self.app)
        await super().startup(sockets)
        if self.ready_fd is not None and self.started:
            os.write(self.ready_fd, b"ready\n")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.changes.stop()  # who waits for a job is answered now
        await super().shutdown(sockets)


def main() -> None:
    """Serves until SIGTERM or SIGINT; requests in work are answered first."""
    parser = argparse.ArgumentParser(prog="chainrule serve", description="Run one API process.")
    parser.add_argument("--fd", type=int, help="serve on this listening socket instead of binding one")
    parser.add_argument("--ready-fd", type=int, help="write a line here once requests are taken")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # addresses that are fetched may hold secrets
    try:
        settings = read_settings()
        stores = _open(settings)
        app = create_app(settings, stores)
        listener = socket.socket(fileno=arguments.fd) if arguments.fd is not None else bind(settings)
    except ChainruleError as error:
        sys.exit(error.message)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        ws="none",
        http=partial(Connection, app.state.services.room),  # type: ignore[arg-type]  # whatever makes a protocol will do
        backlog=MOST_AT_ONCE,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=10,
    )
    server = _Server(config)
    server.ready_fd = arguments.ready_fd
    server.app = app
    server.changes = app.state.services.changes
    if arguments.fd is None:
        host, port = listener.getsockname()[:2]
        print(f"Chainrule answers at http://{host}:{port}", flush=True)  # noqa: T201
    server.run(sockets=[listener])


async def _warm_up(app: QuickLane) -> None:
    """Has the first request make what all others use: nobody is to wait for it, nor for the collector to look at it."""
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost") as client:
        await client.get("/readyz")
    gc.collect()
    gc.freeze()


def _open(settings: Settings) -> Stores:
    if settings.redis_url is None:
        raise CannotStart("An API process needs CHAINRULE_REDIS_URL. On one machine, `chainrule up` starts everything.")
    client = connect(settings.redis_url, retries=_RETRIES, timeout=_TIMEOUT)
    check_redis(client)
    stores = open_stores(client, open_files(settings, patience=_FILES_SECONDS))
    try:
        stores.files.prepare()
    except FilesUnavailable as error:
        raise CannotStart(
            "The bucket of CHAINRULE_DATA_URL cannot be used. Check it and the AWS_* variables."
        ) from error
    if not settings.is_loopback and not stores.access.digests():
        raise CannotStart(
            f"Without an API key, Chainrule binds to loopback only, not to {settings.host}. Start it on loopback, make a "
            "key (chainrule keys create, with the same CHAINRULE_STATE_DIR or CHAINRULE_REDIS_URL), and start it again."
        )
    return stores


if __name__ == "__main__":
    main()
