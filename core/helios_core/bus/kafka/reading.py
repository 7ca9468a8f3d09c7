"""What has come for the partitions of one member and was not given yet, and where each of them goes on.

It knows nothing of groups: it is told which partitions it has, and when it has none.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import CorruptRecordException, IllegalStateError

from helios_core.bus.kafka.brokerclock import BrokerClock
from helios_core.errors import BusUnavailable

FETCH_S: Final = 0.2
_FETCH_RECORDS: Final = 2_000
# What a client raises of a batch that is damaged, and of a text in it that is none.
_UNREADABLE: Final = (CorruptRecordException, UnicodeDecodeError)
_log = structlog.get_logger(__name__)


class Reading:
    """The records that wait, by partition.

    A client goes on behind what it has given, also when that is dropped here because partitions are given out
    anew: where a partition goes on is behind what was taken, and nowhere else.

    Args:
        client: whose positions it moves.

    Attributes:
        clock: what the records tell of the broker's.
    """

    def __init__(self, client: AIOKafkaConsumer) -> None:
        self._client = client
        self._waiting: dict[TopicPartition, deque[ConsumerRecord[bytes, bytes]]] = {}
        self._next: dict[TopicPartition, int] = {}
        self._came_ms: dict[TopicPartition, int] = {}  # when the answer came that brought what waits
        self._overdue: dict[TopicPartition, int] = {}  # not waited for again before they answer
        self._ill: set[TopicPartition] = set()  # those that cannot be read, and are asked alone
        self.clock = BrokerClock()

    @property
    def partitions(self) -> list[TopicPartition]:
        """Those that it has; none while they are given out anew."""
        return list(self._waiting)

    @property
    def has_any(self) -> bool:
        """Something waits."""
        return any(self._waiting.values())

    def begin(self, partitions: Collection[TopicPartition]) -> None:
        """It has these from now on, and no others; one that it had until now goes on where it was."""
        self._next = {partition: self._next[partition] for partition in partitions if partition in self._next}
        for partition, offset in self._next.items():
            self._client.seek(partition, offset)
        self._waiting = {partition: deque() for partition in sorted(partitions)}
        self._ill &= {*partitions}

    def drop(self) -> None:
        """It has none: what waits is read again by whoever gets them."""
        self._waiting = {}

    def restart(self, starts: Mapping[TopicPartition, int]) -> None:
        """These go on there."""
        for partition, start in starts.items():
            self._client.seek(partition, start)
            self._waiting[partition].clear()
            self._next[partition] = start

    def left(self, ends: Mapping[TopicPartition, int]) -> int:
        """How many records are not taken of those before the ends."""
        return sum(max(0, end - self._next[partition]) for partition, end in ends.items())

    async def fetch(self, timeout_s: float, only: Collection[TopicPartition] = ()) -> None:
        """Takes in what has come for partitions of which nothing waits."""
        wanted = only or [partition for partition, waiting in self._waiting.items() if not waiting]
        if not wanted:
            if not self._waiting and timeout_s:  # it has none, or none as yet
                await asyncio.sleep(timeout_s)
            return
        try:
            await self.look(wanted)
            found = await self._read(wanted, timeout_s)
        except IllegalStateError:  # they were given to others just now
            return
        for partition, records in found.items():
            self.clock.saw(partition, records[-1].timestamp * 1_000, steady_us())
            if partition in self._waiting:
                self._waiting[partition].extend(records)
                self._next.setdefault(partition, records[0].offset)  # it was given anew before it was looked at
                self._came_ms[partition] = self._answered_ms(partition)
            else:  # whoever is given it reads them again
                with suppress(IllegalStateError):
                    self._client.seek(partition, records[0].offset)

    async def look(self, partitions: Collection[TopicPartition]) -> None:
        """Where those of which nothing waits go on: also after offsets that are no records, or no more.

        Of those that are given out anew nothing is learnt: the client is past what waited here and nobody was given.
        """
        for partition in partitions:
            waiting = self._waiting.get(partition)
            if waiting is None or waiting:
                continue
            position = await self._client.position(partition)
            if self._waiting.get(partition) is waiting:
                self._next[partition] = position

    def take(self) -> Iterator[tuple[TopicPartition, ConsumerRecord[bytes, bytes]]]:
        """The oldest of what waits, until a partition runs out that may have more."""
        waiting = {partition: records for partition, records in self._waiting.items() if records}
        while waiting:
            partition = min(waiting, key=lambda p: waiting[p][0].timestamp)
            record = waiting[partition].popleft()
            self._next[partition] = record.offset + 1
            yield partition, record
            if not waiting[partition]:
                if self._may_have(partition):
                    return
                del waiting[partition]

    def held_back(self) -> list[TopicPartition]:
        """Partitions that may have something older than what waits of the others, none of which is here."""
        if not self.has_any:
            return []
        return [partition for partition, waiting in self._waiting.items() if not waiting and self._may_have(partition)]

    def give_up(self, partitions: Collection[TopicPartition]) -> None:
        """They hold the others back no longer, until they have answered."""
        self._overdue = {partition: self._answered_ms(partition) for partition in partitions}

    async def _read(self, partitions: Collection[TopicPartition], timeout_s: float) -> dict[TopicPartition, list[Any]]:
        """What has come for these. One that cannot be read, such as a damaged batch, does not hold up the others.

        Raises:
            BusUnavailable: one cannot be read, and nothing has come for the others.
        """
        well = [partition for partition in partitions if partition not in self._ill]
        alone = [partition for partition in partitions if partition in self._ill]
        found: dict[TopicPartition, list[Any]] = {}
        try:
            if well:
                found = await self._get(*well, timeout_s=timeout_s)
        except _UNREADABLE:
            self._go_back(well)  # the client is past what it had of the others, and nobody was given
            alone += well
        faults = []
        for partition in alone:
            try:
                found |= await self._get(partition, timeout_s=0 if len(alone) < len(partitions) else FETCH_S)
                self._ill -= found.keys()
            except _UNREADABLE as error:
                self._go_back([partition])
                place = f"{partition.topic}, partition {partition.partition}, from offset {self._next.get(partition)}"
                faults.append(f"{place} on cannot be read: {error or type(error).__name__}")
                if partition not in self._ill:
                    self._ill.add(partition)
                    _log.error("partition_unreadable", error=faults[-1])
        if faults and not found:
            raise BusUnavailable(faults[0])
        return found

    async def _get(self, *partitions: TopicPartition, timeout_s: float) -> dict[TopicPartition, list[Any]]:
        found: dict[TopicPartition, list[Any]] = await self._client.getmany(
            *partitions, timeout_ms=round(timeout_s * 1_000), max_records=_FETCH_RECORDS
        )
        return found

    def _go_back(self, partitions: Collection[TopicPartition]) -> None:
        """To where those of which nothing waits go on."""
        for partition in partitions:
            if partition in self._next and not self._waiting.get(partition, True):
                with suppress(IllegalStateError):
                    self._client.seek(partition, self._next[partition])

    def _may_have(self, partition: TopicPartition) -> bool:
        """There is more, or there was none when it was last asked, which was before others gave what waits here."""
        if partition in self._ill:
            return False
        answered_ms = self._answered_ms(partition)
        if partition in self._overdue and self._overdue[partition] == answered_ms:
            return False
        newest_ms = max((self._came_ms[other] for other, waiting in self._waiting.items() if waiting), default=0)
        end = self._client.highwater(partition) if answered_ms else None
        return end is None or answered_ms < newest_ms or self._next.get(partition, 0) < end

    def _answered_ms(self, partition: TopicPartition) -> int:
        """When the last answer about a partition came; 0 before the first."""
        if partition not in self._client.assignment():
            return 0
        return self._client.last_poll_timestamp(partition) or 0


def steady_us() -> int:
    """Of a clock that nobody sets."""
    return time.monotonic_ns() // 1_000
