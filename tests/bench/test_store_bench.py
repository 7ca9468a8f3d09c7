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

from helios_core import wire
from helios_core.batches import BatchId, Slice
from helios_core.model import Level
from helios_core.store.base import SliceWrite, Store
from helios_core.store.postgres.migrate import migrate
from helios_core.store.postgres.settings import PostgresSettings
from helios_core.store.postgres.store import PostgresStore
from helios_core.store.sqlite import SqliteStore
from helios_core.windows import WindowDelta

APPLIES: Final = 20  # of a round
SLICES: Final = 200  # of an apply, as the writer takes them from the bus
DELTAS: Final = 10  # of a slice
ROWS: Final = APPLIES * SLICES * DELTAS
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


def writes(round_: int) -> Iterator[list[SliceWrite]]:
    """The slices of many agents: each window of each of twenty services once on each of ten hosts."""
    rng = random.Random(round_)
    sketches = []
    for _ in range(50):
        delta = WindowDelta(0, "", "")
        delta.latency.add([round(rng.lognormvariate(10.3, 0.9)) for _ in range(LATENCIES)])
        delta.endpoints.add_hashes([rng.getrandbits(64) for _ in range(8)])
        sketches.append(delta)
    for sequence in range(1, APPLIES + 1):
        made = []
        for number in range(SLICES):
            service, agent = f"service-{number % 20}", number // 20
            deltas = []
            for i in range(DELTAS):
                like = rng.choice(sketches)
                start_us = T0 + ((round_ * APPLIES + sequence) * DELTAS + i) * 10_000_000
                delta = WindowDelta(start_us, service, f"host-{agent}", latency=like.latency, endpoints=like.endpoints)
                delta.levels[Level.INFO] = LATENCIES
                delta.bytes_in = 100_000
                deltas.append(delta)
            id_ = BatchId(bytes([agent]) * 16, round_, sequence)
            made.append(SliceWrite(id_, 0, b"a-content-hash", Slice(service, 0, deltas=deltas)))
        yield made


def measured(benchmark: BenchmarkFixture, runner: asyncio.Runner, store: Store, *, at_once: int) -> None:
    """One writer, or several of them that have different partitions."""
    rounds = 0

    async def all_of(waiting: list[list[SliceWrite]]) -> None:
        while waiting:
            await store.apply(waiting.pop())

    def setup() -> tuple[tuple[list[list[SliceWrite]]], dict[str, object]]:
        nonlocal rounds
        rounds += 1
        return ([*writes(rounds)],), {}

    async def together(made: list[list[SliceWrite]]) -> None:
        await asyncio.gather(*(all_of(made) for _ in range(at_once)))

    benchmark.pedantic(lambda made: runner.run(together(made)), setup=setup, rounds=4)
    (row,) = runner.run(store.query("totals"))
    assert row["events"] == rounds * ROWS * LATENCIES
    sizes = [len(wire.latency_to_bytes(one.slice.deltas[0].latency)) for one in next(writes(1))]
    benchmark.extra_info["histogram_bytes"] = round(sum(sizes) / len(sizes))
    benchmark.extra_info["rows_per_second"] = round(ROWS / benchmark.stats.stats.min)
    benchmark.extra_info["rows_per_second_median"] = round(ROWS / benchmark.stats.stats.median)
    benchmark.extra_info["load"] = round(os.getloadavg()[0], 1)


def test_sqlite(benchmark: BenchmarkFixture, runner: asyncio.Runner, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    try:
        measured(benchmark, runner, store, at_once=1)
    finally:
        runner.run(store.close())


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("variant", ["plain", "timescale"])
def test_postgres(benchmark: BenchmarkFixture, runner: asyncio.Runner, server: str, variant: str, at_once: int) -> None:
    stack = AsyncExitStack()

    async def opened() -> PostgresStore:
        dsn = await stack.enter_async_context(fresh_database(server, timescale=variant == "timescale"))
        await migrate(PostgresSettings(dsn))
        store = await PostgresStore.open(PostgresSettings(dsn))
        stack.push_async_callback(store.close)
        return store

    try:
        measured(benchmark, runner, runner.run(opened()), at_once=at_once)
    finally:
        runner.run(stack.aclose())
