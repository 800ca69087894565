"""Learned models in Redis, whole: the record, and a file of the weights and the document that describes them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import redis
from pydantic import ValidationError

from common.errors import Conflict, CorruptRecord, NotFound
from common.identifiers import is_id
from common.schemas.aliases import ALIAS
from common.schemas.models import Model
from common.schemas.training import MODEL_NAME
from common.store import keys
from common.store.aliases import MOST_MOVES, AliasStore
from common.store.client import Client, Script, raw, stored, text, texts
from common.store.datasets import Created, reused
from common.store.model_content import pack, unpack
from common.store.page import Page, forget, newest_first, readable

UNPUBLISHED_SECONDS = 3600
"""How long weights stay that no job published: a run that dies between the two steps leaves nothing for good."""
CHUNK_BYTES = 16 * 2**20
"""Written and read at a time: a value of Redis holds 512 MiB at most, and who moves much at once keeps others waiting."""

_NO_EXPIRY = -1
_REFERENCE = re.compile(
    rf"(?P<name>[a-z0-9][a-z0-9._-]{{0,62}})(@((?P<version>[1-9][0-9]{{0,8}})|(?P<alias>{ALIAS})))?\Z"
)


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model with all that is needed to predict."""

    record: Model
    document: dict[str, object]
    """The encoder, the target and the network as JSON."""
    weights: bytes
    """float32, little endian, of the whole parameter vector."""


