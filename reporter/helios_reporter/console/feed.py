"""What feeds the live stream: the bus is read from its end, and the store is asked which incidents changed.

It shares the event loop with the ingest path. With nobody connected, records of windows and events are kept
as they came and decoded only when somebody connects.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import structlog

from helios_core.alerts import Alert
from helios_core.bus.base import Bus, Consumer, Received, Topic
from helios_core.clock import Clock
from helios_core.errors import BusUnavailable, StoreUnavailable, WireError
from helios_core.store.base import Row, Store
from helios_reporter.console.documents import alert_message, incident_summary, time_of
from helios_reporter.console.ring import Client, Ring
from helios_reporter.console.summaries import summarise

GROUP: Final = "console"
SNAPSHOT: Final = 100
# Alerts come first: a poll fills up in this order.
_TOPICS: Final = (Topic.ANOMALY_ALERTS, Topic.WINDOWS, Topic.EVENTS)
_MAX_RECORDS: Final = 500
_MAX_LAG: Final = 2_000  # records; beyond it the feed goes on at the end
_MAX_HELD: Final = 1_000
_MAX_HELD_BYTES: Final = 8 * 1024 * 1024
_INLINE_BYTES: Final = 32 * 1024  # decoded on the loop: less work than handing it to a thread
_POLL_S: Final = 0.5
_PAUSE_S: Final = 0.2  # between turns, so that what comes together is decoded together
_UNAVAILABLE_S: Final = 1.0
_LOOK_S: Final = 2.0
_AFTER_ALERT_S: Final = 0.3
_LINGER_US: Final = 300_000_000  # after the last client has left the store is still asked: it may come back
_RECENT: Final = 50
_MAX_KNOWN: Final = 1_000
_log = structlog.get_logger(__name__)

Mark = tuple[Any, ...]


class Feed:
    """Reads the bus as the group `console`, which never commits, and the incidents; pushes into a ring."""

    def __init__(self, *, bus: Bus, store: Store, clock: Clock) -> None:
        self._bus = bus
        self._store = store
        self._clock = clock
        self.ring = Ring(max(clock.now_us() // 1_000, 1))
        self._held: deque[Received] = deque()
        self._held_bytes = 0
        self._turn = asyncio.Lock()
        self._looking = asyncio.Lock()
        self._alerted = asyncio.Event()
        self._known: dict[str, Mark] | None = None
        self._left_us = clock.now_us()
        self._is_store_down = False
        self.undecodable = 0
        self.skipped = 0
        self.omitted_events = 0
        self.omitted_records = 0

    @property
    def stats(self) -> dict[str, int]:
        """What it counts of itself."""
        return {
            "clients": self.ring.clients,
            "messages": self.ring.pushed,
            "dropped": self.ring.dropped,
            "undecodable": self.undecodable,
            "skipped": self.skipped,
            "omitted_events": self.omitted_events,
            "omitted_records": self.omitted_records,
        }

    async def run(self, drain: asyncio.Event) -> None:
        """Feeds the ring until told to drain; then lets the clients go."""
        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._watch())
                await self._read(drain)
                watching.cancel()
        finally:
            self.ring.close()

    async def join(self, after: int | None = None) -> tuple[Client, list[str], bool]:
        """A new client, what it is to be sent first, and whether it has missed more than that.

        Args:
            after: the id of the last message that it has seen, when it has been here before.

        Raises:
            TooManyClients: see `Ring.join`.
        """
        client = self.ring.join()
        try:
            await self._flush()
            await self._look()
        except BaseException:
            self.ring.leave(client)
            raise
        # What was pushed since it joined stands in its queue and in the ring: it is sent once.
        client.forget()
        missed = None if after is None else self.ring.after(after)
        first = self.ring.last(SNAPSHOT) if missed is None else missed
        return client, first, after is not None and missed is None

    def leave(self, client: Client) -> None:
        self.ring.leave(client)
        self._left_us = self._clock.now_us()

    async def _subscribe(self) -> Consumer:
        while True:
            try:
                return await self._bus.subscribe(GROUP, _TOPICS, at_end=True)
            except BusUnavailable as error:
                _log.warning("console_waits_for_the_bus", error=str(error))
                await asyncio.sleep(_UNAVAILABLE_S)

    async def _read(self, drain: asyncio.Event) -> None:
        consumer = await self._subscribe()
        try:
            while not drain.is_set():
                try:
                    received = await consumer.poll(max_records=_MAX_RECORDS, timeout_s=_POLL_S)
                    lag = (await consumer.lag()).records if len(received) == _MAX_RECORDS else 0
                except BusUnavailable as error:
                    _log.warning("console_waits_for_the_bus", error=str(error))
                    await asyncio.sleep(_UNAVAILABLE_S)
                    continue
                if received:
                    await self._take(received)
                    if lag > _MAX_LAG:
                        self.skipped += lag
                        await consumer.close()
                        consumer = await self._subscribe()
                    await asyncio.sleep(_PAUSE_S)
        finally:
            await consumer.close()

    async def _take(self, records: Sequence[Received]) -> None:
        for received in records:
            if received.partition.topic is Topic.ANOMALY_ALERTS:
                self._take_alert(received)
                continue
            self._held.append(received)
            self._held_bytes += len(received.value)
            while len(self._held) > _MAX_HELD or self._held_bytes > _MAX_HELD_BYTES:
                self._held_bytes -= len(self._held.popleft().value)
                self.omitted_records += 1
        if self.ring.clients:
            await self._flush()

    def _take_alert(self, received: Received) -> None:
        try:
            alert = Alert.from_bytes(received.value)
        except WireError as error:
            self._count_undecodable(1, str(error))
            return
        self.ring.push(alert_message(alert))
        self._alerted.set()

    async def _flush(self) -> None:
        """Decodes what is held, off the loop when it is much."""
        async with self._turn:
            records = list(self._held)
            self._held.clear()
            size, self._held_bytes = self._held_bytes, 0
            if not records:
                return
            turn = await asyncio.to_thread(summarise, records) if size > _INLINE_BYTES else summarise(records)
            for message in turn.messages:
                self.ring.push(message)
            self.omitted_events += turn.omitted_events
            self.omitted_records += turn.omitted_records
            if turn.undecodable:
                self._count_undecodable(turn.undecodable, "windows or events")

    def _count_undecodable(self, count: int, error: str) -> None:
        if not self.undecodable:
            _log.warning("console_skips_undecodable_records", error=error)  # once: the count is in the statistics
        self.undecodable += count

    async def _watch(self) -> None:
        """Asks the store every two seconds, and soon after an alert, while somebody may want to know."""
        while True:
            is_wanted = self.ring.clients > 0 or self._clock.now_us() - self._left_us < _LINGER_US
            if is_wanted:
                await self._look()
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._alerted.wait()
                self._alerted.clear()
                await asyncio.sleep(_AFTER_ALERT_S)
            except TimeoutError:
                pass

    async def _look(self) -> None:
        """Pushes the incidents that changed since the last look; the first look only learns them."""
        async with self._looking:
            try:
                rows = await self._changed()
            except StoreUnavailable as error:
                if not self._is_store_down:
                    _log.warning("console_waits_for_the_store", error=str(error))
                self._is_store_down = True
                return
            self._is_store_down = False
            for row in rows:
                at = time_of(row["updated_us"])
                self.ring.push({"type": "incident", "at": at, "incident": incident_summary(row)})

    async def _changed(self) -> list[Row]:
        """The incidents that are not as they were known; the documents of no others are read."""
        known = self._known
        if known is None:
            ids = [row["id"] for row in await self._store.query("incidents_open", limit=_MAX_KNOWN)]
        else:
            ids = [id_ for id_, mark in known.items() if mark[0] != "resolved"]
        marks = await self._store.query("incidents_recent", ids=msgspec.json.encode(ids).decode(), limit=_RECENT)
        now: dict[str, Mark] = {
            row["id"]: (row["state"], row["updated_us"], row["revision"], row["created_us"]) for row in marks
        }
        changed = [] if known is None else [id_ for id_, mark in now.items() if known.get(id_) != mark]
        rows = [row for id_ in changed for row in await self._store.query("incident", id=id_)]
        kept = {id_: mark for id_, mark in (known or {}).items() if id_ not in now} | now
        self._known = dict(list(kept.items())[-_MAX_KNOWN:])
        return rows
