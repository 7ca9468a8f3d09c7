"""What of a request can never be taken: named in its answer, and kept in the dead letter."""

from __future__ import annotations

from typing import Final

from helios_core.bus.base import Record
from helios_core.records import dead_letter

MAX_LISTED: Final = 1_000
_JOINED_BYTES: Final = 512 * 1024


class Refusals:
    """The first MAX_LISTED have a reason and a dead letter each; the others are counted, and share dead letters.

    A request of nothing else would cost a hundred times its own size otherwise.

    Args:
        kind: what they should have been.

    Attributes:
        listed: of the first ones, their place in the request and the reason.
        count: of all.
    """

    __slots__ = ("_joined", "_joined_count", "_kind", "_records", "count", "listed")

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._records: list[Record] = []
        self._joined = bytearray()
        self._joined_count = 0
        self.listed: list[tuple[int, str]] = []
        self.count = 0

    def add(self, index: int, reason: str, raw: bytes) -> None:
        """One more.

        Args:
            raw: what came, for whoever looks at the dead letter.
        """
        self.count += 1
        if len(self.listed) < MAX_LISTED:
            self.listed.append((index, reason))
            self._records.append(dead_letter(self._kind, reason, raw))
            return
        self._joined += raw
        self._joined += b"\n"
        self._joined_count += 1
        if len(self._joined) > _JOINED_BYTES:
            self._join()

    def records(self) -> list[Record]:
        """Their dead letters."""
        if self._joined_count:
            self._join()
        return self._records

    def _join(self) -> None:
        reason = f"{self._joined_count} more of a request with {MAX_LISTED} before them, such as: {self.listed[-1][1]}"
        self._records.append(dead_letter(f"{self._kind}s", reason, bytes(self._joined)))
        self._joined.clear()
        self._joined_count = 0
