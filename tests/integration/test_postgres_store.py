"""The store on a real PostgreSQL under faults: applied once, whatever is killed, locked, refused or pruned."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg
import pytest
from tests.engines.fixtures import fresh_database
from tests.engines.postgres.server import Server, tools

from helios_core import wire
from helios_core.batches import BatchId, Slice
from helios_core.bus.base import Partition, Topic
from helios_core.clock import to_us
from helios_core.errors import ConfigError, StoreMismatch, StoreUnavailable
from helios_core.model import Event, EventRecord, Level, MetricRecord, MetricSample
from helios_core.store.base import EventsWrite, MetricsWrite, Outcome, Row, SliceWrite, Statement, Store
from helios_core.store.ledger import Verdict
from helios_core.store.postgres.migrate import migrate, status
from helios_core.store.postgres.settings import PostgresSettings
from helios_core.store.postgres.store import PostgresStore
from helios_core.store.sqlite import SqliteStore
from helios_core.windows import WindowDelta

pytestmark = pytest.mark.engines

_T = TypeVar("_T")
S: Final = 1_000_000
DAY: Final = 86_400 * S
T0: Final = to_us(datetime(2026, 3, 2, 10, tzinfo=UTC))
EVER: Final = {"from_us": 0, "to_us": 1 << 60}
AGENT: Final = b"0123456789abcdef"
RANDOM: Final = random.Random(1).randbytes(20_000).hex()  # does not compress


@pytest.fixture
async def settings(database: str) -> PostgresSettings:
    made = PostgresSettings(database)
    await migrate(made)
    return made


@pytest.fixture
async def store(settings: PostgresSettings) -> AsyncIterator[PostgresStore]:
    async with opened(settings) as made:
        yield made


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One of our own, that may be killed and stopped."""
    if tools() is None:
        pytest.fail("no PostgreSQL: apt-get install postgresql")
    made = Server()
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
async def own(server: Server) -> PostgresSettings:
    """A migrated database on the server of our own; it goes with the server."""
    name = f"own_{uuid.uuid4().hex}"
    async with session(PostgresSettings(server.dsn())) as connection:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    made = PostgresSettings(server.dsn(name))
    await migrate(made)
    return made


@asynccontextmanager
async def opened(settings: PostgresSettings, **more: Any) -> AsyncIterator[PostgresStore]:
    made = await PostgresStore.open(settings, **more)
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def session(settings: PostgresSettings) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A session beside the store's own."""
    connection = await asyncpg.connect(settings.dsn)
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


def delta(start_us: int, events: int = 3, service: str = "cart") -> WindowDelta:
    made = WindowDelta(start_us, service, "host-1")
    made.levels[Level.INFO] = events - 1
    made.levels[Level.ERROR] = 1
    made.latency.add([1_000 * i for i in range(events)])
    made.templates.add(Level.ERROR, "no item <*>")
    return made


def write(
    sequence: int, *deltas: WindowDelta, agent: bytes = AGENT, partition: int = 0, content: bytes = b"same-content"
) -> SliceWrite:
    service = deltas[0].service if deltas else "cart"
    return SliceWrite(
        BatchId(agent, 7, sequence), partition, content, wire.stored_slice(Slice(service, 0, deltas=list(deltas)))
    )


def event(time_us: int, id_: str = "", message: str = "no item 17", **more: Any) -> Event:
    return Event(time_us, "cart", Level.ERROR, message, 1_500, "/items/17", host="h", id=id_, **more)


def record(offset: int, *events: Event, partition: int = 0) -> EventsWrite:
    return EventsWrite(Partition(Topic.EVENTS, partition), offset, EventRecord("cart", 0, list(events)))


async def total(store: Store) -> int:
    (row,) = await store.query("totals")
    return int(row["events"])


async def stored_events(store: Store, template_id: int = 0) -> list[Row]:
    return await store.query("samples_of_template", service="cart", **EVER, template_id=template_id, limit=1_000_000)


async def eventually(call: Callable[[], Awaitable[_T]], within_s: float = 60) -> _T:
    """What it gives once the store is available: what every caller of the store does."""
    deadline_s = time.monotonic() + within_s
    while True:
        try:
            return await call()
        except StoreUnavailable:
            if time.monotonic() > deadline_s:
                raise
            await asyncio.sleep(0.05)


async def deadlocks(settings: PostgresSettings) -> int:
    """How many the server has ended in the database; each session tells it within a second."""
    await asyncio.sleep(1.2)
    async with session(settings) as connection:
        query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        return int(await connection.fetchval(query))


async def until(is_so: Callable[[], object], within_s: float = 60) -> None:
    deadline_s = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.005)


async def refused(call: Callable[[], Awaitable[object]], match: str | None = None, within_s: float = 10) -> None:
    """It is refused as unavailable, soon."""
    began_s = time.monotonic()
    with pytest.raises(StoreUnavailable, match=match):
        await call()
    assert time.monotonic() - began_s < within_s


# Applied once, under concurrency


