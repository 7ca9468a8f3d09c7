"""Window rows and events a second into each store, in one run: SQLite, PostgreSQL, PostgreSQL with TimescaleDB."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Final

import asyncpg
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from tests.engines.fixtures import fresh_database
from tests.engines.postgres.server import Server, tools

from helios_collector.writer import StoreWriter
from helios_core import wire
from helios_core.batches import BatchId, Slice
from helios_core.bus.base import Partition, Received, Record, Topic
from helios_core.bus.memory import MemoryBus
from helios_core.clock import SystemClock
from helios_core.model import Event, EventRecord, Level
from helios_core.records import events_record, slice_record, stored_slice_of
from helios_core.store.base import SliceWrite, Store
from helios_core.store.postgres.copy import windows_copied
from helios_core.store.postgres.migrate import migrate
from helios_core.store.postgres.settings import PostgresSettings
from helios_core.store.postgres.store import _WINDOW, PostgresStore
from helios_core.store.sqlite import SqliteStore
from helios_core.windows import WindowDelta

BATCHES: Final = 20  # of each of ten agents, in a round
SLICES: Final = 200  # of the batches with the same number
DELTAS: Final = 10  # of a slice
ROWS: Final = BATCHES * SLICES * DELTAS
EVENTS: Final = 20_000  # in a round
GATHERED: Final = 50  # of a service, in a record
T0: Final = 1_772_445_600_000_000
# As an application has it in ten seconds; the histogram is some 280 bytes.
LATENCIES: Final = 400


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Where databases can be made."""
    given = os.environ.get("HELIOS_TEST_DSN")
    if given:
        yield given
        return
    if tools() is None:
        pytest.skip("no PostgreSQL: apt-get install postgresql, or set HELIOS_TEST_DSN to a running one")
    own = Server()
    try:
        own.start()
        yield own.dsn()
    finally:
        own.stop()


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


def records(round_: int) -> Iterator[Record]:
    """The slices of many agents: each window of each of twenty services once on each of ten hosts."""
    rng = random.Random(round_)
    sketches = []
    for _ in range(50):
        delta = WindowDelta(0, "", "")
        delta.latency.add([round(rng.lognormvariate(10.3, 0.9)) for _ in range(LATENCIES)])
        delta.endpoints.add_hashes([rng.getrandbits(64) for _ in range(8)])
        sketches.append(delta)
    for sequence in range(1, BATCHES + 1):
        for number in range(SLICES):
            service, agent = f"service-{number % 20}", number // 20
            deltas = []
            for i in range(DELTAS):
                like = rng.choice(sketches)
                start_us = T0 + ((round_ * BATCHES + sequence) * DELTAS + i) * 10_000_000
                delta = WindowDelta(start_us, service, f"host-{agent}", latency=like.latency, endpoints=like.endpoints)
                delta.levels[Level.INFO] = LATENCIES
                delta.bytes_in = 100_000
                deltas.append(delta)
            data = wire.slice_to_proto(Slice(service, 0, deltas=deltas)).SerializeToString()
            yield slice_record(BatchId(bytes([agent]) * 16, round_, sequence), service, data, f"host-{agent}")


