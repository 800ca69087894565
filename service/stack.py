"""`chainrule up`: the whole stack on one machine. Starts its parts, watches over them, and ends with them.

The listening socket belongs to this process and outlives an API process that dies: callers wait, and are answered
by the next one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from common import processes
from common.errors import CannotStart, ChainruleError, FilesUnavailable
from common.settings import STACK_VARIABLE, Settings
from common.store.client import connect
from common.store.datasets import DatasetStore
from common.store.files import open_files
from service.__main__ import bind
from service.redis_server import check_redis, start_redis

Say = Callable[[str], None]

_RESTARTS, _WITHIN_SECONDS = 5, 60.0
_RUNTIME_PREFIX = "cr"
_PATIENCE_SECONDS = 20.0
_FILES_SECONDS = 10.0
"""For which an object store is waited for."""
_SOCKET = "redis.sock"


def running_redis_url(settings: Settings) -> str:
    """The Redis of the settings, or the embedded one of the stack that runs on their state directory.

    Raises:
        CannotStart: neither is there.

    """
    if settings.redis_url is not None:
        return settings.redis_url
    try:
        return _url(Path(_record(settings).read_text().strip()))
    except OSError:
        raise CannotStart("Set CHAINRULE_REDIS_URL to the server's Redis, or start `chainrule up` first.") from None


def _url(runtime: Path) -> str:
    return f"unix://{runtime / _SOCKET}"


def _record(settings: Settings) -> Path:
    """Where a stack notes the folder of its sockets."""
    return settings.state_path / "runtime"


@dataclass(eq=False)
class _Part:
    """A process of the stack, started again when it dies."""

    name: str
    start: Callable[[], subprocess.Popen[str]]
    process: subprocess.Popen[str] | None = None
    deaths: list[float] = field(default_factory=list)


class Stack:
    """The parts of one stack.

    Args:
        settings: of this machine; the parts get them as environment variables.
        say: tells the person at the terminal.
        clock: monotonic seconds.

    """

    def __init__(self, settings: Settings, say: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._say = say
        self._clock = clock
        self._state = settings.state_path
        self._logs = self._state / "logs"
        self._events: queue.SimpleQueue[_Part | str | None] = queue.SimpleQueue()
        self._parts: list[_Part] = []
        self._stopping = False

    def run(self) -> None:
        """Starts everything, and returns when asked to stop and everything has ended.

        Raises:
            CannotStart: a part does not start, or dies again and again; everything else was ended.

        """
        began = self._clock()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self._events.put(None))
        with ExitStack() as open_things:
            open_things.enter_context(self._locked())
            listener = open_things.enter_context(bind(self._settings))
            runtime = open_things.enter_context(self._runtime_folder())
            open_things.callback(self._stop)
            self._say("Starting Redis, Ray, a supervisor and the API …")
            url = self._settings.redis_url or self._start_redis(runtime)
            self._check_redis(url)
            self._start_rest(listener, runtime, url)
            host, port = listener.getsockname()[:2]
            if self._wait_until_ready():
                self._say(
                    f"Chainrule answers at http://{host}:{port} (ready in {self._clock() - began:.1f} s; Ctrl-C ends it)"
                )
                self._watch()
            self._say("Stopping …")

    # Folders

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The state directory is this process's alone; the lock goes with the process, however that ends."""
        try:
            self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._logs.mkdir(mode=0o700, exist_ok=True)
            open_files(self._settings, patience=_FILES_SECONDS).prepare()
            lock = (self._state / "lock").open("a+")
        except FilesUnavailable as error:
            raise CannotStart(
                "The bucket of CHAINRULE_DATA_URL cannot be used. Check it and the AWS_* variables."
            ) from error
        except OSError as error:
            raise CannotStart(f"Cannot use the state directory {self._state}: {error.strerror}.") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read().strip() or "unknown"
                raise CannotStart(
                    f"A stack is already running on {self._state} (process {holder}). Stop it first, or use another --state-dir."
                ) from None
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            yield

    @contextmanager
    def _runtime_folder(self) -> Iterator[Path]:
        """A folder of this life for sockets and temporary files; what an earlier life left is ended and removed."""
        record = _record(self._settings)
        old = self._old_runtime(record)
        if processes.sweep(self._mark, old):
            self._say("Ended what an earlier life had left running.")
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
        # Sockets have short names: a long TMPDIR would not do.
        short = "/tmp" if Path("/tmp").is_dir() else None  # noqa: S108
        runtime = Path(tempfile.mkdtemp(prefix=_RUNTIME_PREFIX, dir=short))
        try:
            record.write_text(str(runtime))
            yield runtime
        finally:
            processes.sweep(self._mark, runtime)
            shutil.rmtree(runtime, ignore_errors=True)
            record.unlink(missing_ok=True)

    def _old_runtime(self, record: Path) -> Path | None:
        """The folder of an earlier life that did not remove it itself."""
        try:
            old = Path(record.read_text().strip())
            is_ours = old.name.startswith(_RUNTIME_PREFIX) and old.is_dir() and old.stat().st_uid == os.getuid()
        except (OSError, ValueError):  # there is none, or it is damaged
            return None
        return old if is_ours else None

    @property
    def _mark(self) -> str:
        """What all processes of this state directory carry in their environment."""
        return hashlib.sha256(str(self._state.resolve()).encode()).hexdigest()[:16]

    # Parts

    def _start_redis(self, runtime: Path) -> str:
        path = runtime / _SOCKET
        environment = {STACK_VARIABLE: self._mark}
        self._add(
            _Part(
                "Redis",
                lambda: start_redis(self._state / "redis", path, self._logs / "redis.log", environment),
            )
        )
        return _url(runtime)

    def _check_redis(self, url: str) -> None:
        client = connect(url, retries=3)
        check_redis(client)
        client.close()

    def _start_rest(self, listener: socket.socket, runtime: Path, redis_url: str) -> None:
        environment = self._environment(runtime, redis_url)
        socket_fd = listener.fileno()
        serve = ["service", "--fd", str(socket_fd)]
        self._add(_Part("supervisor", lambda: self._spawn("supervisor", ["worker"], environment, ())))

        def start_api() -> subprocess.Popen[str]:
            self._sweep_files(redis_url)
            return self._spawn("API", serve, environment, (socket_fd,))

        self._add(_Part("API", start_api))

    def _sweep_files(self, redis_url: str) -> None:
        """Removes what an API process that died left behind; with a Redis of somebody else's, others may be at work."""
        if self._settings.redis_url is not None:
            return
        client = connect(redis_url, retries=3)
        try:
            open_files(self._settings, patience=_FILES_SECONDS).sweep(DatasetStore(client).exists)
        except ChainruleError as error:  # Redis is just being started again; the next start sweeps
            self._say(f"Left-over files were not removed: {error.message}")
        finally:
            client.close()

    def _environment(self, runtime: Path, redis_url: str) -> Mapping[str, str]:
        settings = self._settings
        return {
            **processes.ONE_BLAS_THREAD,
            STACK_VARIABLE: self._mark,
            "TMPDIR": str(runtime),
            "PYTHONSAFEPATH": "1",
            "CHAINRULE_REDIS_URL": redis_url,
            "CHAINRULE_STATE_DIR": str(self._state),
            "CHAINRULE_DATA_URL": settings.bucket_url or str(settings.data_path),
            "CHAINRULE_HOST": settings.host,
        }

    def _spawn(
        self, name: str, module: list[str], environment: Mapping[str, str], fds: tuple[int, ...]
    ) -> subprocess.Popen[str]:
        """Starts a part that writes a line when it is ready; a thread waits for that line."""
        reading, writing = os.pipe()
        try:
            process = processes.start(
                [sys.executable, "-m", *module, "--ready-fd", str(writing)],
                log=self._logs / f"{name.lower()}.log",
                environment=environment,
                folder=self._state,
                pass_fds=(writing, *fds),
            )
        finally:
            os.close(writing)

        def listen() -> None:
            with os.fdopen(reading) as pipe:
                if pipe.readline():
                    self._events.put(name)

        threading.Thread(target=listen, daemon=True).start()
        return process

    def _add(self, part: _Part) -> None:
        self._parts.append(part)
        self._start(part)

    def _start(self, part: _Part) -> None:
        part.process = process = part.start()

        def wait() -> None:
            process.wait()
            self._events.put(part)

        threading.Thread(target=wait, daemon=True).start()

    # The life of the stack

    def _wait_until_ready(self) -> bool:
        """Waits for every part's word; False when asked to stop before."""
        waiting = {"supervisor", "API"}
        while waiting:
            try:
                event = self._events.get(timeout=_PATIENCE_SECONDS)
            except queue.Empty:
                logs = ", ".join(str(self._logs / f"{name.lower()}.log") for name in sorted(waiting))
                self._say(f"Still waiting for the {' and the '.join(sorted(waiting))} (see {logs}) …")
                continue
            if event is None:
                return False
            if isinstance(event, str):
                waiting.discard(event)
                continue
            log = self._logs / f"{event.name.lower()}.log"
            raise CannotStart(f"The {event.name} did not start. It said:\n{processes.last_lines(log)}\n(see {log})")
        return True

    def _watch(self) -> None:
        """Starts again what dies, until asked to stop."""
        while (event := self._events.get()) is not None:
            if isinstance(event, str):
                self._say(f"The {event} is back.")
                continue
            now = self._clock()
            event.deaths = [death for death in event.deaths if now - death < _WITHIN_SECONDS] + [now]
            log = self._logs / f"{event.name.lower()}.log"
            if len(event.deaths) > _RESTARTS:
                raise CannotStart(
                    f"The {event.name} ends again and again. It said:\n{processes.last_lines(log)}\n(see {log})"
                )
            self._say(f"The {event.name} ended unexpectedly and is started again (see {log}).")
            self._start(event)

    def _stop(self) -> None:
        """Ends the parts, the last first: Redis outlives those that write to it."""
        for part in reversed(self._parts):
            if part.process is not None:
                processes.stop(part.process, seconds=25)
