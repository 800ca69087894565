"""The socket that callers connect to; it may outlive the process that answers."""

from __future__ import annotations

import socket

from common.errors import CannotStart
from common.settings import Settings


def bind(settings: Settings) -> socket.socket:
    """A listening socket at the address of the settings.

    Raises:
        CannotStart: the port is taken, or the address is not this machine's.

    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # The protocol is named so that asyncio turns Nagle's algorithm off: small answers would wait for the caller's next word
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        where = f"{settings.host}:{settings.port}"
        raise CannotStart(f"Cannot listen on {where}: {error.strerror}. Choose another port with --port.") from error
    return listener
