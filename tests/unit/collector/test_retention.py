"""Retention: what is too old goes, what is not stays, and the writer does it while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from helios_collector.ingest import ServiceNames
from helios_collector.writer import StoreWriter
from helios_core import wire
from helios_core.alerts import Alert, AlertState, Family, Severity, alert_row
from helios_core.batches import BatchId, Slice
from helios_core.bus.memory import MemoryBus
from helios_core.clock import EventClock
from helios_core.model import OVERFLOW_SERVICE, Event, Level, MetricSample
from helios_core.records import slice_record
from helios_core.store.base import Outcome, SliceWrite, Statement, Write
from helios_core.store.sqlite import SqliteStore
from helios_core.windows import WindowDelta

DAY_US = 86_400_000_000
NOW_US = 1_772_409_600_000_000


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(tmp_path / "store.db")
    yield made
    await made.close()


async def filled(store: SqliteStore) -> None:
    """One of everything for each of the last 40 days."""
    for day in range(40):
        at_us = NOW_US - day * DAY_US
        part = Slice("cart", at_us)
        part.deltas = [WindowDelta(at_us - at_us % 10_000_000, "cart", "h", levels=[0, 0, 0, 0, 1, 0])]
        part.samples = [Event(at_us, "cart", Level.ERROR, f"no item {day}", counted=True)]
        part.metrics = [MetricSample("cpu", 0.5, time_us=at_us, service="cart")]
        await store.apply([SliceWrite(BatchId(b"a" * 16, 1, day + 1), 0, bytes([day]) * 16, wire.stored_slice(part))])
        alert = Alert(
            id=f"{day:016x}", episode=f"{day:016x}", service="cart", family=Family.ERRORS, state=AlertState.FIRED,
            severity=Severity.LOW, decided_us=at_us, onset_us=at_us, seen_us=at_us, horizon_us=300_000_000,
            detectors=(), findings=(), features={},
        )  # fmt: skip
        await store.transact([Statement("upsert_anomaly", alert_row(alert))])


async def days_kept(store: SqliteStore) -> tuple[int, int]:
    (totals,) = await store.query("totals")
    alerts = await store.query("alerts_in_range", from_us=0, to_us=NOW_US + 1)
    return totals["events"], len(alerts)


async def test_what_is_too_old_goes_and_the_rest_stays(store: SqliteStore) -> None:
    await filled(store)
    await store.prune(NOW_US - 30 * DAY_US)
    assert await days_kept(store) == (31, 31)
    await store.prune(NOW_US - 30 * DAY_US)
    assert await days_kept(store) == (31, 31)


async def test_an_empty_store_has_nothing_to_prune(store: SqliteStore) -> None:
    await store.prune(NOW_US)
    assert await days_kept(store) == (0, 0)


@pytest.mark.parametrize(("retention_us", "kept"), [(None, 40), (30 * DAY_US, 31)])
async def test_the_writer_prunes_when_it_is_told_to(store: SqliteStore, retention_us: int | None, kept: int) -> None:
    await filled(store)
    drain = asyncio.Event()
    writer = StoreWriter(MemoryBus(), store, clock=EventClock(NOW_US), retention_us=retention_us)
    running = asyncio.create_task(writer.run(drain))
    async with asyncio.timeout(20):
        while retention_us is not None and (await days_kept(store))[0] != kept:  # noqa: ASYNC110 - only the store knows
            await asyncio.sleep(0.05)
        drain.set()
        await running
    assert (await days_kept(store))[0] == kept


def test_services_beyond_the_bound_are_counted_as_one() -> None:
    names = ServiceNames(limit=2)
    assert [names.under(name) for name in ("a", "b", "c", "a", "d")] == [
        "a", "b", OVERFLOW_SERVICE, "a", OVERFLOW_SERVICE,
    ]  # fmt: skip


async def test_rollups_are_kept_longer_the_longer_they_are(store: SqliteStore) -> None:
    """And what the writer drops is in them before."""
    await filled(store)
    writer = StoreWriter(MemoryBus(), store, clock=EventClock(NOW_US + DAY_US // 2), retention_us=5 * DAY_US)
    await writer._prune(5 * DAY_US)
    assert (await days_kept(store))[0] == 5
    counted = {}
    for step_s in (60, 300, 3_600):
        rows = await store.query("rollup_counts_of_service", service="cart", step_s=step_s, from_us=0, to_us=NOW_US)
        counted[step_s] = sum(row["errors"] for row in rows)
    assert counted == {60: 5, 300: 25, 3_600: 35}  # the days that were dropped, and not the five that are marked yet


class Busy(SqliteStore):
    """Has always more to roll up, and after its first write no more time to write, until `go`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.writes = self.rolled = 0
        self.go = asyncio.Event()

    async def apply(self, writes: Sequence[Write]) -> list[Outcome]:
        self.writes += 1
        if self.writes > 1:
            await self.go.wait()
        return await super().apply(writes)

    async def prune(self, before_us: int) -> None:
        """Nothing is old."""

    async def roll_up(self, until_us: int, limit: int) -> int:
        await asyncio.sleep(0)
        self.rolled += 1
        return limit


@pytest.mark.parametrize(("records", "is_behind"), [(1_100, False), (3_000, True)])
async def test_a_writer_that_is_behind_writes_first(tmp_path: Path, records: int, is_behind: bool) -> None:
    store, bus = Busy(tmp_path / "busy.db"), MemoryBus()
    data = wire.slice_to_proto(Slice("cart", NOW_US)).SerializeToString()
    await bus.publish([slice_record(BatchId(b"a" * 16, 1, n + 1), "cart", data, "h") for n in range(records)])
    drain = asyncio.Event()
    running = asyncio.create_task(StoreWriter(bus, store, clock=EventClock(NOW_US), retention_us=DAY_US).run(drain))
    try:
        async with asyncio.timeout(20):
            while store.writes < 2:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        before = store.rolled
        await asyncio.sleep(0.2)
        assert (store.rolled == before) == is_behind
    finally:
        drain.set()
        store.go.set()
        await running
        await store.close()


async def test_the_writer_rolls_up_while_it_runs(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helios_collector.writer._KEEP_EVERY_S", 0.01)
    await filled(store)
    drain = asyncio.Event()
    clock = EventClock(NOW_US)
    running = asyncio.create_task(StoreWriter(MemoryBus(), store, clock=clock, retention_us=90 * DAY_US).run(drain))

    async def marked_from() -> int | None:
        (reach,) = await store.query("rollup_reach", service="cart")
        found: int | None = reach["pending_us"]
        return found

    async def until(expected: int | None) -> None:
        async with asyncio.timeout(5):
            while await marked_from() != expected:  # noqa: ASYNC110 - only the store knows
                await asyncio.sleep(0.01)

    try:
        await until(NOW_US - NOW_US % 60_000_000)
        clock.advance_to(NOW_US + 70_000_000)
        await until(None)
    finally:
        drain.set()
        await running
