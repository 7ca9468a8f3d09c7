"""Which slices of an agent's incarnation were applied: the pure rule behind "applied once".

At most MAX_UNACKNOWLEDGED batches of an incarnation are unacknowledged, so a sequence at or below
highest - MAX_UNACKNOWLEDGED has been applied, and only the ones above it need remembering.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

import msgspec

from helios_core.batches import MAX_UNACKNOWLEDGED

_HASH_BYTES: Final = 8


class Verdict(Enum):
    """What became of a write."""

    APPLIED = auto()
    DUPLICATE = auto()
    CONFLICT = auto()


class Ledger:
    """What was applied of one (agent, incarnation, partition).

    It is locked and saved in the transaction that writes the data. It is never pruned by time: an
    agent may be offline for a month.
    """

    __slots__ = ("_applied", "_highest")

    def __init__(self) -> None:
        self._highest = 0
        self._applied: dict[tuple[int, str], bytes] = {}

    def apply(self, sequence: int, service: str, content_hash: bytes) -> Verdict:
        """Says whether the slice is to be applied now, and remembers it if so."""
        if sequence <= self._highest - MAX_UNACKNOWLEDGED:
            return Verdict.DUPLICATE
        known = self._applied.get((sequence, service))
        if known is not None:
            return Verdict.DUPLICATE if known == content_hash[:_HASH_BYTES] else Verdict.CONFLICT
        self._applied[sequence, service] = content_hash[:_HASH_BYTES]
        if sequence > self._highest:
            self._highest = sequence
            floor = sequence - MAX_UNACKNOWLEDGED
            self._applied = {key: value for key, value in self._applied.items() if key[0] > floor}
        return Verdict.APPLIED

    def to_bytes(self) -> bytes:
        rows = [(sequence, service, content) for (sequence, service), content in self._applied.items()]
        return msgspec.msgpack.encode((self._highest, rows))

    @classmethod
    def from_bytes(cls, data: bytes) -> Ledger:
        ledger = cls()
        highest, rows = msgspec.msgpack.decode(data, type=tuple[int, list[tuple[int, str, bytes]]])
        ledger._highest = highest
        ledger._applied = {(sequence, service): content for sequence, service, content in rows}
        return ledger
