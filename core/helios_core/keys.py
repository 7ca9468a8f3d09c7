"""API keys: kept as hashes, several at once, each with what it may do."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """What a key may be for."""

    INGEST = "ingest"
    METRICS = "metrics"
    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request is refused. `known`: its key is good, but not for this."""

    message: str
    known: bool


def hash_of(key: str) -> str:
    """SHA-256 in hexadecimal. A key is random and long, so that a slow hash would add nothing."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


class Keys:
    """The keys of a server.

    Args:
        scopes: for each key's hash what it may do. None leaves everything open, which only a listener
            on loopback may be.
    """

    def __init__(self, scopes: Mapping[str, frozenset[Scope]] | None) -> None:
        self._scopes = scopes
        self._own = ""

    def own(self) -> str:
        """A key for the services of this process among themselves, made anew at each start."""
        if self._scopes is None:
            return ""
        if not self._own:
            self._own = secrets.token_urlsafe(32)
            self._scopes = {**self._scopes, hash_of(self._own): frozenset({Scope.INGEST})}
        return self._own

    @property
    def are_open(self) -> bool:
        return self._scopes is None

    def fault(self, authorization: str, api_key: str, scope: Scope) -> Fault | None:
        """Why a request with these headers may not do it; None when it may.

        Args:
            authorization: `Bearer <key>`.
            api_key: the key alone, for senders that can set only a header of their own.
            scope: what it wants to do.
        """
        if self._scopes is None:
            return None
        kind, _, token = authorization.partition(" ")
        key = token.strip() if kind.lower() == "bearer" else api_key
        if not key:
            return Fault("an API key is needed: Authorization: Bearer <key>", known=False)
        hashed = hash_of(key)
        found = [allowed for known, allowed in self._scopes.items() if hmac.compare_digest(known, hashed)]
        if not found:
            return Fault("this API key is not known here", known=False)
        if scope not in found[0] and Scope.ADMIN not in found[0]:
            return Fault(f"this API key is not for {scope.value}", known=True)
        return None
