"""What the store says of changes: one subscription per API process, and any number of requests that wait for a job."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis

from common.errors import Busy, StoreUnavailable
from common.identifiers import is_id
from common.store import keys
from common.store.client import Client

_PAUSE_SECONDS = 0.5
"""Before another try when Redis is away."""
_LISTEN_SECONDS = 1.0
_APART_SECONDS = 0.1
"""Between two wakes of those who wait for the same job, however often it changes: with the look that follows, they
know well within a fifth of a second."""


class Changed:
    """One request's view of a job: set when it has changed, or may have."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    async def wait(self, seconds: float) -> bool:
        """Waits until there may be something new; False when nothing was told in so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True

    def tell(self) -> None:
        """Ends the wait."""
        self._event.set()


class _Watchers(set[Changed]):
    """All who wait for one job: woken together, and not too often."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._is_due = False
        self._woken = -_APART_SECONDS

    def tell(self) -> None:
        """Wakes them as soon as may be; called from any thread."""
        self._loop.call_soon_threadsafe(self._plan)

    def after_rest(self, call: Callable[[], None]) -> None:
        """Calls it when they may be woken again."""
        self._loop.call_at(self._woken + _APART_SECONDS, call)

    def _plan(self) -> None:
        if not self._is_due:
            self._is_due = True
            self.after_rest(self._wake)

    def _wake(self) -> None:
        self._is_due = False
        self._woken = self._loop.time()
        for changed in self:
            changed.tell()


class Changes:
    """Listens to what the store says of changing jobs, and wakes those who wait for one of them.

    The store keeps no message for who is not there: whoever is woken looks for itself, and looks now and then unwoken.

    Args:
        client: of the store.
        most: how many may wait, so that others find room.
        model_gone: is told the id of every model that is deleted, in a thread.
        models_gone: is called there when some may have been deleted unheard.

    """

    def __init__(
        self,
        client: Client,
        most: int,
        model_gone: Callable[[str], None] = lambda _: None,
        models_gone: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._most = most
        self._model_gone = model_gone
        self._models_gone = models_gone
        self._count = 0
        self._lock = threading.Lock()
        self._waiting: dict[str, _Watchers] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="changes", daemon=True)

    def start(self) -> None:
        """Begins to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Ends all waiting: those who wait answer with what there is."""
        self._stop.set()
        self._tell_all()

    def join(self) -> None:
        """Waits until it listens no more, a second at most after `stop`."""
        self._thread.join()

    @property
    def is_stopping(self) -> bool:
        """Whether nobody is to wait any longer."""
        return self._stop.is_set()

    def check_room(self) -> None:
        """Before somebody is to wait.

        Raises:
            Busy: too many do already.

        """
        if self._count >= self._most:
            raise Busy("As many callers as there is room for wait for jobs.", hint="Try again in a few seconds.")

    @contextmanager
    def of(self, job_id: str) -> Iterator[Changed]:
        """What tells of the changes of a job from here on; for use in the event loop."""
        changed = Changed()
        with self._lock:
            self._count += 1
            waiting = self._waiting.setdefault(job_id, _Watchers())
            waiting.add(changed)
        try:
            yield changed
        finally:
            self._count -= 1
            waiting.discard(changed)
            if not waiting:
                waiting.after_rest(lambda: self._forget(job_id))  # who was woken and comes again is not woken at once

    def _forget(self, job_id: str) -> None:
        with self._lock:
            if not self._waiting.get(job_id, True):
                del self._waiting[job_id]

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                with self._client.pubsub() as subscription:  # type: ignore[no-untyped-call]
                    subscription.subscribe(keys.CHANGES)
                    while not self._stop.is_set():
                        message = subscription.get_message(timeout=_LISTEN_SECONDS)
                        if message is None:
                            continue
                        if message["type"] == "subscribe":  # by the client itself, too, when its connection was lost
                            self._tell_all()  # what was said meanwhile is lost
                            self._models_gone()
                        else:
                            self._tell(message["data"])
            except (redis.RedisError, StoreUnavailable):
                self._stop.wait(_PAUSE_SECONDS)

    def _tell(self, said: bytes) -> None:
        changed_id = said.decode(errors="replace")  # whatever else was said is no id
        if is_id(changed_id, "mdl"):  # a model changes only by its end
            self._model_gone(changed_id)
            return
        with self._lock:
            if waiting := self._waiting.get(changed_id):
                waiting.tell()

    def _tell_all(self) -> None:
        with self._lock:
            for waiting in filter(None, self._waiting.values()):
                waiting.tell()
