"""API keys: kept as hashes, several at once, each with what it may do and until when."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_LOOK_S: Final = 1.0  # how often the source of keys is asked


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


@dataclass(frozen=True, slots=True)
class Grant:
    """What a key may do. `until_s`: seconds since the epoch at which it expires; None never."""

    scopes: frozenset[Scope]
    until_s: float | None = None


Grants = Mapping[str, Grant]  # by the hash of the key


def new_key() -> str:
    """A key that nobody can guess."""
    return f"helios_{secrets.token_urlsafe(32)}"


def hash_of(key: str) -> str:
    """SHA-256 in hexadecimal. A key is random and long, so that a slow hash would add nothing."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


class Keys:
    """The keys of a server.

    Args:
        grants: what is known of keys from the start. None leaves everything open, until there are keys.
        source: is asked, at most once a second, what else is known: None where keys are not kept at all. It
            never raises.
        is_local: while it is open only this machine is answered. False where something else lets in, as
            mutual TLS does.
        now_s: seconds since the epoch.
    """

    def __init__(
        self,
        grants: Grants | None,
        source: Callable[[], Grants | None] = lambda: None,
        *,
        is_local: bool = True,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._fixed = dict(grants or {})
        self._source = source
        self._now_s = now_s
        self._is_local = is_local
        self._own = new_key()
        self._own_hash = hash_of(self._own)
        self._known: Grants = {}
        self._looked_s = float("-inf")
        self._is_open = grants is None
        self._look()

    def own(self) -> str:
        """A key for the services of this process among themselves, made anew at each start."""
        return self._own

    @property
    def are_open(self) -> bool:
        """Nobody needs a key. Once keys are kept everybody does, also when all are revoked."""
        self._look()
        return self._is_open

    @property
    def are_local(self) -> bool:
        """Nobody needs a key, and only this machine is answered."""
        return self.are_open and self._is_local

    def fault(self, authorization: str, api_key: str, scope: Scope) -> Fault | None:
        """Why a request with these headers may not do it; None when it may.

        Args:
            authorization: `Bearer <key>`.
            api_key: the key alone, for senders that can set only a header of their own.
            scope: what it wants to do.
        """
        if self.are_open:
            return None
        kind, _, token = authorization.partition(" ")
        key = token.strip() if kind.lower() == "bearer" else api_key
        if not key:
            return Fault("an API key is needed: Authorization: Bearer <key>", known=False)
        return self.fault_of(hash_of(key), scope)

    def fault_of(self, hashed: str, scope: Scope) -> Fault | None:
        """The same by the hash of a key: for who has been let in, and may no longer be."""
        if self.are_open:
            return None
        grant = Grant(frozenset({Scope.INGEST})) if hashed == self._own_hash else self._known.get(hashed)
        if grant is None:
            return Fault("this API key is not known here", known=False)
        if grant.until_s is not None and grant.until_s <= self._now_s():
            return Fault("this API key has expired", known=False)
        if scope not in grant.scopes and Scope.ADMIN not in grant.scopes:
            return Fault(f"this API key is not for {scope.value}", known=True)
        return None

    def _look(self) -> None:
        now_s = time.monotonic()
        if now_s - self._looked_s >= _LOOK_S:
            self._looked_s = now_s
            found = self._source()
            self._known = {**(found or {}), **self._fixed}
            self._is_open = self._is_open and found is None
