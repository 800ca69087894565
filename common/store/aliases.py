"""Aliases of models in Redis: what each points to, and what it pointed to before."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime

from common.errors import Conflict, Fault, Invalid, NotFound
from common.identifiers import is_id
from common.schemas.aliases import Alias, AliasMove
from common.store import keys
from common.store.client import Client, Script, is_text, stored, tell_once, text

MOST_MOVES = 100
"""Kept of each alias: the newest."""
MOST_ALIASES = 100
"""Of one name; those removed whose histories are kept are among them until there is no room."""


class AliasStore:
    """Moves, removes and lists aliases.

    Args:
        client: Redis.
        now: the time written into histories.

    """

    def __init__(self, client: Client, now: Callable[[], datetime]) -> None:
        self._client = client
        self._now = now
        self._move = Script(client, "move_alias")
        self._remove = Script(client, "remove_alias")

    @stored
    def move(self, name: str, alias: str, model_id: str) -> Alias:
        """Lets an alias of a name point to a published model of that name, from the next request on.

        Raises:
            Invalid: there is no such model, or it has another name.
            Conflict: the name has as many aliases as it may have (`too_many_aliases`).

        """
        answer = "no_model"
        if is_id(model_id, "mdl"):
            answer = self._move(
                [keys.model_aliases(name), keys.model_versions(name), keys.model(model_id)],
                [alias, model_id, keys.alias_history(name, ""), self.stamp(), MOST_MOVES, MOST_ALIASES],
            )
        match answer:
            case "no_model":
                raise _unsuitable("model_not_found", "there is no such model; must be the id of one")
            case "other_name":
                raise _unsuitable("unsuitable_model", "must be the id of a model of this name")
            case "too_many":
                raise Conflict(
                    f"A name has at most {MOST_ALIASES} aliases.", code="too_many_aliases", hint="Remove one first."
                )
        return self._read(name, alias, model_id)

    @stored
    def remove(self, name: str, alias: str, model_id: str = "") -> None:
        """Lets an alias point to nothing; where a model is given, only if it points to that.

        Raises:
            NotFound: it points to nothing, or to another model.

        """
        history = keys.alias_history(name, "")
        if not self._remove([keys.model_aliases(name)], [alias, history, self.stamp(), MOST_MOVES, model_id]):
            raise NotFound("There is no such alias.", code="alias_not_found")

    @stored
    def of_name(self, name: str) -> list[Alias]:
        """All aliases of a name, by the alphabet; those removed are among them while their histories are kept.

        Raises:
            NotFound: there is no model of that name, and was none with an alias.

        """
        found = self._client.hgetall(keys.model_aliases(name))
        if not found and not self._client.exists(keys.model_versions(name)):
            raise NotFound("There is no model of this name.", code="model_not_found")
        pairs = [(text(alias), text(model_id)) for alias, model_id in found.items() if is_text(alias)]
        return [self._read(name, alias, model_id or None) for alias, model_id in sorted(pairs)]

    @stored
    def of_models(self, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """The aliases of every model of these names that has some, by the alphabet; damage hides none of the others."""
        several = sorted(set(names))
        pipeline = self._client.pipeline(transaction=False)
        for name in several:
            pipeline.hgetall(keys.model_aliases(name))
        aliases: dict[str, tuple[str, ...]] = {}
        for name, found in zip(several, pipeline.execute(raise_on_error=False), strict=True):
            if not isinstance(found, dict):
                tell_once(f"the aliases of {name} are damaged")
                continue
            for alias, model_id in sorted(found.items()):
                if is_text(alias) and is_text(model_id):
                    aliases[text(model_id)] = (*aliases.get(text(model_id), ()), text(alias))
        return aliases

    @stored
    def forget(self, model_id: str) -> None:
        """Removes all aliases of a model whose name is not known."""
        for index in self._client.scan_iter(match=keys.model_aliases("*"), count=1000, _type="hash"):
            for alias, found in self._client.hgetall(index).items():
                if found == model_id.encode() and is_text(alias):
                    with suppress(NotFound):  # moved in between
                        self.remove(keys.name_in(text(index)), text(alias), model_id)

    def stamp(self) -> str:
        """The time as histories have it."""
        return self._now().isoformat(timespec="milliseconds")

    def _read(self, name: str, alias: str, model_id: str | None) -> Alias:
        history: list[AliasMove] = []
        for value in self._client.lrange(keys.alias_history(name, alias), 0, -1):
            with suppress(ValueError):  # a damaged one does not hide the others
                history.append(AliasMove.model_validate_json(text(value)))
        last = history[0] if history and history[0].model_id == model_id else None
        return Alias(
            name=name,
            alias=alias,
            model_id=model_id,
            version=None if last is None else last.version,
            changed_at=None if last is None else last.changed_at,
            history=tuple(history),
        )


def _unsuitable(code: str, message: str) -> Invalid:
    return Invalid("The request has a fault.", [Fault("/model_id", code, message)])
