"""Up to when what time alone decides was published, for each partition: with its offset it is committed.

A record that decides something is in a partition, and the offset says whether it was taken before. Silence, a lost
agent and the last horizon of a service without one are in none: who takes a partition over knows it from here.
"""

from __future__ import annotations

from collections.abc import Mapping

from helios_core.bus.base import Commit, Partition


class Marks:
    """What the group has committed, and in which partition each service is.

    Args:
        committed: of all partitions that are read.
    """

    def __init__(self, committed: Mapping[Partition, Commit]) -> None:
        self._us: dict[int, int | None] = {}  # by the number of the partition; None where none has said
        self._homes: dict[str, int] = {}
        for partition, commit in committed.items():
            said = int(commit.metadata) if commit.metadata.isdigit() else None
            known = self._us.get(partition.number)
            self._us[partition.number] = said if known is None else max(known, said or 0)

    def found(self, service: str, partition: Partition) -> None:
        """Records of the service are in that partition."""
        self._homes[service] = partition.number

    def is_unsaid(self, service: str, now_us: int, *, is_news: bool) -> bool:
        """Nobody who had the service has published what that time decides.

        Args:
            is_news: whether the record that carries the time is; for partitions of which none has said.
        """
        mark_us = self._us.get(self._homes.get(service, -1), 0)
        return is_news if mark_us is None else now_us > mark_us

    def metadata(self, partition: Partition, ticked_us: int) -> bytes:
        """To commit when all that time has decided up to then is published; it never goes back."""
        return str(max(ticked_us, self._us.get(partition.number) or 0)).encode()

    def forget(self) -> None:
        """Time was set back: they are of one that is to come again."""
        self._us = {}
