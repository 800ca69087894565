"""Something done over and over beside what a thread is busy with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def beside(seconds: float, act: Callable[[], object], patience: float | None = None) -> Iterator[None]:
    """Calls `act` in another thread, every so many seconds, until the block has ended.

    Then a call in work is waited for; at most `patience` seconds, where it may hang.
    """
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(seconds):
            act()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(patience)
