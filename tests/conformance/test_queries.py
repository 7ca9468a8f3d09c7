"""Every query gives the same rows in every engine, in the same order where it has one."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from tests.engines.fixtures import fresh_database

import helios_sql
from helios_core import wire
from helios_core.batches import BatchId, Slice
from helios_core.bus.base import Partition, Topic
from helios_core.clock import to_us
from helios_core.model import Event, EventRecord, Level, MetricSample, Signal
from helios_core.store.base import EventsWrite, Row, SliceWrite, Statement, Store
from helios_core.store.postgres.migrate import migrate
from helios_core.store.postgres.settings import PostgresSettings
from helios_core.store.postgres.store import PostgresStore
from helios_core.store.rows import signed64
from helios_core.store.sqlite import SqliteStore
from helios_core.windows import WindowDelta

pytestmark = pytest.mark.engines

# What each engine does in its own way, inside of `apply` and `prune`.
ONLY_SQLITE: Final = {
    *("event_hash", "ledger_state", "position", "oldest_time"),
    *("pending_minutes", "pending_of", "delete_pending", "touch_rollup"),
    *("insert_event", "insert_metric", "insert_window", "insert_window_template"),
    *("upsert_ledger", "upsert_position", "upsert_template"),
    *("prune_anomalies", "prune_events", "prune_metrics"),
    *("prune_templates", "prune_window_templates", "prune_windows"),
}
ONLY_POSTGRES: Final = {
    *("event_hashes", "claim_ledgers", "ledger_states", "claim_positions", "positions", "schema_version"),
    *("make_days", "prune", "save_ledger", "save_position", "upsert_templates"),
    *("claim_pending", "claim_pending_of", "claim_all_pending", "lock_rollups", "touch_rollups"),
}
STATEMENTS: Final = {"upsert_anomaly", "upsert_incident", "upsert_report", "delete_incident", "delete_reports"}

# Their order is that of the bytes; a locale has another one for each of these pairs.
SERVICES: Final = (
    *("B", "a", "Z", "b", "é", "f", "_overflow", "cart", "Cart", "ca rt", "ca-rt", "checkout-1", "checkout_1"),
    *("checkout", "10", "9", "日本", "ß", "ss", "\uff5e", "😀", "it's", 'a"b', "a%b", ":from_us"),
)
HOSTS: Final = ("h1", "H2", "hôte")
T0: Final = to_us(datetime(2026, 3, 28, 23, 0, tzinfo=UTC))  # two hours later, clocks change in Europe
S: Final = 1_000_000
HOUR: Final = 3_600 * S
FAR: Final = 1 << 62  # as the console asks
EVER: Final = {"from_us": 0, "to_us": T0 + 1_000 * HOUR}
RANGES: Final = (
    EVER,
    {"from_us": T0, "to_us": T0 + HOUR},
    {"from_us": T0 + 10 * S, "to_us": T0 + 10 * S},  # empty
    {"from_us": T0 + 10 * S, "to_us": T0 + 10 * S + 1},  # from inclusive, to exclusive
    {"from_us": T0 + 5 * S, "to_us": T0 + 10 * S},
    {"from_us": T0 + HOUR, "to_us": T0 + 2 * HOUR},
    {"from_us": T0 + 2 * HOUR, "to_us": T0 + HOUR},  # the wrong way round
    {"from_us": -HOUR, "to_us": 0},
    {"from_us": 0, "to_us": FAR},
)
NAMES: Final = (*SERVICES[:9], "日本", "😀", "it's", ":from_us", "unknown", "")
LIMITS: Final = (0, 1, 3, 1_000)
INCIDENTS: Final = 40
TEMPLATES: Final = tuple(f"no item <*> in «{name}»" for name in ("a", "B", "é", "日", "\\u0041", '"'))

# Queries whose rows of one time, or all of whose rows, come in any order.
TIES: Final = {
    "window_rows_of_service": "start_us",
    "window_counts_of_service": "start_us",
    "rollup_counts_of_service": "start_us",
    "samples_of_template": "time_us",
    "traces_of_service": None,
}


# Of the rolling up, which test_rollups.py checks.
ROLLING: Final = {"windows_of_minutes", "rollups_of_buckets", "upsert_rollup", "prune_rollups", "advance_raw_from"}


def of_services(**more: Any) -> list[dict[str, Any]]:
    return [{"service": name, **interval, **more} for name in NAMES for interval in RANGES]


def incident_id(number: int) -> str:
    return f"{'Aaé_Z-'[number % 6]}{number:02d}"


CALLS: Final[dict[str, list[dict[str, Any]]]] = {
    "alerts_in_range": [dict(interval) for interval in RANGES],
    "events_of_service": of_services(),
    "incident": [{"id": incident_id(number)} for number in range(INCIDENTS)] + [{"id": "none"}, {"id": ""}],
    "incident_states": [{}],
    "incidents_before": [
        {"before_us": before_us, "limit": limit} for before_us in (0, T0 + HOUR, FAR) for limit in LIMITS
    ],
    "incidents_latest": [{"limit": limit} for limit in LIMITS],
    "incidents_of_service_in_range": [
        {**parameters, "limit": limit} for parameters in of_services() for limit in (2, 1_000)
    ],
    "incidents_open": [{"limit": limit} for limit in LIMITS],
    "incidents_page": [
        {"state": state, "service": service, "before_us": before_us, "before_id": before_id, "limit": limit}
        for state in ("", "open", "triggered", "acknowledged", "resolved")
        for service in ("", *NAMES)
        for before_us, before_id in ((FAR, ""), (T0 + 600 * S, incident_id(4)), (T0 + 600 * S, ""), (0, ""))
        for limit in (1, 501)
    ],
    "incidents_recent": [
        {"ids": json.dumps(ids, ensure_ascii=ascii_only), "limit": limit}
        for ids in ([], [incident_id(2)], [incident_id(number) for number in range(0, INCIDENTS, 3)], ["none", "é"])
        for ascii_only in (True, False)
        for limit in (0, 50)
    ],
    "incidents_to_know": [{"limit": limit} for limit in LIMITS],
    "report": [{"incident_id": incident_id(number)} for number in range(INCIDENTS)] + [{"incident_id": "none"}],
    "raw_from": [{}],
    "rollup_counts_of_service": of_services(step_s=60) + of_services(step_s=3_600),
    "rollup_reach": [{"service": name} for name in NAMES],
    "samples_of_template": [
        {**parameters, "template_id": template_id, "limit": limit}
        for parameters in of_services()
        for template_id in (signed64(number) for number in (0, 1, 1 << 63, (1 << 64) - 1))
        for limit in (3, 1_000)
    ],
    "services_in_range": [dict(interval) for interval in RANGES],
    "services_known": [{"limit": limit} for limit in LIMITS],
    "template_counts": [
        {**parameters, "before_us": parameters["from_us"] - HOUR, "limit": limit}
        for parameters in of_services()
        for limit in (2, 200)
    ],
    "totals": [{}],
    "totals_in_range": [dict(interval) for interval in RANGES],
    "traces_of_service": of_services(limit=2_000),
    "window_counts_of_service": of_services(),
    "window_durations_of_service": of_services(),
    "window_reach": [{"service": name} for name in NAMES],
    "window_rows_of_service": of_services(),
}


def test_no_query_is_missing_in_an_engine() -> None:
    sqlite, postgres = (set(helios_sql.query_names(engine)) for engine in ("sqlite", "postgres"))
    assert sqlite - postgres == ONLY_SQLITE
    assert postgres - sqlite == ONLY_POSTGRES


def test_every_query_is_asked_here() -> None:
    assert set(CALLS) | STATEMENTS | ROLLING == set(helios_sql.query_names("sqlite")) - ONLY_SQLITE


def deltas(rng: random.Random) -> Iterator[WindowDelta]:
    for service in SERVICES:
        for host in rng.sample(HOSTS, rng.randint(1, 3)):
            for number in sorted(rng.sample(range(1_500), 12)):
                signal = Signal.SPAN if number % 5 == 0 else Signal.LOG
                duration_ms = 60_000 if service == "cart" and number % 6 == 0 else 10_000
                delta = WindowDelta(T0 + number * 10 * S, service, host, signal, duration_ms)
                delta.levels = [rng.randrange(0, 1 << rng.choice((1, 8, 40))) for _ in Level]
                delta.unparsed = rng.randrange(3)
                delta.bytes_in = rng.randrange(1 << 40)
                if number % 3:
                    delta.latency.add([rng.randrange(1, 10_000_000) for _ in range(20)])
                    delta.endpoints.add_hashes([rng.getrandbits(64) for _ in range(rng.randrange(1, 200))])
                for text in rng.sample(TEMPLATES, rng.randrange(4)):
                    delta.templates.add(rng.choice((Level.WARN, Level.ERROR)), text)
                delta.templates.overflow = rng.randrange(2)
                yield delta


def event(rng: random.Random, service: str, number: int, **more: Any) -> Event:
    return Event(
        time_us=T0 + number * 7 * S + rng.randrange(1_000_000),
        service=service,
        level=rng.choice(list(Level)),
        message=rng.choice(("no item 17", "ünïcode 😀 \t\n", "", "it's :from_us", "x" * 5_000, '{"a": 1}')),
        latency_us=rng.choice((None, 0, 1_500)),
        endpoint=rng.choice(("", "/items/17")),
        trace_id=rng.choice(("", f"trace-{rng.randrange(9)}")),
        host=rng.choice(HOSTS),
        attributes=rng.choice(({}, {"a": [1, 1.5, None, "é"], "b": {"c": True}})),
        **more,
    )


def writes(rng: random.Random) -> Iterator[SliceWrite | EventsWrite]:
    for sequence, delta in enumerate(deltas(rng), 1):
        samples = [
            event(rng, delta.service, sequence * 10 + i, template_id=rng.choice((0, 1, 1 << 63, (1 << 64) - 1)))
            for i in range(rng.randrange(3))
        ]
        for sample in samples:
            sample.counted = True
        metrics = [MetricSample("cpu", rng.random(), {"core": "é"}, delta.start_us, delta.service, delta.host)]
        part = Slice(delta.service, 0, deltas=[delta], samples=samples, metrics=metrics)
        yield SliceWrite(BatchId(b"0123456789abcdef", 7, sequence), 0, b"some-content", wire.stored_slice(part))
    for offset, service in enumerate(SERVICES * 3):
        found = [event(rng, service, offset * 3 + i, id=rng.choice(("", f"id-{offset}-{i}"))) for i in range(5)]
        found += [one for one in found if one.id and rng.random() < 0.3]  # sent twice
        yield EventsWrite(Partition(Topic.EVENTS, offset % 2), offset, EventRecord(service, T0, found))


def statements(rng: random.Random) -> Iterator[Statement]:
    for number in range(60):
        document = {"id": number, "score": rng.choice((0.5, 1e-300, 1e300, 1.0, 3, None)), "text": "é 😀 \\u0041"}
        yield Statement(
            "upsert_anomaly",
            {
                "id": f"{'aB_é'[number % 4]}{number % 50}",  # ten come twice: the first stays
                "service": rng.choice(SERVICES),
                "state": "fired",
                "severity": "high",
                "decided_us": T0 + number // 3 * 600 * S,
                "document": json.dumps(document),
            },
        )
    for turn in range(2):  # the second time some are as they were, some have changed
        for number in range(INCIDENTS):
            state = rng.choice(("triggered", "acknowledged", "resolved"))
            members = [{"service": name, "alerts": []} for name in rng.sample(SERVICES, rng.randrange(4))]
            opened_us = T0 + number // 3 * 300 * S
            yield Statement(
                "upsert_incident",
                {
                    "id": incident_id(number),
                    "state": state,
                    "severity": rng.choice(("low", "critical")),
                    "opened_us": opened_us,
                    "updated_us": opened_us + number + turn,  # at no time two
                    "resolved_us": opened_us + HOUR if state == "resolved" else None,
                    "document": json.dumps({"id": incident_id(number), "members": members}),
                },
            )
    for number in range(0, INCIDENTS, 2):
        for revision in range(1, rng.randrange(2, 4)):
            report: dict[str, Any] = {"title": f"é {number}", "summary": [{"text": f"«{revision}»"}, {"text": "no"}]}
            if number % 8 == 0:
                report["summary"] = []
            if number % 10 == 0:
                del report["title"]
            yield Statement(
                "upsert_report",
                {
                    "incident_id": incident_id(number),
                    "revision": revision,
                    "created_us": T0 + number * S + revision,
                    "generator": "rules",
                    "document": json.dumps({"report": report, "evidence": [1.5, None]}),
                    "markdown": f"# {number}\n\n*é* 😀",
                },
            )
    for kind in ("reports", "incident"):
        yield Statement(f"delete_{kind}", {"incident_id": incident_id(6)})


async def fill(store: Store) -> None:
    """The same in every engine, and everything is sent twice."""
    made, changes = list(writes(random.Random(5))), list(statements(random.Random(6)))
    for start in range(0, len(made), 100):
        for _ in range(2):
            await store.apply(made[start : start + 100])
    await store.transact(changes)
    await store.transact(changes)
    for _ in range(3):  # and some is left
        await store.roll_up(T0 + 3 * HOUR, 100)


@pytest.fixture(scope="module", params=["plain", "timescale"])
def databases(request: pytest.FixtureRequest, postgres: str) -> Iterator[tuple[str, str]]:
    """The addresses of an empty and a full database, whose locale has an order of its own."""

    async def prepare(stack: AsyncExitStack, *, full: bool) -> str:
        timescale = request.param == "timescale"
        options = "LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C.UTF-8' ENCODING 'UTF8'"
        dsn = await stack.enter_async_context(fresh_database(postgres, timescale=timescale, options=options))
        await migrate(PostgresSettings(dsn))
        if full:
            store = await PostgresStore.open(PostgresSettings(dsn))
            await fill(store)
            await store.close()
        return dsn

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            empty, full = (runner.run(prepare(stack, full=full)) for full in (False, True))
            yield empty, full
        finally:
            runner.run(stack.aclose())


@pytest.fixture(params=["empty", "full"])
async def stores(request: pytest.FixtureRequest, databases: tuple[str, str]) -> AsyncIterator[tuple[Store, Store]]:
    """SQLite, which says what is right, and the other engine with the same in it."""
    is_full = request.param == "full"
    ours: Store = SqliteStore(":memory:")
    if is_full:
        await fill(ours)
    theirs = await PostgresStore.open(PostgresSettings(databases[is_full]))
    yield ours, theirs
    await theirs.close()
    await ours.close()


def plain(row: Row) -> dict[str, Any]:
    """JSON as what it says: white space, the order of keys and `1e3` or `1000` are the engine's own."""
    decoded = {
        name: json.loads(row[name], parse_int=float) for name in ("document", "levels") if row.get(name) is not None
    }
    return {**row, **decoded}


