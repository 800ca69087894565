"""API keys. Only their hashes are kept: whoever reads the store learns no key."""

from __future__ import annotations

import hashlib
import secrets

from common.store import keys
from common.store.client import Client, stored, texts


class AccessStore:
    """Makes keys and knows those that were made."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @stored
    def create(self, name: str) -> str:
        """A new key, which is seen here and never again."""
        key = "ck_" + secrets.token_urlsafe(32)
        self.add(key, name)
        return key

    @stored
    def add(self, key: str, name: str) -> None:
        """Accepts a key that was made elsewhere, such as one from a secret file."""
        self._client.hset(keys.ACCESS_KEYS, digest(key), name)

    @stored
    def digests(self) -> frozenset[str]:
        """The hashes of all keys."""
        return frozenset(texts(self._client.hkeys(keys.ACCESS_KEYS)))


def digest(key: str) -> str:
    """SHA-256 of a key, in hex. Keys hold 256 random bits, so no slow hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()
