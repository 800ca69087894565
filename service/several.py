"""`chainrule serve --processes N`: several API processes that share a listening socket."""

from __future__ import annotations

import socket
import subprocess
from contextlib import ExitStack
from functools import partial

from common.processes import ONE_BLAS_THREAD
from common.settings import read_settings
from service.listener import bind
from service.parts import Part, Parts, Say, api_names

_STOP_SECONDS = 15.0
"""For which requests in work are waited for."""


def serve_by_several(count: int, say: Say) -> None:
    """Serves until SIGTERM or SIGINT; requests in work are answered first.

    The socket belongs to this process, and outlives a process that dies, which is started again.

    Raises:
        CannotStart: a setting is wrong, the port is taken, or a process ends again and again.

    """
    parts = Parts(say)
    parts.end_on_signals()
    with ExitStack() as open_things:
        listener = open_things.enter_context(bind(read_settings()))
        open_things.callback(parts.stop, _STOP_SECONDS)
        names = api_names(count)
        for name in names:
            parts.add(Part(name, partial(_start, parts, name, listener)))
        if parts.wait_until_ready(*names):
            host, port = listener.getsockname()[:2]
            say(f"Chainrule answers at http://{host}:{port}")
            parts.watch()


def _start(parts: Parts, name: str, listener: socket.socket) -> subprocess.Popen[str]:
    fd = listener.fileno()
    environment = {**ONE_BLAS_THREAD, "PYTHONSAFEPATH": "1"}
    return parts.spawn(name, ["service", "--fd", str(fd)], log=None, environment=environment, pass_fds=(fd,))
