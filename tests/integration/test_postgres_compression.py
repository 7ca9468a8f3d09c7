"""Days that TimescaleDB has compressed: late rows, repeats, retention and rollups are as they were before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import pytest
from tests.engines.fixtures import fresh_database
from tests.engines.postgres.server import Server, has_timescale, tools

import helios_sql
from helios_core import wire
from helios_core.batches import BatchId, Slice
from helios_core.bus.base import Partition, Topic
from helios_core.errors import StoreUnavailable
from helios_core.model import Event, EventRecord, Level, MetricRecord, MetricSample
from helios_core.store.base import EventsWrite, MetricsWrite, Outcome, Row, SliceWrite, Write
from helios_core.store.ledger import Verdict
from helios_core.store.postgres.migrate import migrate, status
from helios_core.store.postgres.settings import PostgresSettings
from helios_core.store.postgres.store import PostgresStore
from helios_core.windows import WindowDelta

pytestmark = pytest.mark.engines

S: Final = 1_000_000
DAY: Final = 86_400 * S
TODAY: Final = int(time.time()) // 86_400 * DAY
OLD: Final = TODAY - 10 * DAY  # beyond the week after which a day is compressed
TABLES: Final = ("events", "metrics", "window_templates", "windows")
EVER: Final = {"from_us": 0, "to_us": 1 << 60}
AGENT: Final = b"0123456789abcdef"
SERVICES: Final = ("cart", "users")
MIGRATIONS: Final = helios_sql.migrations("postgres")


@pytest.fixture
async def settings(postgres: str) -> AsyncIterator[PostgresSettings]:
    async with fresh_database(postgres, timescale=True) as dsn:
        made = PostgresSettings(dsn)
        await migrate(made)
        yield made


@pytest.fixture
async def store(settings: PostgresSettings) -> AsyncIterator[PostgresStore]:
    made = await PostgresStore.open(settings)
    yield made
    await made.close()


@asynccontextmanager
async def session(settings: PostgresSettings) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(settings.dsn)
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


async def compress(settings: PostgresSettings) -> None:
    """What the server does by itself twice a day."""
    async with session(settings) as connection:
        jobs = await connection.fetch(
            "SELECT job_id FROM timescaledb_information.jobs WHERE hypertable_name = any($1)", TABLES
        )
        assert len(jobs) == len(TABLES)
        for job in jobs:
            await connection.execute(f"CALL run_job({job['job_id']})")


async def chunks(settings: PostgresSettings, table: str) -> dict[int, bool]:
    """The days that a table has, in days from today, and which of them are compressed."""
    async with session(settings) as connection:
        rows = await connection.fetch(
            "SELECT extract(epoch FROM range_start)::bigint AS start_s, is_compressed "
            "FROM timescaledb_information.chunks WHERE hypertable_name = $1",
            table,
        )
    return {(row["start_s"] * S - TODAY) // DAY: row["is_compressed"] for row in rows}


def delta(start_us: int, service: str = "cart", host: str = "host-1") -> WindowDelta:
    made = WindowDelta(start_us, service, host)
    made.levels[Level.INFO], made.levels[Level.ERROR] = 2, 1
    made.latency.add([1_000, 2_000 + start_us % 7, 90_000])
    made.endpoints.add_hashes([start_us % 5])
    made.templates.add(Level.ERROR, "no item <*>")
    return made


def write(
    sequence: int, *deltas: WindowDelta, agent: bytes = AGENT, metrics: Sequence[MetricSample] = ()
) -> SliceWrite:
    part = Slice(deltas[0].service, 0, deltas=list(deltas), metrics=list(metrics))
    return SliceWrite(BatchId(agent, 7, sequence), 0, b"same-content", wire.stored_slice(part))


def event(time_us: int, id_: str, message: str = "no item 17", service: str = "cart") -> Event:
    return Event(time_us, service, Level.ERROR, message, 1_500, "/items/17", trace_id="t", host="h", id=id_)


def record(offset: int, *events: Event) -> EventsWrite:
    return EventsWrite(Partition(Topic.EVENTS, 0), offset, EventRecord(events[0].service, 0, list(events)))


def history() -> list[Write]:
    """Some hours of an old day and some of today, of two services on two hosts."""
    writes: list[Write] = []
    for number, start_us in enumerate((OLD, TODAY)):
        for service in SERVICES:
            deltas = [delta(start_us + i * 10 * S, service, f"host-{i % 2}") for i in range(400)]
            writes.append(write(len(writes) + 1, *deltas))
        samples = [MetricSample("cpu", i / 7, {"core": "0"}, start_us + i * S, "cart", "h") for i in range(100)]
        writes.append(MetricsWrite(Partition(Topic.METRICS, 0), number, MetricRecord("", 0, samples)))
        writes.append(record(number, *(event(start_us + i * S, f"{number}-{i}") for i in range(100))))
    return writes


async def answers(store: PostgresStore) -> dict[str, list[Row]]:
    """What the queries say that read what may be compressed."""
    found = {name: await store.query(name, **EVER) for name in ("services_in_range", "totals_in_range")}
    for name in ("totals",):
        found[name] = await store.query(name)
    found["known"] = await store.query("services_known", limit=9)
    for service in SERVICES:
        for name in (
            "window_rows_of_service",
            "window_counts_of_service",
            "window_durations_of_service",
            "events_of_service",
        ):
            rows = await store.query(name, service=service, **EVER)
            found[f"{name} {service}"] = sorted(rows, key=repr)
        found[f"reach {service}"] = await store.query("window_reach", service=service)
        found[f"templates {service}"] = await store.query(
            "template_counts", service=service, before_us=0, limit=9, **EVER
        )
        found[f"samples {service}"] = await store.query(
            "samples_of_template", service=service, template_id=0, limit=1_000, **EVER
        )
        found[f"traces {service}"] = await store.query("traces_of_service", service=service, limit=9, **EVER)
        for step_s in (60, 300, 3_600):
            found[f"rollups {step_s} {service}"] = await store.query(
                "rollup_counts_of_service", service=service, step_s=step_s, **EVER
            )
    return found


async def rolled(store: PostgresStore) -> None:
    while await store.roll_up(1 << 60, 50):
        pass


async def test_only_what_is_older_than_a_week_is_compressed_and_says_the_same(
    settings: PostgresSettings, store: PostgresStore
) -> None:
    await store.apply(history())
    await rolled(store)
    before = await answers(store)
    await compress(settings)
    for table in TABLES:
        assert await chunks(settings, table) == {-10: True, 0: False}, table
    assert await answers(store) == before
    async with session(settings) as connection:
        found = await connection.fetch(
            "SELECT hypertable_name, config ->> 'compress_after' AS after FROM timescaledb_information.jobs "
            "WHERE hypertable_name IS NOT NULL ORDER BY 1"
        )
    assert [tuple(row) for row in found] == [(table, "7 days") for table in TABLES]
    assert (await status(settings)).compression == "days older than 7 days"


async def test_what_comes_late_is_added_to_a_compressed_day(
    settings: PostgresSettings, store: PostgresStore, postgres: str
) -> None:
    """A host that was away for ten days: as if it had never been away, before its day is compressed again and after."""
    late = [
        write(1, *(delta(OLD + i * 10 * S, "cart", "away") for i in range(300)), agent=b"b" * 16),
        record(7, *(event(OLD + i * S, f"late-{i}") for i in range(100))),
        MetricsWrite(
            Partition(Topic.METRICS, 0),
            7,
            MetricRecord("", 0, [MetricSample("cpu", 1.5, {}, OLD + 5 * S, "cart", "away")]),
        ),
    ]
    await store.apply(history())
    await rolled(store)
    await compress(settings)
    for verdict in (Verdict.APPLIED, Verdict.DUPLICATE):
        assert {outcome.verdict for outcome in await store.apply(late)} == {verdict}
    await rolled(store)
    found = await answers(store)
    await compress(settings)
    assert await answers(store) == found
    async with session(settings) as connection:
        assert await connection.fetchval("SELECT count(*) FROM metrics") == 201
        assert await connection.fetchval("SELECT count(*) FROM events") == 300
    async with fresh_database(postgres, timescale=False) as dsn:
        await migrate(PostgresSettings(dsn))
        punctual = await PostgresStore.open(PostgresSettings(dsn))
        await punctual.apply([*history(), *late])
        await rolled(punctual)
        assert await answers(punctual) == found
        await punctual.close()


async def test_an_event_of_ten_days_ago_that_is_sent_again_is_found(
    settings: PostgresSettings, store: PostgresStore
) -> None:
    await store.apply(history())
    await compress(settings)
    again = record(8, event(OLD + 5 * S, "0-5"), event(OLD + 6 * S, "0-6", "other"), event(OLD + 7 * S, "new"))
    other = event(OLD + 6 * S, "0-6", "other")
    assert await store.apply([again]) == [Outcome(Verdict.APPLIED, duplicates=1, conflicting=(other,))]
    assert await store.apply([record(9, event(OLD + 7 * S, "new"))]) == [Outcome(Verdict.APPLIED, duplicates=1)]
    async with session(settings) as connection:
        assert await connection.fetchval("SELECT count(*) FROM events") == 201
        # And who does not look first is refused by the index.
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute("INSERT INTO events SELECT * FROM events WHERE time = to_timestamp($1)", OLD / S)


async def test_compressed_days_are_dropped(settings: PostgresSettings, store: PostgresStore) -> None:
    await store.apply([*history(), write(20, delta(OLD + DAY))])
    await compress(settings)
    assert await chunks(settings, "windows") == {-10: True, -9: True, 0: False}
    await store.apply([write(21, delta(OLD, host="late"))])  # a day of which a part is not compressed
    await store.prune(OLD + DAY)
    assert await chunks(settings, "windows") == {-9: True, 0: False}
    for table in ("events", "metrics"):
        assert await chunks(settings, table) == {0: False}
    await store.apply([write(22, delta(OLD + 30 * S, host="later"))])  # to the rollups alone
    await rolled(store)
    assert await chunks(settings, "windows") == {-9: True, 0: False}
    rows = await store.query("rollup_counts_of_service", service="cart", step_s=60, from_us=OLD, to_us=OLD + 60 * S)
    assert sum(row["events"] for row in rows) == 3 * (6 + 2) + 60


async def test_with_a_retention_of_three_days_nothing_is_ever_compressed(
    settings: PostgresSettings, store: PostgresStore
) -> None:
    await store.apply([*history(), write(20, delta(TODAY - 2 * DAY))])
    await store.prune(TODAY - 3 * DAY)
    await compress(settings)
    assert await chunks(settings, "windows") == {-2: False, 0: False}


async def test_compressing_goes_on_beside_writing_and_pruning(settings: PostgresSettings, store: PostgresStore) -> None:
    """Late slices into the day that is being compressed: each is there once."""
    await store.apply(history())
    ending = asyncio.Event()

    async def compressing() -> None:
        while not ending.is_set():
            await compress(settings)

    async def pruning() -> None:
        while not ending.is_set():
            await store.prune(OLD)
            await store.roll_up(1 << 60, 50)
            await asyncio.sleep(0.05)

    async def writing(number: int) -> None:
        for sequence in range(1, 11):
            late = write(sequence, delta(OLD + sequence * 10 * S, host=f"w{number}"), agent=bytes([number]) * 16)
            for _ in range(60):
                try:
                    await store.apply([late])
                    break
                except StoreUnavailable:
                    await asyncio.sleep(0.05)

    beside = [asyncio.create_task(compressing()), asyncio.create_task(pruning())]
    await asyncio.gather(*map(writing, range(3)))
    ending.set()
    await asyncio.gather(*beside)
    await rolled(store)
    (totals,) = await store.query("totals")
    assert totals["events"] == (4 * 400 + 30) * 3 + 200
    rows = [
        row
        for service in SERVICES
        for row in await store.query("rollup_counts_of_service", service=service, step_s=60, **EVER)
    ]
    assert sum(row["events"] for row in rows) == totals["events"]
    async with session(settings) as connection:
        assert (
            await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
        )


async def test_a_store_of_the_release_before_is_compressed(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has stays, and its own way of looking for repeats goes on."""
    async with fresh_database(postgres, timescale=True) as dsn:
        settings = PostgresSettings(dsn)
        with monkeypatch.context() as patch:
            patch.setattr(helios_sql, "migrations", lambda _: MIGRATIONS[:2])
            await migrate(settings)
            store = await PostgresStore.open(settings)
            await store.apply(history())
        await rolled(store)
        found = await answers(store)
        assert (await migrate(settings))[0] == "0003_compression"
        await compress(settings)
        assert await chunks(settings, "windows") == {-10: True, 0: False}
        assert await answers(store) == found
        assert await store.apply([record(9, event(OLD + 5 * S, "0-5"))]) == [Outcome(Verdict.APPLIED, duplicates=1)]
        await store.close()