async def test_two_processes_that_write_the_same_apply_each_write_once(settings: PostgresSettings) -> None:
    rng = random.Random(3)
    slices = [
        write(sequence, delta(T0 + rng.randrange(5) * DAY, 4, service), agent=agent * 16, partition=partition)
        for agent, partition in ((b"a", 0), (b"b", 0), (b"c", 1))
        for service in ("cart", "users")
        for sequence in range(1, 41)
    ]
    # The same ids come in both partitions, in another order.
    ids = [event(T0 + rng.randrange(5) * DAY + i, f"id-{i}") for i in range(120)]
    records = []
    for partition in range(2):
        shuffled = rng.sample(ids, len(ids))
        records.append([record(i, *shuffled[i * 10 : i * 10 + 10], partition=partition) for i in range(12)])
    verdicts: Counter[Verdict] = Counter()
    outcomes: list[Outcome] = []
    retried = 0

    async def put(store: Store, writes: Sequence[SliceWrite | EventsWrite]) -> None:
        nonlocal retried
        while True:
            try:
                found = await store.apply(writes)
            except StoreUnavailable:
                retried += 1
            else:
                outcomes.extend(found)
                return

    async def of_agents(store: Store, seed: int) -> None:
        mine = random.Random(seed).sample(slices, len(slices))
        for start in range(0, len(mine), 7):
            await put(store, mine[start : start + 7])

    async def of_partition(store: Store, number: int) -> None:
        for one in records[number]:
            await put(store, [one])

    async with opened(settings) as first, opened(settings) as second:
        tasks = [of_agents(store, seed) for seed in range(6) for store in (first, second)]
        tasks += [of_partition(store, number) for number in range(2) for store in (first, second)]
        await asyncio.gather(*tasks)
        verdicts.update(outcome.verdict for outcome in outcomes)
        assert verdicts[Verdict.APPLIED] == len(slices) + 24
        assert verdicts[Verdict.CONFLICT] == 0
        assert await total(first) == await total(second) == 4 * len(slices) + len(ids)
        assert sum(outcome.duplicates for outcome in outcomes) == len(ids)
        assert len(await stored_events(first)) == len(ids)
        counted = await first.query("template_counts", service="cart", before_us=0, limit=10, **EVER)
        assert sum(row["count"] for row in counted) == len(slices) // 2 + len(ids)
    assert await deadlocks(settings) == 0
    assert retried < 500  # the same ids in two partitions: who comes second waits, and tries again


async def test_the_first_windows_of_a_day_come_from_many_at_once(settings: PostgresSettings) -> None:
    """Nobody has made room for the day: no error, no deadlock, at midnight."""
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(opened(settings)) for _ in range(3)]
        for day in range(4):
            await asyncio.gather(
                *(
                    store.apply(
                        [
                            write(day + 1, delta(T0 + day * DAY), delta(T0 + (day + 1) * DAY), agent=bytes([n, i] * 8)),
                            record(day, event(T0 + day * DAY + n * 100 + i), partition=n * 10 + i),
                        ]
                    )
                    for n, store in enumerate(stores)
                    for i in range(5)
                )
            )
        assert await total(stores[0]) == 4 * 15 * (2 * 3 + 1)
    assert await deadlocks(settings) == 0


async def test_an_id_that_two_processes_bring_at_once_is_counted_once(settings: PostgresSettings) -> None:
    async with opened(settings) as first, opened(settings) as second:
        duplicates = conflicts = 0
        for turn in range(10):
            ids = [event(T0 + turn * S + i, f"{turn}-{i}") for i in range(30)]
            changed = [replace(one, message="other") if i < 5 else one for i, one in enumerate(reversed(ids))]
            found = await asyncio.gather(
                eventually(lambda: first.apply([record(turn, *ids)])),  # noqa: B023 -- awaited in this turn
                eventually(lambda: second.apply([record(turn, *changed, partition=1)])),  # noqa: B023
            )
            duplicates += sum(outcome.duplicates for outcomes in found for outcome in outcomes)
            conflicts += sum(len(outcome.conflicting) for outcomes in found for outcome in outcomes)
        assert (duplicates, conflicts) == (250, 50)
        assert await total(first) == len(await stored_events(first)) == 300
        # Later, and from the other one.
        again = [event(T0 + i, f"0-{i}") for i in range(30)]
        (outcome,) = await second.apply([record(99, *again, event(T0 + 29, "0-29", "third"), partition=1)])
        assert outcome.verdict is Verdict.APPLIED
        assert outcome.duplicates + len(outcome.conflicting) == 31
        assert await total(first) == 300


async def test_an_apply_that_is_given_up_changes_nothing(store: PostgresStore) -> None:
    for sequence in range(1, 20):
        writes = [write(sequence, delta(T0 + i * DAY, 3)) for i in range(3)]
        task = asyncio.create_task(store.apply(writes))
        await asyncio.sleep(random.Random(sequence).random() * 0.02)
        task.cancel()
        done = False
        with suppress(asyncio.CancelledError):
            await task
            done = True
        before = await total(store)
        (outcome, *_) = await store.apply(writes)
        assert outcome.verdict is Verdict.DUPLICATE or not done
        assert await total(store) == before + (3 if outcome.verdict is Verdict.APPLIED else 0)
    assert await total(store) == 19 * 3  # of one batch and service only the first is applied