class ModelStore:
    """Saves, finds, lists and deletes models.

    Args:
        client: Redis.
        aliases: of the models.
        chunk_bytes: written and read at a time.

    """

    def __init__(self, client: Client, aliases: AliasStore, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._client = client
        self._aliases = aliases
        self._chunk_bytes = chunk_bytes
        self._publish = Script(client, "publish_model")
        self._delete = Script(client, "delete_model")

    @stored
    def save(self, model: StoredModel) -> None:
        """Writes a model without publishing it: that is one step with the end of its job (`JobStore.succeed`)."""
        content = pack(model.document, model.weights)
        starts = range(0, len(content), self._chunk_bytes)
        fields: dict[str, bytes | str | int] = {
            "record": model.record.model_dump_json(),
            "sha256": hashlib.sha256(content).hexdigest(),
            "chunks": len(starts),
        }
        try:
            for number, start in enumerate(starts):
                self._write(model.record.id, {keys.model_chunk(number): content[start : start + self._chunk_bytes]})
            self._write(model.record.id, fields)
        except redis.ResponseError:  # there was no room for all of it: then there is none for a part
            self._client.unlink(keys.model(model.record.id))
            raise

    def _write(self, model_id: str, fields: dict[str, bytes | str | int]) -> None:
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.hset(keys.model(model_id), mapping=fields)  # type: ignore[arg-type] # a dict is invariant
            pipeline.expire(keys.model(model_id), UNPUBLISHED_SECONDS)
            pipeline.execute()

    @stored
    def publish(self, model: StoredModel, *, idempotency_key: str | None = None, digest: str = "") -> Created:
        """Writes a model that no job made, and makes it visible as the next version of its name.

        Args:
            model: of whatever version.
            idempotency_key: what the caller named the request.
            digest: of the whole request.

        Raises:
            Invalid: the key was used for something else (`idempotency_key_reused`).

        """
        self.save(model)
        record = model.record
        answer = self._publish(
            [
                keys.model(record.id),
                keys.MODELS,
                keys.model_versions(record.name),
                keys.model_counter(record.name),
                keys.SEQUENCE,
                keys.idempotency("models", idempotency_key) if idempotency_key else "",
            ],
            [record.id, digest],
        )
        if answer != ["ok", record.id]:  # an earlier call did it, or it cannot be done
            self._client.unlink(keys.model(record.id))
        match answer:
            case ["reused"]:
                raise reused()
            case ["missing"]:
                raise _no_such_model()
        return Created(answer[1], replayed=answer[0] == "replayed")

    @stored
    def resolve(self, reference: str) -> str:
        """The id that a reference stands for: an id itself, a name (its newest version), `name@3` or `name@alias`.

        Raises:
            NotFound: there is no such model.

        """
        if is_id(reference, "mdl"):
            return reference
        match = _REFERENCE.match(reference)
        if match is None:
            raise _no_such_model()
        name, version, alias = match["name"], match["version"], match["alias"]
        model_id: object
        if alias:
            model_id = self._client.hget(keys.model_aliases(name), alias)
        else:
            index = keys.model_versions(name)
            found = (
                self._client.zrangebyscore(index, version, version) if version else self._client.zrevrange(index, 0, 0)
            )
            model_id = next(iter(found), None)
        if not model_id:
            raise _no_such_model(
                " Its name has no such alias." if alias else " Its name has no such version." if version else ""
            )
        return text(model_id)

    @stored
    def get(self, model_id: str) -> Model:
        """The record of a published model.

        Raises:
            NotFound: there is none of that id.

        """
        return self._with_aliases([_read(*self._fetch(model_id, "record", "version"))])[0]

    @stored
    def load(self, model_id: str) -> StoredModel:
        """A published model whole, checked against its checksum; its record does not tell of aliases.

        Raises:
            NotFound: there is none of that id.
            CorruptRecord: it does not read back as it was written (`model_corrupt`).

        """
        record, version, checksum, chunks = self._fetch(model_id, "record", "version", "sha256", "chunks")
        key = keys.model(model_id)
        try:
            if chunks is None:
                document, weights = self._read_older(key, raw(checksum))
            else:
                document, weights = self._read_content(key, int(raw(chunks)), raw(checksum))
            return StoredModel(_read(record, version), document, weights)
        except (AssertionError, RecursionError, ValueError) as error:
            if not self._client.exists(key):  # any more
                raise _no_such_model() from error
            raise _corrupt() from error

    def _read_content(self, key: str, chunks: int, checksum: bytes) -> tuple[dict[str, object], bytes]:
        content = b"".join(raw(self._client.hget(key, keys.model_chunk(number))) for number in range(chunks))
        if hashlib.sha256(content).hexdigest().encode() != checksum:
            raise _corrupt()
        return unpack(content)

    def _read_older(self, key: str, checksum: bytes) -> tuple[dict[str, object], bytes]:
        """What an earlier version wrote: document and weights in fields of their own."""
        document, weights = map(raw, self._client.hmget(key, "document", "weights"))
        if hashlib.sha256(hashlib.sha256(document).digest() + weights).hexdigest().encode() != checksum:
            raise _corrupt()
        return json.loads(document), weights

    def _fetch(self, model_id: str, *names: str) -> list[object]:
        """Fields of a published model, its record and version first."""
        if not is_id(model_id, "mdl"):
            raise _no_such_model()
        key = keys.model(model_id)
        try:
            values = self._client.hmget(key, *names)
            is_published = None not in values[:2]
            if not is_published and self._client.ttl(key) == _NO_EXPIRY:  # which only what is published has not
                raise _corrupt()
        except redis.ResponseError as error:
            raise _corrupt() from error
        if not is_published:
            raise _no_such_model()
        return list(values)

    @stored
    def missing(self, model_ids: Sequence[str]) -> list[str]:
        """Those of these models that there are no more."""
        pipeline = self._client.pipeline(transaction=False)
        for model_id in model_ids:
            pipeline.exists(keys.model(model_id))
        return [model_id for model_id, found in zip(model_ids, pipeline.execute(), strict=True) if not found]

    @stored
    def page(self, limit: int, cursor: str | None = None, *, name: str | None = None) -> Page[Model]:
        """A page of models, newest first, without their evaluations; with `name`, of its versions."""
        if name is not None and re.match(MODEL_NAME, name) is None:
            return Page([], None)
        page = newest_first(self._client, keys.model_versions(name) if name else keys.MODELS, limit, cursor)
        pipeline = self._client.pipeline(transaction=False)
        for model_id in page.data:
            pipeline.hmget(keys.model(model_id), "record", "version")
        found = [pair for pair in pipeline.execute(raise_on_error=False) if isinstance(pair, list) and all(pair)]
        brief = {"evaluation": None}  # which may be long
        models = readable(found, lambda pair: _read(*pair).model_copy(update=brief))
        return Page(self._with_aliases(models), page.next_cursor)

    def _with_aliases(self, models: Sequence[Model]) -> list[Model]:
        aliases = self._aliases.of_models(model.name for model in models)
        return [model.model_copy(update={"aliases": aliases.get(model.id, ())}) for model in models]

    @stored
    def surplus(self, keep: int, most: int) -> list[str]:
        """Up to `most` models beyond the `keep` newest of their name that no alias points to and no job begins with."""
        found: list[str] = []
        for index in texts(self._client.scan_iter(match=keys.model_versions("*"), count=1000, _type="zset")):
            old = texts(self._client.zrange(index, 0, -1 - keep))
            if not old:
                continue
            try:
                aliased = set(texts(self._client.hvals(keys.model_aliases(keys.name_in(index)))))
            except redis.ResponseError:  # nobody knows what they point to
                continue
            found += [
                old_id for old_id in old if old_id not in aliased and not self._client.exists(keys.model_jobs(old_id))
            ]
            if len(found) >= most:
                break
        return found[:most]

    @stored
    def delete(self, model_id: str, *, spare_aliased: bool = False) -> None:
        """Removes a model; aliases that pointed to it point to nothing.

        Args:
            model_id: which.
            spare_aliased: not if an alias points to it.

        Raises:
            NotFound: there is none.
            Conflict: a job that has not ended begins or predicts with it, or an alias spares it (`model_in_use`).

        """
        try:
            model = _read(*self._fetch(model_id, "record", "version"))
        except CorruptRecord:  # nobody can begin with it any more
            self._aliases.forget(model_id)
            forget(self._client, model_id, [keys.model(model_id), keys.model_jobs(model_id)])
            self._client.publish(keys.CHANGES, model_id)
            return
        names = [
            keys.model(model_id),
            keys.MODELS,
            keys.model_versions(model.name),
            keys.model_jobs(model_id),
            keys.model_aliases(model.name),
        ]
        history = keys.alias_history(model.name, "")
        spare = "1" if spare_aliased else ""
        match self._delete(
            names, [model_id, keys.job(""), history, self._aliases.stamp(), MOST_MOVES, spare, keys.CHANGES]
        ):
            case "missing":
                raise _no_such_model()
            case "in_use":
                raise Conflict("A job that has not ended needs this model.", code="model_in_use")
            case "aliased":
                raise Conflict("An alias points to this model.", code="model_in_use")


def _no_such_model(why: str = "") -> NotFound:
    return NotFound(f"There is no such model.{why}", code="model_not_found")


def _corrupt() -> CorruptRecord:
    return CorruptRecord("The stored model is damaged.", code="model_corrupt", hint="Train it again from its job.")


def _read(record: object, version: object) -> Model:
    try:
        return Model.model_validate_json(raw(record)).model_copy(update={"version": int(raw(version))})
    except (AssertionError, ValueError, ValidationError) as error:
        raise _corrupt() from error