async def test_without_timescale_nothing_is_compressed(postgres: str) -> None:
    async with fresh_database(postgres, timescale=False) as dsn:
        settings = PostgresSettings(dsn)
        await migrate(settings)
        async with session(settings) as connection:
            await connection.execute("CALL helios_compress()")
        assert (await status(settings)).compression == "off: without TimescaleDB"


async def test_with_the_edition_under_the_apache_licence_nothing_is_compressed() -> None:
    """It is said, and made up for when the server has got the other edition."""
    if tools() is None or not has_timescale():
        pytest.skip("the server has no TimescaleDB: its packages and its source are at docs.timescale.com")
    server = Server()
    try:
        with (server._folder / "data" / "postgresql.conf").open("a") as file:
            file.write("timescaledb.license = 'apache'\n")
        server.start()
        async with session(PostgresSettings(server.dsn())) as connection:
            await connection.execute("CREATE DATABASE apache TEMPLATE template0")
        settings = PostgresSettings(server.dsn("apache"))
        async with session(settings) as connection:
            await connection.execute("CREATE EXTENSION timescaledb")
        assert (await migrate(settings))[2] == "0003_compression"
        store = await PostgresStore.open(settings)
        await store.apply(history())
        await store.close()
        assert (await status(settings)).compression.startswith("off: timescaledb.license is 'apache'")
        async with session(settings) as connection:
            await connection.execute("ALTER SYSTEM SET timescaledb.license = 'timescale'")
        server.kill()
        server.start()
        assert "CALL helios_compress()" in (await status(settings)).compression
        async with session(settings) as connection:
            await connection.execute("CALL helios_compress()")
        await compress(settings)
        assert await chunks(settings, "windows") == {-10: True, 0: False}
        assert (await status(settings)).compression == "days older than 7 days"
    finally:
        server.stop()