# Faults of the server


async def restarted(server: Server) -> None:
    """Up again after a kill: the killed one's children may hold its memory for a moment."""
    for attempt in itertools.count():
        try:
            await asyncio.to_thread(server.start)
        except RuntimeError:
            if attempt > 5:
                raise
            await asyncio.sleep(1)
        else:
            return


async def test_what_returned_outlives_a_kill_and_nothing_is_there_twice(server: Server, own: PostgresSettings) -> None:
    returned: list[SliceWrite | EventsWrite] = []
    ending = asyncio.Event()
    waited = 0

    async def putting(store: Store, number: int) -> int:
        nonlocal waited
        for turn in itertools.count():
            writes = [
                write(turn + 1, delta(T0 + turn % 3 * DAY, 5), agent=bytes([number]) * 16),
                record(turn, *(event(T0 + turn * S + i, f"{number}-{turn}-{i}") for i in range(5)), partition=number),
            ]
            while True:
                try:
                    await store.apply(writes)
                    break
                except StoreUnavailable:
                    waited += 1
                    await asyncio.sleep(0.05)
            returned.extend(writes)
            if ending.is_set():
                return turn + 1
        raise AssertionError

    async with opened(own) as first, opened(own) as second:
        tasks = [
            asyncio.create_task(putting(store, 2 * n + i)) for n in range(4) for i, store in enumerate((first, second))
        ]
        for _ in range(3):
            wanted = len(returned) + 60
            await until(lambda: len(returned) >= wanted)  # noqa: B023
            server.kill()
            sure = len(returned)
            await restarted(server)
            found = await eventually(lambda: total(first))
            assert found >= 5 * sure
        ending.set()
        turns = await asyncio.gather(*tasks)
        assert waited > 0
        assert await total(first) == 10 * sum(turns)
        assert len(await stored_events(second)) == 5 * sum(turns)
        again = [one for one in returned if isinstance(one, SliceWrite)][-10:]
        assert {outcome.verdict for outcome in await first.apply(again)} == {Verdict.DUPLICATE}


async def test_a_server_that_is_away(server: Server, own: PostgresSettings) -> None:
    """At the start, later, and back: the same store goes on."""
    nowhere = PostgresSettings("postgresql://helios@127.0.0.1:1/helios")
    for call in (PostgresStore.open, migrate, status):
        await refused(lambda call=call: call(nowhere), "see whether the server of postgres.dsn is up")  # type: ignore[misc]
    async with opened(own) as store:
        await store.apply([write(1, delta(T0))])
        server.kill()
        await refused(lambda: store.apply([write(2, delta(T0))]), "PostgreSQL cannot be used")
        await refused(lambda: store.query("totals"), "see whether the server of postgres.dsn is up")
        await refused(lambda: store.transact([report("i")]))
        await refused(lambda: store.prune(0))
        await restarted(server)
        assert await eventually(lambda: store.apply([write(2, delta(T0))])) == [Outcome(Verdict.APPLIED)]
        assert await total(store) == 6
    server.kill()  # closing needs no server
    await store.close()
    await restarted(server)


