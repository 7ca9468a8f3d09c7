"""Window rows a second into each store, in one run: SQLite, PostgreSQL, PostgreSQL with TimescaleDB."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from tests.engines.fixtures import fresh_database
from tests.engines.postgres.server import Server, tools

from helios_collector.writer import StoreWriter
from helios_core import wire
from helios_core.batches import BatchId, Slice
from helios_core.bus.base import Record
from helios_core.bus.memory import MemoryBus
from helios_core.clock import SystemClock
from helios_core.model import Level
from helios_core.records import slice_record
from helios_core.store.base import Store
from helios_core.store.postgres.migrate import migrate
from helios_core.store.postgres.settings import PostgresSettings
from helios_core.store.postgres.store import PostgresStore
from helios_core.store.sqlite import SqliteStore
from helios_core.windows import WindowDelta

BATCHES: Final = 20  # of each of ten agents, in a round
SLICES: Final = 200  # of the batches with the same number
DELTAS: Final = 10  # of a slice
ROWS: Final = BATCHES * SLICES * DELTAS
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


def measured(benchmark: BenchmarkFixture, runner: asyncio.Runner, store: Store) -> None:
    """One writer, from what waits on a bus in memory to the last commit."""
    rounds = 0
    drained = asyncio.Event()
    drained.set()

    def setup() -> tuple[tuple[MemoryBus], dict[str, object]]:
        nonlocal rounds
        rounds += 1
        bus = MemoryBus(SystemClock())
        runner.run(bus.publish([*records(rounds)]))
        return (bus,), {}

    benchmark.pedantic(lambda bus: runner.run(StoreWriter(bus, store).run(drained)), setup=setup, rounds=5)
    (row,) = runner.run(store.query("totals"))
    assert row["events"] == rounds * ROWS * LATENCIES
    sizes = [len(window.latency or b"") for window in wire.stored_from_bytes(next(records(1)).value).windows]
    benchmark.extra_info["histogram_bytes"] = round(sum(sizes) / len(sizes))
    benchmark.extra_info["rows_per_second"] = round(ROWS / benchmark.stats.stats.min)
    benchmark.extra_info["rows_per_second_median"] = round(ROWS / benchmark.stats.stats.median)
    benchmark.extra_info["load"] = round(os.getloadavg()[0], 1)


def test_sqlite(benchmark: BenchmarkFixture, runner: asyncio.Runner, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    try:
        measured(benchmark, runner, store)
    finally:
        runner.run(store.close())


@pytest.mark.parametrize("variant", ["plain", "timescale"])
def test_postgres(benchmark: BenchmarkFixture, runner: asyncio.Runner, server: str, variant: str) -> None:
    stack = AsyncExitStack()

    async def opened() -> PostgresStore:
        dsn = await stack.enter_async_context(fresh_database(server, timescale=variant == "timescale"))
        await migrate(PostgresSettings(dsn))
        store = await PostgresStore.open(PostgresSettings(dsn))
        stack.push_async_callback(store.close)
        return store

    try:
        measured(benchmark, runner, runner.run(opened()))
    finally:
        runner.run(stack.aclose())
