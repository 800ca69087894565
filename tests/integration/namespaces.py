"""Machines for tests: network namespaces with an address each, joined by a wire that may delay and lose packets."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common import processes

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_count = itertools.count()


def can_make() -> bool:
    """Whether this machine lets us make network namespaces."""
    return os.geteuid() == 0 and Path("/dev/net/tun").exists() and _run("ip", "netns", "list", check=False) == 0


def _run(*command: str, check: bool = True) -> int:
    try:
        return subprocess.run(command, check=check, capture_output=True, timeout=30).returncode
    except FileNotFoundError:
        return -1


def enter(name: str) -> None:
    """Moves the calling thread, and what it starts from now on, into a namespace."""
    file = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    _enter(file)
    os.close(file)


def _enter(file: int) -> None:
    if _libc.setns(file, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot enter the namespace")


@contextmanager
def inside(name: str) -> Iterator[None]:
    """The calling thread in a namespace, for a while."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    enter(name)
    try:
        yield
    finally:
        _enter(home)
        os.close(home)


@dataclass(frozen=True)
class Machine:
    """A namespace, and its address on the common wire."""

    name: str
    address: str

    def cut(self) -> None:
        """Pulls the wire out."""
        _run("ip", "-n", self.name, "link", "set", "wire", "down")

    def mend(self) -> None:
        """Puts it back."""
        _run("ip", "-n", self.name, "link", "set", "wire", "up")


@contextmanager
def machines(count: int, *, delay: float = 0.0, loss: float = 0.0) -> Iterator[list[Machine]]:
    """So many machines on one wire.

    Args:
        count: how many.
        delay: seconds that each packet takes; with it or a loss there are two machines.
        loss: the share of packets that never arrive.

    """
    prefix = f"cr{os.getpid()}x{next(_count)}"
    found = [Machine(f"{prefix}n{i}", f"10.77.0.{i + 1}") for i in range(count)]
    wire = None
    try:
        for machine in found:
            _run("ip", "netns", "add", machine.name)
            _run("ip", "-n", machine.name, "link", "set", "lo", "up")
        if delay or loss:
            assert count == 2
            wire = _slow_wire(found, delay, loss)
        else:
            _bridge(prefix, found)
        yield found
    finally:
        if wire is not None:
            with wire:
                processes.stop(wire)
        for machine in found:
            _run("ip", "netns", "del", machine.name, check=False)
        _run("ip", "netns", "del", f"{prefix}b", check=False)


def _bridge(prefix: str, found: list[Machine]) -> None:
    middle = f"{prefix}b"
    _run("ip", "netns", "add", middle)
    _run("ip", "-n", middle, "link", "add", "bridge", "type", "bridge")
    _run("ip", "-n", middle, "link", "set", "bridge", "up")
    for number, machine in enumerate(found):
        port = f"port{number}"
        _run(*("ip", "-n", middle, "link", "add", port, "type", "veth", "peer", "wire", "netns", machine.name))
        _run("ip", "-n", middle, "link", "set", port, "master", "bridge", "up")
        _run("ip", "-n", machine.name, "address", "add", f"{machine.address}/24", "dev", "wire")
        _run("ip", "-n", machine.name, "link", "set", "wire", "up")
        _run("ip", "-n", machine.name, "route", "add", "default", "dev", "wire")


def _slow_wire(found: list[Machine], delay: float, loss: float) -> subprocess.Popen[str]:
    """Two tunnel devices, and a process that carries packets from one to the other."""
    names = [machine.name for machine in found]
    command = [sys.executable, "-P", "-m", "tests.integration.slow_wire", *names, str(delay), str(loss)]
    wire = processes.start(command, folder=Path(__file__).parents[2], piped=True)
    assert wire.stdout is not None
    assert wire.stdout.readline() == "ready\n"
    for machine in found:
        _run("ip", "-n", machine.name, "address", "add", f"{machine.address}/24", "dev", "wire")
        _run("ip", "-n", machine.name, "link", "set", "wire", "up")
        _run("ip", "-n", machine.name, "route", "add", "default", "dev", "wire")
    return wire