async def test_a_server_that_accepts_and_never_answers(server: Server, own: PostgresSettings) -> None:
    async with session(own) as connection:
        folder = Path(await connection.fetchval("SHOW data_directory"))
    postmaster = int((folder / "postmaster.pid").read_text().split()[0])
    async with opened(own, command_s=1) as store:
        await store.apply([write(1, delta(T0))])
        pids = [postmaster, *children(postmaster)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            await refused(lambda: store.apply([write(2, delta(T0))]), "does not answer in time", within_s=15)
            await refused(lambda: store.query("totals"), "does not answer in time", within_s=15)
            await refused(lambda: PostgresStore.open(own), "does not answer in time", within_s=15)
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        assert await eventually(lambda: store.apply([write(3, delta(T0))])) == [Outcome(Verdict.APPLIED)]
        (outcome,) = await store.apply([write(2, delta(T0))])
        assert await total(store) == 9, outcome


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_a_store_is_closed_while_its_server_does_not_answer(server: Server, own: PostgresSettings) -> None:
    async with session(own) as locking, locking.transaction():
        await locking.execute("LOCK TABLE windows IN ACCESS EXCLUSIVE MODE")
        store = await PostgresStore.open(own, command_s=2)
        asking = asyncio.create_task(store.apply([write(1, delta(T0))]))
        await asyncio.sleep(0.3)
        began_s = time.monotonic()
        await store.close()
        assert time.monotonic() - began_s < 5
        with pytest.raises(StoreUnavailable):
            await asking
    async with opened(own) as store:
        assert await total(store) == 0


async def test_a_lock_that_another_holds_ends_in_time(settings: PostgresSettings) -> None:
    async with opened(settings, command_s=1) as store:
        await store.apply([write(1, delta(T0))])
        async with session(settings) as locking, locking.transaction():
            await locking.execute("LOCK TABLE windows IN ACCESS EXCLUSIVE MODE")
            for call in (lambda: store.apply([write(2, delta(T0))]), lambda: total(store)):
                await refused(call, "does not answer in time", within_s=6)
        assert await store.apply([write(2, delta(T0))]) == [Outcome(Verdict.APPLIED)]
        async with session(settings) as locking, locking.transaction():  # another process in the middle of an apply
            await locking.execute("SELECT * FROM ledger FOR UPDATE")
            await refused(lambda: store.apply([write(3, delta(T0))]), "does not answer in time", within_s=6)
        assert await total(store) == 6


async def test_all_connections_in_use_is_said_in_time(settings: PostgresSettings) -> None:
    async with opened(replace_struct(settings, connections=2), command_s=2) as store:
        async with session(settings) as locking, locking.transaction():
            await locking.execute("LOCK TABLE windows IN ACCESS EXCLUSIVE MODE")
            began_s = time.monotonic()
            found = await asyncio.gather(*(total(store) for _ in range(8)), return_exceptions=True)
            assert time.monotonic() - began_s < 10
            assert all(isinstance(one, StoreUnavailable) for one in found)
        assert await total(store) == 0


def replace_struct(settings: PostgresSettings, **changed: Any) -> PostgresSettings:
    return PostgresSettings(**({"dsn": settings.dsn, "connections": settings.connections} | changed))


async def test_a_process_that_died_in_an_apply_holds_nobody_up(settings: PostgresSettings) -> None:
    """Its connection is open, its transaction has the lock: the server ends it."""
    async with opened(settings, command_s=2) as dead, opened(settings) as store:
        await store.apply([write(1, delta(T0))])
        transaction = dead._connection()
        connection = await transaction.__aenter__()
        await connection.execute("BEGIN")
        await connection.execute("SELECT * FROM ledger FOR UPDATE")
        began_s = time.monotonic()
        assert await store.apply([write(2, delta(T0))]) == [Outcome(Verdict.APPLIED)]
        assert 1 < time.monotonic() - began_s < 10
        with suppress(StoreUnavailable):
            await transaction.__aexit__(None, None, None)


# What the server refuses


def report(incident_id: str, document: str = "{}", markdown: str = "") -> Statement:
    parameters = {"incident_id": incident_id, "revision": 1, "created_us": T0, "generator": "rules"}
    return Statement("upsert_report", {**parameters, "document": document, "markdown": markdown})


async def as_user(own: PostgresSettings, name: str, options: str = "", password: str = "") -> str:
    """The address for another user of the database; with a password it has to be right."""
    async with session(own) as connection:
        await connection.execute(f"DROP ROLE IF EXISTS {name}")
        await connection.execute(f"CREATE ROLE {name} LOGIN {options}")
        if password:
            _ask_for_password(Path(await connection.fetchval("SHOW hba_file")), name)
            await connection.execute("SELECT pg_reload_conf()")
            await asyncio.sleep(0.3)
    host = own.dsn.rpartition("@")[2]
    return f"postgresql://{name}{':' if password else ''}{password}@{host}"


def _ask_for_password(hba: Path, name: str) -> None:
    hba.write_text(f"host all {name} 127.0.0.1/32 scram-sha-256\n{hba.read_text()}")


async def test_a_wrong_password(server: Server, own: PostgresSettings) -> None:
    dsn = await as_user(own, "secretive", "PASSWORD 'right-one'", password="hunter2-wrong")
    for call in (PostgresStore.open, migrate, status):
        with pytest.raises(StoreUnavailable, match=r"see user and password of postgres\.dsn") as caught:
            await call(PostgresSettings(dsn))
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:hun/ter2@127.0.0.1:1/db",
        "postgresql://u:hun#ter2@127.0.0.1:1/db",
        "postgresql://u:hun?ter2@127.0.0.1:1/db",
        "postgresql://u:[hunter2@127.0.0.1:1/db",
        "u:hunter2@127.0.0.1:1/db",
        "hunter2",
        "mysql://u:hunter2@127.0.0.1:1/db",
        "postgresql://u:hunter2@127.0.0.1:1/db?sslmode=hunter2",
        "postgresql://u:hunter2@h:port/db",
        f"postgresql://u:hunter2@{'x' * 70}/db",
    ],
)
async def test_an_address_that_is_none(dsn: str) -> None:
    for call in (PostgresStore.open, migrate, status):
        with pytest.raises(ConfigError, match=r"postgres\.dsn cannot be read") as caught:
            await call(PostgresSettings(dsn))
        assert "hun" not in str(caught.value)
        assert caught.value.__suppress_context__


