"""`chainrule up`: the whole stack on one machine. Starts its parts, watches over them, and ends with them.

The listening socket belongs to this process and outlives an API process that dies: callers wait, and are answered
by the next one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from common import processes
from common.errors import CannotStart, ChainruleError, FilesUnavailable
from common.settings import STACK_VARIABLE, Settings
from common.store.client import connect
from common.store.datasets import DatasetStore
from common.store.files import open_files
from service.listener import bind
from service.parts import Part, Parts, Say, api_names
from service.redis_server import check_redis, start_redis

_RUNTIME_PREFIX = "cr"
_STOP_SECONDS = 25.0
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
        self._parts = Parts(say, clock)

    def run(self) -> None:
        """Starts everything, and returns when asked to stop and everything has ended.

        Raises:
            CannotStart: a part does not start, or dies again and again; everything else was ended.

        """
        began = self._clock()
        self._parts.end_on_signals()
        with ExitStack() as open_things:
            open_things.enter_context(self._locked())
            listener = open_things.enter_context(bind(self._settings))
            runtime = open_things.enter_context(self._runtime_folder())
            open_things.callback(self._parts.stop, _STOP_SECONDS)
            self._say("Starting Redis, Ray, a supervisor and the API …")
            url = self._settings.redis_url or self._start_redis(runtime)
            self._check_redis(url)
            names = self._start_rest(listener, runtime, url)
            host, port = listener.getsockname()[:2]
            if self._parts.wait_until_ready(*names):
                self._say(
                    f"Chainrule answers at http://{host}:{port} (ready in {self._clock() - began:.1f} s; Ctrl-C ends it)"
                )
                self._parts.watch()
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
        log = self._logs / "redis.log"
        self._parts.add(Part("Redis", lambda: start_redis(self._state / "redis", path, log, environment), log))
        return _url(runtime)

    def _check_redis(self, url: str) -> None:
        client = connect(url, retries=3)
        check_redis(client)
        client.close()

    def _start_rest(self, listener: socket.socket, runtime: Path, redis_url: str) -> list[str]:
        """Starts the supervisor and the API; their names."""
        environment = self._environment(runtime, redis_url)
        supervisor, fd = "supervisor", listener.fileno()
        self._sweep_files(redis_url)
        self._add(supervisor, ["worker"], environment, ())
        apis = api_names(self._settings.processes)
        for name in apis:
            self._add(name, ["service", "--fd", str(fd)], environment, (fd,))
        return [supervisor, *apis]

    def _add(self, name: str, module: list[str], environment: Mapping[str, str], fds: tuple[int, ...]) -> None:
        log = self._logs / f"{name.lower().replace(' ', '-')}.log"

        def start() -> subprocess.Popen[str]:
            if part.process is not None:  # which has died
                open_files(self._settings, patience=_FILES_SECONDS).discard_uploads(part.process.pid)
            return self._parts.spawn(name, module, log=log, environment=environment, folder=self._state, pass_fds=fds)

        part = Part(name, start, log)
        self._parts.add(part)

    def _sweep_files(self, redis_url: str) -> None:
        """Removes what an earlier life left behind; with a Redis of somebody else's, others may be at work."""
        if self._settings.redis_url is not None:
            return
        client = connect(redis_url, retries=3)
        try:
            open_files(self._settings, patience=_FILES_SECONDS).sweep(DatasetStore(client).is_known)
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
