"""The composition root of a supervisor: `python -m worker`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from common.errors import CannotStart
from common.settings import read_settings
from common.store.client import connect
from common.store.files import open_files
from common.store.stores import open_stores, utc_now
from worker.ray_node import LocalRay, NamedRay
from worker.run_child import RunChild
from worker.supervisor import Hear, Supervisor

_PATIENCE = 60
"""Repetitions of a command while Redis is away: about a minute."""
_FILES_SECONDS = 2.0
"""For which an object store is waited for: a supervisor only tidies up there, and has leases to renew."""


def main() -> None:
    """Runs a supervisor until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="chainrule work", description="Run a supervisor.")
    parser.add_argument("--ready-fd", type=int, help="write a line here once a submitted job would start at once")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = read_settings()
    except CannotStart as error:
        sys.exit(error.message)
    if settings.redis_url is None:
        sys.exit("A supervisor needs CHAINRULE_REDIS_URL. On one machine, `chainrule up` starts everything.")

    stores = open_stores(connect(settings.redis_url, retries=_PATIENCE), open_files(settings, patience=_FILES_SECONDS))
    logs = settings.state_path / "logs"
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    short = Path(tempfile.gettempdir())
    ray = NamedRay(settings.ray_address) if settings.ray_address else LocalRay(short, logs / "ray.log", time.monotonic)

    def tell_ready() -> None:
        logging.getLogger("chainrule.supervisor").info("ready")
        if arguments.ready_fd is not None:
            os.write(arguments.ready_fd, b"ready\n")

    def start_child(address: str, environment: Mapping[str, str], hear: Hear) -> RunChild:
        return RunChild(address, logs / "runs.log", environment, hear)

    supervisor = Supervisor(settings, stores, ray, start_child, time.monotonic, utc_now, tell_ready)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.stop())
    supervisor.run()


if __name__ == "__main__":
    main()