async def test_a_database_that_is_not_there(server: Server, own: PostgresSettings) -> None:
    for call in (PostgresStore.open, migrate, status):
        await refused(lambda call=call: call(PostgresSettings(server.dsn("nowhere"))), "createdb makes it")  # type: ignore[misc]


async def test_a_user_without_rights(server: Server, own: PostgresSettings) -> None:
    dsn = await as_user(own, "powerless")
    await refused(lambda: PostgresStore.open(PostgresSettings(dsn)), "needs rights on the tables")
    await refused(lambda: migrate(PostgresSettings(dsn)), "needs rights on the tables")
    async with session(own) as connection:
        await connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO powerless")
        try:
            async with opened(PostgresSettings(dsn)) as store:
                assert await total(store) == 0
                await refused(lambda: store.apply([write(1, delta(T0))]), "needs rights on the tables")
                await refused(lambda: store.prune(T0), "needs rights on the tables")
        finally:
            await connection.execute("DROP OWNED BY powerless")


async def test_a_server_without_connections_left(server: Server, own: PostgresSettings) -> None:
    dsn = await as_user(own, "limited", "SUPERUSER CONNECTION LIMIT 1")
    async with session(own) as connection:
        await connection.execute("ALTER ROLE limited NOSUPERUSER")
        await connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO limited")
    async with opened(PostgresSettings(dsn)) as store:
        assert await total(store) == 0
        await refused(lambda: PostgresStore.open(PostgresSettings(dsn)), "lower postgres.connections")
        assert await total(store) == 0
    async with session(own) as connection:
        await connection.execute("DROP OWNED BY limited")


async def test_a_database_that_is_read_only_for_a_while(settings: PostgresSettings) -> None:
    name = settings.dsn.rpartition("/")[2]
    async with session(settings) as connection:
        await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        async with opened(settings) as store:
            await refused(lambda: store.apply([write(1, delta(T0))]), "the database is read-only")
            await refused(lambda: store.transact([report("i")]), "the database is read-only")
            await refused(lambda: migrate(settings), "the database is read-only")
            assert await total(store) == 0
            await connection.execute("SET default_transaction_read_only = off")
            await connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
            assert await eventually(lambda: store.apply([write(1, delta(T0))]), 5) == [Outcome(Verdict.APPLIED)]


# Values


@pytest.fixture(params=["sqlite", "postgres"])
async def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """What is promised of values is promised by all."""
    if request.param == "sqlite":
        made = SqliteStore(tmp_path / "store.db")
        yield made
        await made.close()
    else:
        async with fresh_database(request.getfixturevalue("postgres"), timescale=False) as dsn:
            await migrate(PostgresSettings(dsn))
            async with opened(PostgresSettings(dsn)) as store:
                yield store


def bad_deltas() -> Iterator[WindowDelta]:
    for name, value in (("bytes_in", 1 << 63), ("unparsed", 1 << 64), ("start_us", 1 << 63), ("host", "\udc00")):
        made = delta(T0)
        setattr(made, name, value)
        yield made
    made = delta(T0, service="\ud800")
    yield made
    made = delta(T0)
    made.templates.add(Level.ERROR, "text \ud800", id_=5)
    yield made
    made = delta(T0)
    made.levels[Level.INFO] = 1 << 63
    yield made


def bad_writes() -> list[SliceWrite | EventsWrite]:
    found: list[SliceWrite | EventsWrite] = [write(2, one) for one in bad_deltas()]
    changes: tuple[dict[str, Any], ...] = (
        {"message": "text \ud800"},
        {"endpoint": "\udfff"},
        {"trace_id": "\ud800"},
        {"attributes": {"a": "\ud800"}},
        {"latency_us": 1 << 63},
        {"template_id": 1 << 65},
    )
    found += (record(0, replace(event(T0), **changed)) for changed in changes)
    metric = MetricSample("cpu", 1.0, {"a": "\ud800"}, T0, "cart", "h")
    found.append(SliceWrite(BatchId(AGENT, 7, 2), 0, b"c", wire.stored_slice(Slice("cart", 0, metrics=[metric]))))
    return found


@pytest.mark.parametrize("number", range(len(bad_writes())))
async def test_what_can_never_be_stored_is_a_value_error_and_changes_nothing(any_store: Store, number: int) -> None:
    good, bad = write(1, delta(T0)), bad_writes()[number]
    with pytest.raises(ValueError, match=r"\w"):
        await any_store.apply([good, bad])
    assert await total(any_store) == 0
    assert await any_store.apply([good]) == [Outcome(Verdict.APPLIED)]
    assert await any_store.apply([write(3, delta(T0)), record(0, event(T0))]) == [Outcome(Verdict.APPLIED)] * 2
    assert await total(any_store) == 7


@pytest.mark.parametrize(
    "changed",
    [
        {"document": "no JSON"},
        {"document": None},
        {"markdown": "\ud800"},
        {"revision": 1 << 63},
        {"created_us": 1 << 64},
        {"incident_id": None},
    ],
)
async def test_statements_with_such_values_change_nothing(store: PostgresStore, changed: dict[str, Any]) -> None:
    bad = Statement("upsert_report", {**report("i").parameters, **changed})
    with pytest.raises(ValueError, match=r"\w"):
        await store.transact([report("other"), bad])
    assert await store.query("report", incident_id="other") == []
    await store.transact([report("other")])


