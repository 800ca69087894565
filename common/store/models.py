"""Learned models in Redis, whole: the record, the document that describes the network and its features, the weights."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

import redis
from pydantic import ValidationError

from common.errors import Conflict, CorruptRecord, NotFound
from common.identifiers import is_id
from common.schemas.models import Model
from common.schemas.training import MODEL_NAME
from common.store import keys
from common.store.client import Client, Script, raw, stored, text, to_json
from common.store.page import Page, forget, newest_first, readable

UNPUBLISHED_SECONDS = 3600
"""How long weights stay that no job published: a run that dies between the two steps leaves nothing for good."""

_NO_EXPIRY = -1
_REFERENCE = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]{0,62})(@(?P<version>[1-9][0-9]{0,8}))?\Z")


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model with all that is needed to predict."""

    record: Model
    document: dict[str, object]
    """The encoder, the target and the network as JSON."""
    weights: bytes
    """float32, little endian, of the whole parameter vector."""


class ModelStore:
    """Saves, finds, lists and deletes models."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._delete = Script(client, "delete_model")

    @stored
    def save(self, model: StoredModel) -> None:
        """Writes a model without publishing it: that is one step with the end of its job (`JobStore.succeed`)."""
        document = to_json(model.document).encode()
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.hset(
                keys.model(model.record.id),
                mapping={
                    "record": model.record.model_dump_json(),
                    "document": document,
                    "weights": model.weights,
                    "sha256": _checksum(document, model.weights),
                },
            )
            pipeline.expire(keys.model(model.record.id), UNPUBLISHED_SECONDS)
            pipeline.execute()

    @stored
    def resolve(self, reference: str) -> str:
        """The id that a reference stands for: an id itself, a name (its newest version) or `name@3`.

        Raises:
            NotFound: there is no such model.

        """
        if is_id(reference, "mdl"):
            return reference
        match = _REFERENCE.match(reference)
        if match is None:
            raise _no_such_model()
        index, version = keys.model_versions(match["name"]), match["version"]
        found = self._client.zrangebyscore(index, version, version) if version else self._client.zrevrange(index, 0, 0)
        if not found:
            raise _no_such_model()
        return text(found[0])

    @stored
    def get(self, model_id: str) -> Model:
        """The record of a published model.

        Raises:
            NotFound: there is none of that id.

        """
        return _read(*self._fetch(model_id, "record", "version"))

    @stored
    def load(self, model_id: str) -> StoredModel:
        """A published model whole, checked against its checksum.

        Raises:
            NotFound: there is none of that id.
            CorruptRecord: it does not read back as it was written (`model_corrupt`).

        """
        values = self._fetch(model_id, "record", "version", "document", "weights", "sha256")
        try:
            record, version, document, weights, checksum = map(raw, values)
            if _checksum(document, weights).encode() != checksum:
                raise _corrupt()
            return StoredModel(_read(record, version), json.loads(document), weights)
        except (AssertionError, RecursionError, ValueError) as error:
            raise _corrupt() from error

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
        return Page(readable(found, lambda pair: _read(*pair).model_copy(update=brief)), page.next_cursor)

    @stored
    def delete(self, model_id: str) -> None:
        """Removes a model.

        Raises:
            NotFound: there is none of that id.
            Conflict: a job that has not ended begins with it (`model_in_use`).

        """
        try:
            model = self.get(model_id)
        except CorruptRecord:  # nobody can begin with it any more
            forget(self._client, model_id, [keys.model(model_id), keys.model_jobs(model_id)])
            return
        names = [keys.model(model_id), keys.MODELS, keys.model_versions(model.name), keys.model_jobs(model_id)]
        match self._delete(names, [model_id, keys.job("")]):
            case "missing":
                raise _no_such_model()
            case "in_use":
                raise Conflict("A job that has not ended begins with this model.", code="model_in_use")


def _checksum(document: bytes, weights: bytes) -> str:
    return hashlib.sha256(hashlib.sha256(document).digest() + weights).hexdigest()


def _no_such_model() -> NotFound:
    return NotFound("There is no such model.", code="model_not_found")


def _corrupt() -> CorruptRecord:
    return CorruptRecord("The stored model is damaged.", code="model_corrupt", hint="Train it again from its job.")


def _read(record: object, version: object) -> Model:
    try:
        return Model.model_validate_json(raw(record)).model_copy(update={"version": int(raw(version))})
    except (AssertionError, ValueError, ValidationError) as error:
        raise _corrupt() from error
