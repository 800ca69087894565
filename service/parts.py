"""Processes that belong together: started, watched over, started again when they die, and ended."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common import processes
from common.errors import CannotStart

Say = Callable[[str], None]

_RESTARTS, _WITHIN_SECONDS = 5, 60.0
_PATIENCE_SECONDS = 20.0


def api_names(count: int) -> list[str]:
    """What so many API processes are called."""
    return ["API"] if count == 1 else [f"API {number}" for number in range(1, count + 1)]


@dataclass(eq=False)
class Part:
    """A process, started again when it dies.

    Attributes:
        name: for people.
        start: starts it.
        log: where its output goes; None: to that of the caller.

    """

    name: str
    start: Callable[[], subprocess.Popen[str]]
    log: Path | None = None
    process: subprocess.Popen[str] | None = None
    deaths: list[float] = field(default_factory=list)

    @property
    def last_words(self) -> str:
        """What it said last, for a message about its end."""
        return "." if self.log is None else f". It said:\n{processes.last_lines(self.log)}\n(see {self.log})"

    @property
    def where(self) -> str:
        """Where to look."""
        return "" if self.log is None else f" (see {self.log})"


class Parts:
    """The processes, in the order of their start; used from the main thread alone.

    Args:
        say: tells the person at the terminal.
        clock: monotonic seconds.

    """

    def __init__(self, say: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._events: queue.SimpleQueue[Part | str | None] = queue.SimpleQueue()
        self._parts: list[Part] = []

    def end_on_signals(self) -> None:
        """From now on SIGINT, SIGTERM and SIGHUP end the waiting and the watching."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self._events.put(None))

    def add(self, part: Part) -> None:
        """Starts one more."""
        self._parts.append(part)
        self._start(part)

    def spawn(
        self,
        name: str,
        module: Sequence[str],
        *,
        log: Path | None,
        environment: Mapping[str, str],
        folder: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[str]:
        """Starts a module of ours that writes a line when it is ready; a thread waits for that line."""
        reading, writing = os.pipe()
        try:
            process = processes.start(
                [sys.executable, "-m", *module, "--ready-fd", str(writing)],
                log=log,
                environment=environment,
                folder=folder,
                pass_fds=(writing, *pass_fds),
                shared_output=log is None,
            )
        finally:
            os.close(writing)

        def listen() -> None:
            with os.fdopen(reading) as pipe:
                if pipe.readline():
                    self._events.put(name)

        threading.Thread(target=listen, daemon=True).start()
        return process

    def wait_until_ready(self, *names: str) -> bool:
        """Waits for the word of each of these; False when asked to stop before.

        Raises:
            CannotStart: a part has ended.

        """
        waiting = set(names)
        while waiting:
            try:
                event = self._events.get(timeout=_PATIENCE_SECONDS)
            except queue.Empty:
                parts = sorted((part for part in self._parts if part.name in waiting), key=lambda part: part.name)
                self._say(f"Still waiting for the {' and the '.join(p.name + p.where for p in parts)} …")
                continue
            if event is None:
                return False
            if isinstance(event, str):
                waiting.discard(event)
                continue
            raise CannotStart(f"The {event.name} did not start{event.last_words}")
        return True

    def watch(self) -> None:
        """Starts again what dies, until asked to stop.

        Raises:
            CannotStart: a part ends again and again.

        """
        while (event := self._events.get()) is not None:
            if isinstance(event, str):
                self._say(f"The {event} is back.")
                continue
            now = self._clock()
            event.deaths = [death for death in event.deaths if now - death < _WITHIN_SECONDS] + [now]
            if len(event.deaths) > _RESTARTS:
                raise CannotStart(f"The {event.name} ends again and again{event.last_words}")
            self._say(f"The {event.name} ended unexpectedly and is started again{event.where}.")
            self._start(event)

    def stop(self, seconds: float) -> None:
        """Ends them, the last first, each within so many seconds."""
        for part in reversed(self._parts):
            if part.process is not None:
                processes.stop(part.process, seconds)

    def _start(self, part: Part) -> None:
        part.process = process = part.start()

        def wait() -> None:
            process.wait()
            self._events.put(part)

        threading.Thread(target=wait, daemon=True).start()