async def test_texts_of_any_length_are_kept_or_refused_for_ever(store: PostgresStore) -> None:
    long = event(T0, "a", message=RANDOM, trace_id=RANDOM, attributes={RANDOM: RANDOM})
    long = replace(long, endpoint=RANDOM, host=RANDOM)
    assert await store.apply([record(0, long)]) == [Outcome(Verdict.APPLIED)]
    (row,) = await stored_events(store)
    assert row["message"] == row["trace_id"] == row["endpoint"] == RANDOM
    traces = await store.query("traces_of_service", service="cart", **EVER, limit=1)
    assert traces == [{"trace_id": RANDOM}]
    metric = MetricSample(RANDOM, 1.0, {}, T0, "cart", "h")  # its name is in an index: no try can store it
    with pytest.raises(ValueError, match="cannot store it"):
        await store.apply(
            [SliceWrite(BatchId(AGENT, 7, 1), 0, b"c", wire.stored_slice(Slice("cart", 0, metrics=[metric])))]
        )


async def test_nul_is_kept_as_the_replacement_character(settings: PostgresSettings, store: PostgresStore) -> None:
    attributes = {"k\0": "v\0\0", "path": "C:\\u0000", "both": "\\\0\\\\\0", "deep": [{"a": "\0"}]}
    with_nul = event(T0, "a", "a\0b", trace_id="t\0", attributes=attributes)
    literal = event(T0 + 1, "b", "C:\\u0000 and \\\\u0000", trace_id="t")
    one = delta(T0)
    one.templates.add(Level.WARN, "t\0t", id_=9)
    metric = MetricSample("cpu\0", 1.0, {"l\0": "\0"}, T0, "cart", "h\0")
    part = Slice("cart", 0, deltas=[one], metrics=[metric])
    writes = [record(0, with_nul, literal), SliceWrite(BatchId(AGENT, 7, 1), 0, b"c", wire.stored_slice(part))]
    for verdict in (Verdict.APPLIED, Verdict.DUPLICATE):
        assert [outcome.verdict for outcome in await store.apply(writes)] == [verdict] * 2
    (again,) = await store.apply([record(1, with_nul)])
    assert again.duplicates == 1
    rows = await stored_events(store)
    assert [row["message"] for row in rows] == ["a\ufffdb", "C:\\u0000 and \\\\u0000"]
    texts = {row["text"] for row in await store.query("template_counts", service="cart", before_us=0, limit=9, **EVER)}
    assert "t\ufffdt" in texts
    async with session(settings) as connection:
        await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=str, decoder=json.loads)
        kept = await connection.fetchval("SELECT attributes FROM events ORDER BY time LIMIT 1")
        labels = await connection.fetchval("SELECT labels FROM metrics")
    r = "\ufffd"
    assert kept == {f"k{r}": f"v{r}{r}", "path": "C:\\u0000", "both": f"\\{r}\\\\{r}", "deep": [{"a": r}]}
    assert labels == {f"l{r}": r}
    # What is written of it, and asked for.
    await store.transact([report("i\0", '{"report": {"title": "a\\u0000b", "path": "C:\\\\u0000"}}', "# a\0b")])
    (row,) = await store.query("report", incident_id="i\0")
    assert row["markdown"] == "# a\ufffdb"
    assert json.loads(row["document"])["report"] == {"title": f"a{r}b", "path": "C:\\u0000"}
    assert await store.query("events_of_service", service="a\0b", **EVER) == [{"events": 0}]


