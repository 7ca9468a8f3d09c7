"""The store writer: what is on the bus goes into the store, each slice applied once.

For each poll, in this order: decode; dead-letter what cannot be; apply all in one transaction;
commit the offsets. A crash between the last two makes records come again, and the store knows them.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

import structlog

from helios_core import wire
from helios_core.alerts import Alert, alert_row
from helios_core.bus.base import Bus, Commit, Partition, Received, Record, Topic
from helios_core.errors import WireError
from helios_core.records import dead_letter, slice_of
from helios_core.retry import until_available
from helios_core.store.base import EventsWrite, SliceWrite, Statement, Store
from helios_core.store.ledger import Verdict

GROUP: Final = "storage-writers"
_TOPICS: Final = (Topic.WINDOWS, Topic.EVENTS, Topic.ANOMALY_ALERTS)
_MAX_RECORDS: Final = 200
_POLL_S: Final = 0.5
_log = structlog.get_logger(__name__)


class StoreWriter:
    """Reads the bus as one member of the group `storage-writers`."""

    def __init__(self, bus: Bus, store: Store) -> None:
        self._bus = bus
        self._store = store
        self.duplicates = 0
        self.conflicts = 0

    async def run(self, drain: asyncio.Event) -> None:
        """Writes until `drain` is set and nothing is left to read."""
        consumer = await self._bus.subscribe(GROUP, _TOPICS)
        try:
            while True:
                ending = drain.is_set()
                received = await consumer.poll(max_records=_MAX_RECORDS, timeout_s=0 if ending else _POLL_S)
                if not received:
                    if ending:
                        return
                    continue
                await self._write(received)
                done: dict[Partition, Commit] = {r.partition: Commit(r.offset + 1) for r in received}
                await until_available(partial(consumer.commit, done))
        finally:
            await consumer.close()

    async def _write(self, received: list[Received]) -> None:
        writes: list[SliceWrite | EventsWrite] = []
        places: list[Received] = []
        alerts: list[Statement] = []
        dead: list[Record] = []
        for record in received:
            try:
                if record.partition.topic is Topic.ANOMALY_ALERTS:
                    alerts.append(Statement("upsert_anomaly", alert_row(Alert.from_bytes(record.value))))
                    continue
                writes.append(_write_of(record))
                places.append(record)
            except WireError as error:
                _log.error("record_dead_lettered", topic=record.partition.topic, offset=record.offset, error=str(error))
                dead.append(dead_letter(f"record of {record.partition.topic}", str(error), record.value))
        if writes:
            outcomes = await until_available(lambda: self._store.apply(writes))
            for place, outcome in zip(places, outcomes, strict=True):
                self.duplicates += outcome.duplicates + (outcome.verdict is Verdict.DUPLICATE)
                self.conflicts += outcome.conflicts
                if outcome.verdict is Verdict.CONFLICT:
                    self.conflicts += 1
                    reason = "the same identity came before with other content"
                    _log.error("slice_conflict", service=place.key, **place.headers)
                    dead.append(dead_letter("conflict", reason, place.value))
        if alerts:
            await until_available(lambda: self._store.transact(alerts))
        if dead:
            await until_available(lambda: self._bus.publish(dead))


def _write_of(record: Received) -> SliceWrite | EventsWrite:
    if record.partition.topic is Topic.EVENTS:
        return EventsWrite(record.partition, record.offset, wire.record_from_bytes(record.value))
    id_, content, part = slice_of(record)
    return SliceWrite(id_, record.partition.number, content, part)
