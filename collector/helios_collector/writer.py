"""The store writer: what is on the bus goes into the store, each slice applied once.

For each poll, in this order: decode; apply all in one transaction; dead-letter what can never be
applied; commit the offsets. A crash before the last makes records come again, and the store knows them.
What the next poll brings is decoded meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import structlog

from helios_collector.lag import Lag
from helios_collector.telemetry import Telemetry
from helios_core import wire
from helios_core.alerts import Alert, alert_row
from helios_core.bus.base import Bus, Commit, Consumer, Partition, Received, Record, Topic
from helios_core.clock import US_PER_S, Clock, SystemClock
from helios_core.errors import BusUnavailable, WireError
from helios_core.records import check_version, dead_letter, stored_slice_of
from helios_core.retry import until_available
from helios_core.store.base import EventsWrite, MetricsWrite, Outcome, SliceWrite, Statement, Store, Write
from helios_core.store.ledger import Verdict
from helios_core.turns import Turns

_T = TypeVar("_T")
_R = TypeVar("_R")
GROUP: Final = "storage-writers"
_TOPICS: Final = (Topic.WINDOWS, Topic.EVENTS, Topic.METRICS, Topic.ANOMALY_ALERTS)
_MAX_RECORDS: Final = 1_000
_POLL_S: Final = 0.5
_PRUNE_EVERY_US: Final = 3_600 * US_PER_S
_LAG_S: Final = 1.0
_KEEP_EVERY_S: Final = 5.0
_BEHIND: Final = _MAX_RECORDS  # records that are not in the store yet: another poll is full
_OTHER: Final = "came before with other content"
_SETTLED_US: Final = 65 * US_PER_S  # a minute, and what its last window takes to come
_ROLLED_AT_ONCE: Final = 50  # minutes of services: SQLite's thread writes, too
_ROLLUPS_KEPT: Final = {60: 2, 300: 6, 3_600: 24}  # times as long as what they were added up from
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Decoded:
    """What was read in one poll, and what it says; `dead` is what says nothing."""

    received: Sequence[Received]
    writes: list[tuple[Received, Write]] = field(default_factory=list)
    alerts: list[tuple[Received, Statement]] = field(default_factory=list)
    dead: list[Record] = field(default_factory=list)


class StoreWriter:
    """Reads the bus as one member of the group `storage-writers`.

    Args:
        bus, store: from where to where.
        telemetry: what it counts.
        clock: what retention goes by.
        retention_us: how long the store keeps what it writes; None keeps everything, and rolls nothing up: who
            reads does without rollups until somebody does.
    """

    def __init__(
        self,
        bus: Bus,
        store: Store,
        telemetry: Telemetry | None = None,
        *,
        clock: Clock | None = None,
        retention_us: int | None = None,
    ) -> None:
        self._bus = bus
        self._store = store
        self._telemetry = telemetry or Telemetry()
        self._clock = clock or SystemClock()
        self._retention_us = retention_us
        self._pruned_us = 0
        self._lag = Lag()
        self._is_behind = False

    async def run(self, drain: asyncio.Event) -> None:
        """Writes until `drain` is set and nothing is left to read."""
        consumer = await until_available(partial(self._bus.subscribe, GROUP, _TOPICS))
        keeping: asyncio.Task[None] | None = None
        if self._retention_us is not None:
            keeping = asyncio.create_task(self._keep(self._retention_us))
        try:
            decoded = await self._read(consumer, drain)
            while decoded is not None:
                following = asyncio.create_task(self._read(consumer, drain))  # while the store works
                try:
                    await self._write(decoded)
                    await asyncio.wait([following])
                finally:
                    following.cancel()
                    await asyncio.wait([following])
                done: dict[Partition, Commit] = {r.partition: Commit(r.offset + 1) for r in decoded.received}
                await until_available(partial(consumer.commit, done))
                decoded = following.result()
                await self._look(consumer, len(decoded.received) if decoded is not None else 0)
        finally:
            if keeping is not None:
                keeping.cancel()
                await asyncio.wait([keeping])
            await consumer.close()

    async def _look(self, consumer: Consumer, unwritten: int) -> None:
        """How far it is behind, if the bus says so at once: one partition that is away holds up no other."""
        try:
            async with asyncio.timeout(_LAG_S):
                lag = unwritten + (await consumer.lag()).records
        except (BusUnavailable, TimeoutError):
            return
        self._telemetry.lag.set(lag)
        self._lag.saw(lag)
        self._is_behind = lag >= _BEHIND

    async def _keep(self, retention_us: int) -> None:
        """Rollups and retention, beside the writing; what fails here is tried again, and holds nothing up."""
        while True:
            try:
                await self._prune(retention_us)
                await self._roll_up()
            except Exception:  # noqa: BLE001 -- the edge of a task that must not end
                _log.exception("store_upkeep_failed")
            await asyncio.sleep(_KEEP_EVERY_S)

    async def _roll_up(self) -> None:
        """What is old enough to have come from most. Fewer at once when it fails, down to the one that does.

        While the writer is behind it does a little of it each time: who reads adds up what is not rolled up yet, and
        what is not written nobody can read.
        """
        until_us, limit = self._clock.now_us() - _SETTLED_US, _ROLLED_AT_ONCE
        while True:
            try:
                if not await until_available(partial(self._store.roll_up, until_us, limit)) or self._is_behind:
                    return
            except (ArithmeticError, ValueError):
                if limit == 1:
                    raise
                limit = max(limit // 4, 1)

    async def _read(self, consumer: Consumer, drain: asyncio.Event) -> _Decoded | None:
        """The next records; None when there are no more and there shall be none."""
        ending = drain.is_set()
        poll = partial(consumer.poll, max_records=_MAX_RECORDS, timeout_s=0 if ending else _POLL_S)
        received = await until_available(poll)
        if ending and not received:
            return None
        return await _decoded(received, consumer.log)

    async def _prune(self, retention_us: int) -> None:
        """Once an hour."""
        now_us = self._clock.now_us()
        if now_us - self._pruned_us < _PRUNE_EVERY_US:
            return
        before_us = now_us - retention_us
        await until_available(partial(self._store.prune, before_us))
        for step_s, times in _ROLLUPS_KEPT.items():
            pruned = Statement("prune_rollups", {"step_s": step_s, "before_us": now_us - times * retention_us})
            await until_available(partial(self._store.transact, [pruned]))
        self._pruned_us = now_us
        _log.info("store_pruned", before_us=before_us)

    async def _write(self, decoded: _Decoded) -> None:
        """All that is safe to commit when it returns."""
        received, writes, alerts, dead = decoded.received, decoded.writes, decoded.alerts, decoded.dead
        outcomes = await _isolated(self._apply, writes)
        duplicates = conflicts = 0
        for (record, _), outcome in zip(writes, outcomes, strict=True):
            if isinstance(outcome, Exception):
                dead.append(_dead(record, outcome))
                continue
            duplicates += outcome.duplicates + (outcome.verdict is Verdict.DUPLICATE)
            conflicts += len(outcome.conflicting) + (outcome.verdict is Verdict.CONFLICT)
            if outcome.conflicting:
                _log.error("event_conflict", service=record.key, offset=record.offset, events=len(outcome.conflicting))
                dead += (
                    dead_letter("event conflict", f"the id {event.id!r} {_OTHER}", wire.event_to_bytes(event), record)
                    for event in outcome.conflicting
                )
            if outcome.verdict is Verdict.CONFLICT:
                _log.error("slice_conflict", service=record.key, **record.headers)
                dead.append(dead_letter("conflict", f"the same identity {_OTHER}", record.value, record))
        written = await _isolated(self._transact, alerts)
        for (record, _), done in zip(alerts, written, strict=True):
            if isinstance(done, Exception):
                dead.append(_dead(record, done))
        self._telemetry.duplicates.inc(duplicates)
        self._telemetry.conflicts.inc(conflicts)
        self._telemetry.applied.inc(len(received))
        self._telemetry.dead.labels("store").inc(len(dead))
        if dead:
            await until_available(lambda: self._bus.publish(dead))

    async def _apply(self, writes: Sequence[tuple[Received, Write]]) -> list[Outcome]:
        return await self._store.apply([write for _, write in writes])

    async def _transact(self, alerts: Sequence[tuple[Received, Statement]]) -> list[None]:
        await self._store.transact([statement for _, statement in alerts])
        return [None] * len(alerts)


async def _decoded(received: Sequence[Received], log: str) -> _Decoded:
    decoded = _Decoded(received)
    turns = Turns()
    for record in received:
        await turns.pause()
        try:
            if record.partition.topic is Topic.ANOMALY_ALERTS:
                statement = Statement("upsert_anomaly", alert_row(Alert.from_bytes(record.value)))
                decoded.alerts.append((record, statement))
            else:
                decoded.writes.append((record, _write_of(record, log)))
        except WireError as error:
            decoded.dead.append(_dead(record, error))
    return decoded


async def _isolated(call: Callable[[Sequence[_T]], Awaitable[list[_R]]], items: Sequence[_T]) -> list[_R | Exception]:
    """The result for each item; for one whose values no store can take, the error.

    All in one transaction; when that fails because of one of them, in halves: applying is idempotent.
    """
    if not items:
        return []
    try:
        return [*await until_available(partial(call, items))]
    except (ArithmeticError, ValueError) as error:
        if len(items) == 1:
            return [error]
        middle = len(items) // 2
        return [*await _isolated(call, items[:middle]), *await _isolated(call, items[middle:])]


def _dead(record: Received, error: Exception) -> Record:
    _log.error("record_dead_lettered", topic=record.partition.topic, offset=record.offset, error=str(error))
    return dead_letter(f"record of {record.partition.topic}", str(error), record.value, record)


def _write_of(record: Received, log: str) -> Write:
    check_version(record)
    if record.partition.topic is Topic.EVENTS:
        return EventsWrite(record.partition, record.offset, wire.record_from_bytes(record.value), log)
    if record.partition.topic is Topic.METRICS:
        return MetricsWrite(record.partition, record.offset, wire.metric_record_from_bytes(record.value), log)
    id_, content, part = stored_slice_of(record)
    return SliceWrite(id_, record.partition.number, content, part)
