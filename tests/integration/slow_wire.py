"""A wire between two network namespaces: takes its time with every packet, and loses some.

`python -m tests.integration.slow_wire NAMESPACE NAMESPACE DELAY LOSS` makes a tunnel device `wire` in both and says
"ready"; it ends with its input.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque

from tests.integration.namespaces import enter

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 1, 0x1000
_LARGEST_PACKET = 65_536


def _tunnel(namespace: str) -> int:
    enter(namespace)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"wire", _IFF_TUN | _IFF_NO_PI))
    return device


def main() -> None:
    """Carries packets until the input ends."""
    ends = [_tunnel(name) for name in sys.argv[1:3]]
    delay, loss = float(sys.argv[3]), float(sys.argv[4])
    draw = random.Random(0)
    on_the_way: deque[tuple[float, int, bytes]] = deque()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        timeout = max(0.0, on_the_way[0][0] - time.monotonic()) if on_the_way else None
        readable, _, _ = select.select([*ends, 0], [], [], timeout)
        if 0 in readable:
            return
        for end in readable:
            _take_in(end, ends[1 - ends.index(end)], delay, loss, draw, on_the_way)
        while on_the_way and on_the_way[0][0] <= time.monotonic():
            _, end, packet = on_the_way.popleft()
            try:
                os.write(end, packet)
            except OSError:  # the device is down, or its queue is full: as on a real wire, the packet is lost
                continue


def _take_in(
    end: int, other: int, delay: float, loss: float, draw: random.Random, on_the_way: deque[tuple[float, int, bytes]]
) -> None:
    while True:
        try:
            packet = os.read(end, _LARGEST_PACKET)
        except OSError:
            return
        if draw.random() >= loss:
            on_the_way.append((time.monotonic() + delay, other, packet))


if __name__ == "__main__":
    main()
