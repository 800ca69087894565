"""The Redis client: how long it is patient, and what its errors mean here."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, wraps
from importlib.resources import files
from typing import Any, ParamSpec, TypeVar

import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry

from common.errors import CannotStart, ChainruleError, CorruptRecord, StorageFull, StoreUnavailable
from common.settings import PREFIX

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")
Client = redis.Redis

log = logging.getLogger("chainrule.store")


def connect(url: str, *, retries: int, timeout: float = 5.0) -> Client:
    """A client that answers bytes and repeats a command `retries` times when the connection breaks.

    Repeating is safe: every script is applied once per token, and all else is idempotent.

    Raises:
        CannotStart: that is no URL of a Redis.

    """
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            health_check_interval=15,
            retry=Retry(ExponentialBackoff(cap=1.0, base=0.02), retries),
            retry_on_error=[redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError],
        )
    except ValueError as error:
        raise CannotStart(f"{PREFIX}REDIS_URL must begin with redis://, rediss:// or unix://.") from error


def impatient(client: Client, seconds: float = 0.25) -> Client:
    """A client of the same Redis that asks once and does not wait long: to see whether a store that was away is back."""
    pool = client.connection_pool
    options = {
        **pool.connection_kwargs,
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "retry": Retry(NoBackoff(), 0),
    }
    return redis.Redis(connection_pool=redis.ConnectionPool(connection_class=pool.connection_class, **options))


def explain(error: redis.RedisError) -> ChainruleError:
    """What an error of the client means to whoever asked."""
    text = str(error)
    if isinstance(error, redis.ConnectionError | redis.TimeoutError | redis.ReadOnlyError):
        return StoreUnavailable("The store is out of reach.", hint="Try again in a few seconds.")
    if isinstance(error, redis.OutOfMemoryError) or "OOM" in text or "MISCONF" in text:
        return StorageFull(
            "The store has no room left.", hint="Delete models or jobs, or give Redis more memory or disk."
        )
    return CorruptRecord("The store holds something that is not a record.")


def stored(method: Callable[Arguments, Answer]) -> Callable[Arguments, Answer]:
    """Marks a method that speaks to Redis: it raises this product's errors, not the client's."""

    @wraps(method)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        with _translated():
            return method(*args, **kwargs)

    return call


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise explain(error) from error
    except UnicodeDecodeError as error:
        raise CorruptRecord("The store holds bytes where a text belongs.") from error


class Script:
    """A Lua script of `scripts/`, whose opening comment names its keys and answers."""

    def __init__(self, client: Client, name: str) -> None:
        self._run = client.register_script(_source("shared") + _source(name))

    def __call__(self, keys: Sequence[str], args: Sequence[str | int | float | bytes]) -> Any:
        """Runs it; answers texts as `str`, numbers as `int`."""
        answer = self._run(keys=keys, args=args)
        return [_decoded(part) for part in answer] if isinstance(answer, list) else _decoded(answer)


def _source(name: str) -> str:
    return files("common.store").joinpath("scripts", f"{name}.lua").read_text(encoding="utf-8")


def _decoded(value: object) -> object:
    return text(value) if isinstance(value, bytes) else value


def text(value: object) -> str:
    """A text that Redis answered."""
    assert isinstance(value, bytes)
    return value.decode()


def texts(members: Iterable[object]) -> list[str]:
    """The texts among the members of an index: what was put there by hand hides no other."""
    return [text(member) for member in members if is_text(member)]


def is_text(member: object) -> bool:
    """Whether a member of an index is a text; one that is not is told of."""
    try:
        text(member)
    except UnicodeDecodeError:
        tell_once(f"an index holds {member!r}, which is no id")
        return False
    return True


@lru_cache(maxsize=1000)
def tell_once(message: str) -> None:
    """Tells the operator of damage, which is met again and again."""
    log.error(message)


def raw(value: object) -> bytes:
    """Bytes that Redis answered."""
    assert isinstance(value, bytes)
    return value


def new_token() -> str:
    """What makes one write recognizable when the client repeats it."""
    return secrets.token_hex(8)


def to_json(value: object) -> str:
    """Compact JSON, refusing what JSON cannot say."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def pairs(fields: Mapping[str, str | int | float | bytes]) -> list[str | int | float | bytes]:
    """Field, value, field, value, … as the scripts take them."""
    return [part for pair in fields.items() for part in pair]