@pytest.mark.parametrize(
    "when",
    [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(1970, 1, 1, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2000, 1, 1, tzinfo=UTC),
        datetime(2000, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
        datetime(2016, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),  # before a leap second
        datetime(2026, 3, 29, 1, 30, tzinfo=UTC),
        datetime(2096, 2, 29, 12, 34, 56, 654_321, tzinfo=UTC),
        datetime(2100, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2100, 3, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ],
)
async def test_times_are_exact_to_the_microsecond(store: PostgresStore, when: datetime) -> None:
    time_us = to_us(when)
    start_us = time_us // (10 * S) * 10 * S
    assert await store.apply([record(0, event(time_us, "a")), write(1, delta(start_us, 3))])
    (row,) = await stored_events(store)
    assert row["time_us"] == time_us
    (reach,) = await store.query("window_reach", service="cart")
    assert reach == {"first_start_us": start_us, "last_start_us": start_us}
    (again,) = await store.apply([record(1, event(time_us, "a"))])
    assert again.duplicates == 1
    found = await store.query("events_of_service", service="cart", from_us=start_us, to_us=start_us + 1)
    assert found == [{"events": 4}]
    assert await store.query("events_of_service", service="cart", from_us=start_us + 1, to_us=1 << 60) == [
        {"events": 0}
    ]


# Days


async def days(settings: PostgresSettings, table: str) -> int:
    """How many tables a table by day has."""
    async with session(settings) as connection:
        found = await connection.fetchval("SELECT count(*) FROM pg_inherits WHERE inhparent = $1::regclass", table)
        return int(found)


async def test_each_day_is_a_table_of_its_own(settings: PostgresSettings, store: PostgresStore) -> None:
    """Sixty days at once, with both days on which the clocks change."""
    first = datetime(2026, 2, 20, tzinfo=UTC)
    times_us = [to_us(first + timedelta(hours=hour)) for hour in range(60 * 24)]
    events = [event(time_us, f"{time_us}") for time_us in times_us]
    await store.apply([write(1, *(delta(time_us) for time_us in times_us)), record(0, *events)])
    assert await total(store) == 60 * 24 * 4
    for table in ("windows", "window_templates", "events"):
        assert await days(settings, table) == 60
    assert [row["time_us"] for row in await stored_events(store)] == times_us


async def test_metrics_alone_make_their_day(settings: PostgresSettings, store: PostgresStore) -> None:
    metrics = [MetricSample("cpu", float(day), {}, T0 + day * DAY, "", "h") for day in range(3)]
    writes = [MetricsWrite(Partition(Topic.METRICS, 0), 0, MetricRecord("", T0, metrics))]
    for verdict in (Verdict.APPLIED, Verdict.DUPLICATE):
        assert await store.apply(writes) == [Outcome(verdict)]
    async with session(settings) as connection:
        assert await connection.fetchval("SELECT count(*) FROM metrics") == 3
    assert await days(settings, "metrics") == 3


async def test_days_that_are_over_are_dropped_as_a_whole(settings: PostgresSettings, store: PostgresStore) -> None:
    midnight_us = T0 // DAY * DAY
    times_us = [midnight_us + day * DAY + second * S for day in range(-3, 3) for second in (0, 40_000, 86_390)]
    metrics = [MetricSample("cpu", 1.0, {}, time_us, "cart", "h") for time_us in times_us]
    part = Slice("cart", 0, deltas=[delta(time_us) for time_us in times_us], metrics=metrics)
    await store.apply(
        [
            SliceWrite(BatchId(AGENT, 7, 1), 0, b"c", wire.stored_slice(part)),
            record(0, *(event(us, f"{us}") for us in times_us)),
        ]
    )
    await store.transact([report("i"), *(alert(f"a{us}", us) for us in times_us)])
    await store.prune(midnight_us + 40_000 * S)
    kept = [row["time_us"] for row in await stored_events(store)]
    assert kept == [us for us in times_us if us >= midnight_us]
    for table in ("windows", "window_templates", "events", "metrics"):
        assert await days(settings, table) == 3
    assert await total(store) == 9 * 4
    assert len(await store.query("alerts_in_range", **EVER)) == 8  # these are dropped to the microsecond
    assert len(await store.query("report", incident_id="i")) == 1
    await store.prune(midnight_us + 40_000 * S)
    await store.prune(0)
    assert await total(store) == 9 * 4
    await store.prune(midnight_us + 100 * DAY)
    assert await total(store) == 0
    assert await store.query("template_counts", service="cart", before_us=0, limit=9, **EVER) == []
    # What was applied is known for ever.
    again = SliceWrite(BatchId(AGENT, 7, 1), 0, b"c", wire.stored_slice(part))
    assert await store.apply([again]) == [Outcome(Verdict.DUPLICATE)]


def alert(id_: str, decided_us: int) -> Statement:
    parameters = {"id": id_, "service": "cart", "state": "fired", "severity": "low", "decided_us": decided_us}
    return Statement("upsert_anomaly", {**parameters, "document": "{}"})


async def test_a_day_that_was_dropped_is_made_again(settings: PostgresSettings, store: PostgresStore) -> None:
    """By who has dropped it, and by who still believes that it is there. Events, that is: windows do not come back."""
    async with opened(settings) as other:
        for offset in (0, 2, 4):
            await store.apply([record(offset, event(T0, f"{offset}"))])
            assert await eventually(lambda: other.apply([record(offset + 1, event(T0, "other"))]), 5) == [  # noqa: B023
                Outcome(Verdict.APPLIED)
            ]
            assert len(await stored_events(store)) == 2
            await store.prune(T0 + DAY)
            assert await stored_events(other) == []
        assert await eventually(lambda: other.apply([record(6, event(T0, "6"))]), 5) == [Outcome(Verdict.APPLIED)]
        assert await eventually(lambda: store.apply([write(1, delta(T0)), record(7, event(T0, "7"))]), 5)
        assert len(await stored_events(store)) == 2
        assert await total(store) == 0


async def test_pruning_and_writing_go_on_together(settings: PostgresSettings, store: PostgresStore) -> None:
    async with opened(settings) as other:
        ending = asyncio.Event()

        async def pruning() -> int:
            for turn in itertools.count():
                if ending.is_set():
                    return turn
                await other.prune(T0)
                await asyncio.sleep(0.05)
            raise AssertionError

        async def writing(number: int) -> None:
            for sequence in range(1, 13):
                deltas = [delta(T0 - 3 * DAY), delta(T0 + DAY)]
                agent = bytes([number]) * 16
                old = event(T0 - 2 * DAY, f"{number}-{sequence}")
                writes = [write(sequence, *deltas, agent=agent), record(sequence, old, partition=number)]
                outcomes = await eventually(lambda: store.apply(writes))  # noqa: B023
                assert {outcome.verdict for outcome in outcomes} == {Verdict.APPLIED}

        task = asyncio.create_task(pruning())
        await asyncio.gather(*map(writing, range(4)))
        ending.set()
        assert await task > 1
        await store.prune(T0)
        assert await total(store) == 4 * 12 * 3
    assert await deadlocks(settings) == 0


async def test_a_reader_that_does_not_end_holds_up_neither_pruning_nor_writing(
    settings: PostgresSettings, store: PostgresStore
) -> None:
    """As `pg_dump` reads: the day that it holds goes at the next time."""
    await store.apply([write(1, delta(T0), delta(T0 + DAY)), record(0, event(T0))])
    async with session(settings) as reading, reading.transaction(isolation="repeatable_read"):
        await reading.fetch("SELECT * FROM windows")
        began_s = time.monotonic()
        pruning = asyncio.create_task(store.prune(T0 + DAY))
        await asyncio.sleep(0.1)
        await store.apply([write(2, delta(T0 + DAY))])
        await pruning
        assert time.monotonic() - began_s < 15
        assert await store.query("totals_in_range", **EVER) != []
    await store.prune(T0 + DAY)
    assert await total(store) == 6
    assert await days(settings, "windows") == 1


async def test_timescale_that_comes_after_the_migration_changes_nothing(postgres: str) -> None:
    async with fresh_database(postgres, timescale=False) as dsn:
        settings = PostgresSettings(dsn)
        await migrate(settings)
        async with session(settings) as connection:
            if not await connection.fetchval("SELECT count(*) FROM pg_available_extensions WHERE name = 'timescaledb'"):
                pytest.skip("the server has no TimescaleDB: its packages and its source are at docs.timescale.com")
        async with session(settings) as connection:
            await connection.execute("CREATE EXTENSION timescaledb")
        async with opened(settings) as store:
            await store.apply([write(1, delta(T0), delta(T0 + DAY))])
            await store.prune(T0 + DAY)
            assert await total(store) == 3


async def test_a_day_is_made_whatever_the_session_writes_dates_like(settings: PostgresSettings) -> None:
    name = settings.dsn.rpartition("/")[2]
    async with session(settings) as connection:
        await connection.execute(f"ALTER DATABASE {name} SET DateStyle = 'SQL, DMY'")
        await connection.execute(f"ALTER DATABASE {name} SET TimeZone = 'Europe/Berlin'")
    async with opened(settings) as store:
        await store.apply([write(1, delta(to_us(datetime(2026, 3, 2, tzinfo=UTC)))), record(0, event(T0))])
        await store.prune(to_us(datetime(2026, 3, 2, 23, 59, tzinfo=UTC)))
        assert await total(store) == 4
        await store.prune(to_us(datetime(2026, 3, 3, tzinfo=UTC)))
        assert await total(store) == 0


# The end


async def test_closing_waits_for_what_is_under_way(settings: PostgresSettings) -> None:
    store = await PostgresStore.open(settings)
    applying = [asyncio.create_task(store.apply([write(i, delta(T0), agent=bytes([i]) * 16)])) for i in range(1, 5)]
    await asyncio.sleep(0.01)
    await asyncio.gather(store.close(), store.close())
    found = await asyncio.gather(*applying, return_exceptions=True)
    await store.close()
    for call in (
        lambda: store.query("totals"),
        lambda: store.apply([write(9, delta(T0))]),
        lambda: store.transact([report("i")]),
        lambda: store.prune(0),
    ):
        await refused(call, "the store is closed", within_s=1)
    async with opened(settings) as again:
        applied = [one for one in found if not isinstance(one, BaseException)]
        assert await total(again) == 3 * len(applied)
        assert all(isinstance(one, StoreUnavailable) for one in found if isinstance(one, BaseException))


async def test_a_schema_that_is_taken_away_is_said(settings: PostgresSettings, store: PostgresStore) -> None:
    async with session(settings) as connection:
        await connection.execute("DROP TABLE incidents")
    with pytest.raises(StoreMismatch, match="`helios db migrate`"):
        await store.query("incident_states")


async def test_nothing_to_apply_is_applied(store: PostgresStore) -> None:
    assert await store.apply([]) == []
    await store.transact([])
    for verdict in (Verdict.APPLIED, Verdict.DUPLICATE):  # a heartbeat has an identity, and nothing else
        assert await store.apply([write(1), record(0)]) == [Outcome(verdict)] * 2
    assert await total(store) == 0