def events(round_: int) -> Iterator[Record]:
    """Raw events with ids and attributes, some a record, as they gather: each in all five indexes of its table."""
    rng = random.Random(round_)
    for number in range(EVENTS // GATHERED):
        service = f"service-{number % 20}"
        found = [
            Event(
                T0 + round_ * 60_000_000 + rng.randrange(60_000_000),
                service,
                rng.choices([Level.INFO, Level.ERROR], [95, 5])[0],
                f"order {rng.randrange(100_000)} was paid in {rng.randrange(900)} ms by {rng.randrange(10_000)}",
                latency_us=rng.randrange(900_000),
                endpoint=f"/orders/{rng.randrange(30)}",
                trace_id=f"{rng.getrandbits(128):032x}",
                span_id=f"{rng.getrandbits(64):016x}",
                host=f"host-{number % 10}",
                id=f"{round_}-{number}-{index}",
                attributes={"request_id": f"{rng.getrandbits(64):x}", "status": 200, "region": f"r{number % 4}"},
                template_id=1 + rng.randrange(50),
            )
            for index in range(GATHERED)
        ]
        yield events_record(EventRecord(service, T0, found))


def measured(
    benchmark: BenchmarkFixture,
    runner: asyncio.Runner,
    store: Store,
    records: Callable[[int], Iterator[Record]],
    rows: int,
) -> None:
    """One writer, from what waits on a bus in memory to the last commit."""
    rounds = 0
    bus = MemoryBus(SystemClock())
    drained = asyncio.Event()
    drained.set()

    def setup() -> None:
        nonlocal rounds
        rounds += 1
        runner.run(bus.publish([*records(rounds)]))

    benchmark.pedantic(lambda: runner.run(StoreWriter(bus, store).run(drained)), setup=setup, rounds=5)
    (row,) = runner.run(store.query("totals"))
    assert row["events"] == rounds * (ROWS * LATENCIES if rows == ROWS else EVENTS)
    noted(benchmark, rows)


def noted(benchmark: BenchmarkFixture, rows: int) -> None:
    """The best round and the middle one, as rows a second."""
    benchmark.extra_info["rows_per_second"] = round(rows / benchmark.stats.stats.min)
    benchmark.extra_info["rows_per_second_median"] = round(rows / benchmark.stats.stats.median)
    benchmark.extra_info["load"] = round(os.getloadavg()[0], 1)


def write_of(record: Record) -> SliceWrite:
    """As the writer makes one."""
    received = Received(Partition(Topic.WINDOWS, 0), 0, 0, record.key, record.value, record.headers)
    id_, content, part = stored_slice_of(received)
    return SliceWrite(id_, 0, content, part)


KINDS: Final = {"windows": (records, ROWS), "events": (events, EVENTS)}


@pytest.mark.parametrize("kind", KINDS)
def test_sqlite(benchmark: BenchmarkFixture, runner: asyncio.Runner, tmp_path: Path, kind: str) -> None:
    store = SqliteStore(tmp_path / "store.db")
    try:
        measured(benchmark, runner, store, *KINDS[kind])
    finally:
        runner.run(store.close())


@pytest.mark.parametrize("variant", ["plain", "timescale"])
def test_copy_of_encoded_rows(benchmark: BenchmarkFixture, runner: asyncio.Runner, server: str, variant: str) -> None:
    """What the database takes of the same rows when nothing is to be read, checked and encoded: the most there is."""
    stack = AsyncExitStack()
    rounds = 0
    data = b""

    async def opened() -> asyncpg.Connection[asyncpg.Record]:
        dsn = await stack.enter_async_context(fresh_database(server, timescale=variant == "timescale"))
        await migrate(PostgresSettings(dsn))
        store = await PostgresStore.open(PostgresSettings(dsn))
        await store.apply([write_of(record) for record in records(0)])  # the days are there
        await store.close()
        connection = await asyncpg.connect(dsn)
        stack.push_async_callback(connection.close)
        return connection

    def setup() -> None:
        nonlocal rounds, data
        rounds += 1
        found = (wire.stored_from_bytes(record.value).windows for record in records(rounds))
        data = b"".join(windows_copied(chain.from_iterable(found)))

    async def copied() -> None:
        await connection.copy_to_table("windows", columns=_WINDOW, source=BytesIO(data), format="binary")

    try:
        connection = runner.run(opened())
        benchmark.pedantic(lambda: runner.run(copied()), setup=setup, rounds=5)
        assert runner.run(connection.fetchval("SELECT count(*) FROM windows")) == (rounds + 1) * ROWS
        noted(benchmark, ROWS)
    finally:
        runner.run(stack.aclose())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ["plain", "timescale"])
def test_postgres(benchmark: BenchmarkFixture, runner: asyncio.Runner, server: str, variant: str, kind: str) -> None:
    stack = AsyncExitStack()

    async def opened() -> PostgresStore:
        dsn = await stack.enter_async_context(fresh_database(server, timescale=variant == "timescale"))
        await migrate(PostgresSettings(dsn))
        store = await PostgresStore.open(PostgresSettings(dsn))
        stack.push_async_callback(store.close)
        return store

    try:
        measured(benchmark, runner, runner.run(opened()), *KINDS[kind])
    finally:
        runner.run(stack.aclose())
