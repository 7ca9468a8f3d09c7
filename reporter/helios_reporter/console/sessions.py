"""Who is signed in: random tokens, kept in memory as hashes, bounded in number and time."""

from __future__ import annotations

import secrets
from typing import Final

from helios_core.clock import US_PER_S, Clock
from helios_core.keys import Keys, Scope, hash_of

COOKIE: Final = "helios_session"
LIFETIME_S: Final = 12 * 3_600
_MAX_SESSIONS: Final = 1_000


class Sessions:
    """The sessions of one process; a restart signs everybody out.

    Args:
        clock: says when one is over.
        keys: that people sign in with; a session ends with its key.
    """

    def __init__(self, clock: Clock, keys: Keys) -> None:
        self._clock = clock
        self._keys = keys
        self._until_us: dict[str, tuple[int, str]] = {}  # and hash of the key, by that of the token; the oldest first

    def __len__(self) -> int:
        return len(self._until_us)

    def begin(self, key: str) -> str:
        """A new token for who has this key; the oldest session ends when there are too many."""
        self._forget_old()
        while len(self._until_us) >= _MAX_SESSIONS:
            del self._until_us[next(iter(self._until_us))]
        token = secrets.token_urlsafe(32)
        self._until_us[hash_of(token)] = self._clock.now_us() + LIFETIME_S * US_PER_S, hash_of(key)
        return token

    def is_known(self, token: str) -> bool:
        until_us, key = self._until_us.get(hash_of(token), (0, "")) if token else (0, "")
        return self._clock.now_us() < until_us and self._keys.fault_of(key, Scope.READ) is None

    def end(self, token: str) -> None:
        """Of a session that is not known, nothing."""
        self._until_us.pop(hash_of(token), None)

    def _forget_old(self) -> None:
        now_us = self._clock.now_us()
        for hashed in [hashed for hashed, (until_us, _) in self._until_us.items() if until_us <= now_us]:
            del self._until_us[hashed]