def compared(name: str, rows: Sequence[Row]) -> list[Any]:
    found: list[Mapping[str, Any]] = [plain(row) for row in rows]
    if name not in TIES:
        return [list(row.items()) for row in found]  # the order of columns, too
    column = TIES[name]
    if column is not None:
        times = [row[column] for row in found]
        assert times == sorted(times)
    return sorted([repr(list(row.items())) for row in found])


@pytest.mark.parametrize("name", CALLS)
async def test_a_query_gives_the_same_rows(name: str, stores: tuple[Store, Store]) -> None:
    ours, theirs = stores
    rows = 0
    for parameters in CALLS[name]:
        expected = await ours.query(name, **parameters)
        found = await theirs.query(name, **parameters)
        assert compared(name, found) == compared(name, expected), parameters
        for one, other in zip(found[:1], expected[:1], strict=True):
            assert [type(value) for value in one.values()] == [type(value) for value in other.values()], parameters
        rows += len(expected)
    (totals,) = await ours.query("totals")
    assert rows > 0 or not totals["events"]  # with data every query has found some


async def test_a_day_is_dropped_in_both(stores: tuple[Store, Store]) -> None:
    """Run last: retention leaves the same windows."""
    midnight_us = T0 + HOUR
    for store in stores:
        await store.prune(midnight_us)
    ours, theirs = [
        await store.query("window_rows_of_service", service=service, **EVER)
        for store in stores
        for service in ("cart",)
    ]
    assert compared("window_rows_of_service", theirs) == compared("window_rows_of_service", ours)
    assert all(row["start_us"] >= midnight_us for row in theirs)
    for name in ("services_in_range", "totals_in_range"):
        first, second = [compared(name, await store.query(name, **EVER)) for store in stores]
        assert first == second
