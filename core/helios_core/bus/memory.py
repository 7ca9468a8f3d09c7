"""The bus in memory: for tests, and for what need not outlive the process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from uuid import uuid4

from helios_core.bus.base import Commit, Lag, Partition, Received, Record, Topic, check, first_of, in_order_of_time
from helios_core.clock import Clock, SystemClock


class MemoryBus:
    """One partition a topic, everything kept. See `base.Bus`."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._logs: dict[Topic, list[Received]] = {topic: [] for topic in Topic}
        self._commits: dict[tuple[str, Partition], Commit] = {}
        self._arrived = asyncio.Condition()
        self.log = uuid4().hex

    async def publish(self, records: Sequence[Record]) -> None:
        check(records)
        now_us = self._clock.now_us()
        async with self._arrived:
            for record in records:
                log = self._logs[record.topic]
                log.append(
                    Received(
                        Partition(record.topic, 0),
                        len(log),
                        now_us,
                        record.key,
                        record.value,
                        dict(record.headers),
                    )
                )
            self._arrived.notify_all()

    async def subscribe(self, group: str, topics: Sequence[Topic], *, at_end: bool = False) -> MemoryConsumer:
        return MemoryConsumer(self, group, topics, at_end=at_end)

    async def close(self) -> None:
        return None


class MemoryConsumer:
    """See `base.Consumer`."""

    def __init__(self, bus: MemoryBus, group: str, topics: Sequence[Topic], *, at_end: bool = False) -> None:
        self._bus = bus
        self._group = group
        self._partitions = [Partition(topic, 0) for topic in topics]
        self._next = {partition: self._start(partition, at_end) for partition in self._partitions}

    def _start(self, partition: Partition, at_end: bool) -> int:
        commit = self._bus._commits.get((self._group, partition))
        if commit is not None:
            return commit.next_offset
        return len(self._bus._logs[partition.topic]) if at_end else 0

    @property
    def partitions(self) -> frozenset[Partition]:
        return frozenset(self._partitions)

    @property
    def log(self) -> str:
        return self._bus.log

    @property
    def departures(self) -> int:
        return 0

    async def poll(self, *, max_records: int, timeout_s: float) -> list[Received]:
        arrived = self._bus._arrived
        async with arrived:
            if not self._ready():
                try:
                    async with asyncio.timeout(timeout_s):
                        await arrived.wait_for(self._ready)
                except TimeoutError:
                    return []
            logs = self._bus._logs
            unread = (logs[p.topic][self._next[p] : self._next[p] + max_records] for p in self._partitions)
            found = first_of(in_order_of_time(unread), max_records)
            for record in found:
                self._next[record.partition] = record.offset + 1
            return found

    def _ready(self) -> bool:
        return any(self._next[p] < len(self._bus._logs[p.topic]) for p in self._partitions)

    async def commit(self, commits: Mapping[Partition, Commit]) -> None:
        for partition, commit in commits.items():
            self._bus._commits[self._group, partition] = commit

    async def committed(self) -> Mapping[Partition, Commit]:
        commits = self._bus._commits
        return {p: commits[self._group, p] for p in self._partitions if (self._group, p) in commits}

    async def rewind(self) -> None:
        self._next = dict.fromkeys(self._partitions, 0)

    async def lag(self) -> Lag:
        records = sum(len(self._bus._logs[p.topic]) - self._next[p] for p in self._partitions)
        return Lag(records, self._bus._clock.now_us())

    async def close(self) -> None:
        return None
