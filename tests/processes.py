"""Other processes for tests, each at the end of a wire."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["numpy", "pytest", "worker.channel.shared_memory", "worker.channel.sockets"])


def start_process(stack: ExitStack, behaviour: Callable[..., None], *arguments: Any) -> tuple[Any, Any]:
    """Another process, which is given a wire and the arguments; the process, and the wire's other end.

    It ends with the stack.
    """
    here, there = PROCESSES.Pipe()
    process = PROCESSES.Process(target=behaviour, args=(there, *arguments), daemon=True)
    process.start()
    there.close()
    stack.callback(here.close)
    stack.callback(process.join, 10)
    stack.callback(process.kill)
    return process, here
