"""Metrics all the way, in one process: sources, agent, gRPC, bus, writer, SQLite."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent.metric_sources import Told

from helios_agent import live
from helios_agent.settings import AgentSettings, HeliosSettings, Settings, SourceSettings
from helios_agent.sources import MetricSample, base
from helios_collector.admission import Admission
from helios_collector.servicer import serve
from helios_collector.writer import StoreWriter
from helios_core.bus.base import Topic
from helios_core.bus.memory import MemoryBus
from helios_core.clock import SystemClock
from helios_core.keys import Keys
from helios_core.model import agent_service
from helios_core.store.sqlite import SqliteStore

HOST = "host-1"


class Site:
    """A collector with its store."""

    def __init__(self, folder: Path, bus: MemoryBus, port: int) -> None:
        self._path = folder / "store.db"
        self._bus = bus
        self._state = folder / "state"
        self.port = port

    def settings(self, *sources: SourceSettings, **agent: Any) -> Settings:
        return Settings(
            agent=AgentSettings(state_dir=str(self._state), host=HOST, **agent),
            sources=sources,
            helios=HeliosSettings(endpoint=f"http://127.0.0.1:{self.port}"),
        )

    async def stored(self) -> list[tuple[str, str, str, float, dict[str, str], int]]:
        """The metrics in the store: name, service, host, value, labels, time."""
        store = SqliteStore(str(self._path))
        drained = asyncio.Event()
        drained.set()
        await StoreWriter(self._bus, store).run(drained)
        await store.close()
        connection = sqlite3.connect(self._path)
        try:
            rows = connection.execute(
                "SELECT name, service, host, value, labels, time_us FROM metrics ORDER BY rowid"
            ).fetchall()
        finally:
            connection.close()
        return [(*row[:4], json.loads(row[4]), row[5]) for row in rows]

    async def slices(self) -> list[tuple[str, int]]:
        """Of each record on the bus, the service and the sequence of its batch."""
        consumer = await self._bus.subscribe("test", [Topic.WINDOWS])
        records = await consumer.poll(max_records=10_000, timeout_s=0)
        return [(record.key, int(record.headers["sequence"])) for record in records]

    async def dead(self) -> int:
        consumer = await self._bus.subscribe("test-dead", [Topic.DEAD_LETTER])
        return len(await consumer.poll(max_records=10_000, timeout_s=0))


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    bus = MemoryBus()
    server = await serve(Admission(bus), SystemClock(), "127.0.0.1:0", Keys(None))
    try:
        yield Site(tmp_path, bus, server.port)
    finally:
        await server.stop(None)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """What the source of type `queue` does."""
    source = Told()
    monkeypatch.setattr(base, "_TYPES", {**base._TYPES, "queue": lambda config: source})
    return source


QUEUE = SourceSettings(type="queue")


def give(told: Told, *samples: MetricSample) -> None:
    assert told.result is not None
    told.result.samples[:] = samples


async def test_the_hosts_own_reach_the_store(site: Site) -> None:
    status = await live.run(site.settings(SourceSettings(type="system")), asyncio.Event(), once=True)
    rows = await site.stored()
    assert status.metrics[0].samples == len(rows) > 3
    names = {row[0] for row in rows}
    assert {"system.cpu.load_average.1m", "system.memory.utilization"} <= names
    assert {(service, host) for _, service, host, *_ in rows} == {("", HOST)}
    assert all(abs(time_us / 1e6 - time.time()) < 60 for *_, time_us in rows)
    assert {service for service, _ in await site.slices()} == {agent_service(HOST)}


async def test_all_that_a_sample_says_is_stored_and_nothing_bad(site: Site, told: Told) -> None:
    at_us = SystemClock().now_us() - 5_000_000
    give(
        told,
        MetricSample("depth", 3.5, {"queue": "mail", "größe": "ü"}, at_us, "mail", "other-host"),
        MetricSample("depth", float("nan")),
        MetricSample("depth", 1, time_us=-1),
        MetricSample("depth", 1, {"path": "\udcff"}),
        MetricSample("load", -2),
    )
    status = await live.run(site.settings(QUEUE), asyncio.Event(), once=True)
    depth, load = sorted(await site.stored())
    assert depth == ("depth", "mail", "other-host", 3.5, {"queue": "mail", "größe": "ü"}, at_us)
    assert load[:5] == ("load", "", HOST, -2.0, {})
    assert status.metrics_dropped == {"bad_sample": 3}
    assert (status.rejected_items, await site.dead()) == (0, 0)


async def test_more_than_a_slice_holds_arrives_once_and_in_order(site: Site, told: Told) -> None:
    give(told, *(MetricSample(f"metric-{number}", number, {"text": "x" * 250}) for number in range(5_000)))
    await live.run(site.settings(QUEUE), asyncio.Event(), once=True)
    assert [row[0] for row in await site.stored()] == [f"metric-{number}" for number in range(5_000)]
    own = [sequence for service, sequence in await site.slices() if service == agent_service(HOST)]
    assert len(own) >= 4
    assert len(set(own)) == len(own)  # no batch has two slices of one service
    assert await site.dead() == 0


async def test_it_is_heard_in_every_window_and_at_its_end(site: Site, told: Told) -> None:
    give(told, MetricSample("load", 1))
    stop = asyncio.Event()
    made = site.settings(QUEUE, collection_interval=0.05)
    running = asyncio.create_task(live.run(made, stop, window_ms=100))
    async with asyncio.timeout(10):
        while len(await site.slices()) < 5:
            assert not running.done()
            await asyncio.sleep(0.02)
    stop.set()
    status = await asyncio.wait_for(running, 10)
    sequences = [sequence for _, sequence in await site.slices()]
    assert sequences == list(range(1, len(sequences) + 1))
    assert status.spool_batches == 0
    rows = await site.stored()
    assert len(rows) == status.metrics[0].samples == status.metrics[0].collections >= 2
