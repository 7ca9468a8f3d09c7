"""How each query of PostgreSQL is carried out on a store of several days: what it reads, and of which days."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from tests.engines.fixtures import fresh_database

import helios_sql
from helios_core.clock import to_us
from helios_core.store.postgres.migrate import Connection, migrate
from helios_core.store.postgres.settings import PostgresSettings
from helios_core.store.postgres.store import PostgresStore, _prepared

pytestmark = [pytest.mark.engines, pytest.mark.slow]

S: Final = 1_000_000
HOUR: Final = 3_600 * S
DAY: Final = 24 * HOUR
BY_DAY: Final = ("windows", "window_templates", "events", "metrics")
T0: Final = to_us(datetime(2026, 3, 2, tzinfo=UTC))
FAR: Final = 1 << 60
DAYS: Final = 5  # the first three of which TimescaleDB has compressed
SERVICES: Final = 8
HOSTS: Final = 2
EVERY_S: Final = 20  # windows: 345,600 rows
EVENTS_A_DAY: Final = 14_400
PER_HOUR: Final = HOSTS * 3_600 // EVERY_S  # rows of `windows` of a service in an hour
LARGE: Final = 4_000  # rows of a table that is not to be read from its beginning to its end
BATCH: Final = 1_000  # rows that are compressed together
HOUR_OF_ALL: Final = SERVICES * PER_HOUR  # one index is by time alone: the planner may take it
INCIDENTS: Final = 6_000
NO_PLAN: Final = {"make_days", "prune"}  # procedures
# What reads a table as a whole: when a replay ends; at a start, and once an hour; of the answer to who asks for health.
WHOLE: Final = {"totals", "incidents_before", "incidents_to_know", "incident_states"}


@dataclass(frozen=True)
class Asked:
    """A query as it is asked in operation.

    Attributes:
        reads: so many rows of the tables at most, whether they are returned or not.
        days: of the tables by day it may touch these; None is all, of each of which it may seek an end.
    """

    parameters: Mapping[str, Any]
    reads: int
    days: frozenset[int] | None = frozenset()


def hour(day: int, **more: Any) -> dict[str, Any]:
    from_us = T0 + day * DAY + 10 * HOUR
    return {"service": "service-3", "from_us": from_us, "to_us": from_us + HOUR, **more}


def cases(name: str) -> list[Asked]:
    """Of what is kept by day once of a day that is compressed, and once of one that is not."""
    if name in ALONE:
        reads = DAYS * SERVICES * 10_000 if name in WHOLE else READS.get(name, 400)
        return [Asked(ALONE[name], reads, None if name in (*SEEKS, *WHOLE) else frozenset())]
    found = []
    for day in (1, 4):
        at = hour(day)
        minutes = [at["from_us"] + minute * 60 * S for minute in range(10)]
        asked: dict[str, tuple[Mapping[str, Any], int]] = {
            "event_hashes": ({"times": minutes, "keys": [bytes(16)] * 10}, 10 * SERVICES * BATCH),
            "events_of_service": (at, HOUR_OF_ALL),
            "samples_of_template": ({**at, "template_id": 7, "limit": 3}, 2 * BATCH),
            "services_in_range": (at, SERVICES * 2 * BATCH),
            "template_counts": ({**at, "before_us": at["from_us"] - HOUR, "limit": 200}, 6 * BATCH),
            "totals_in_range": (at, SERVICES * 2 * BATCH),
            "traces_of_service": ({**at, "limit": 2_000}, 2 * BATCH),
            "window_counts_of_service": (at, HOUR_OF_ALL),
            "window_durations_of_service": (at, HOUR_OF_ALL),
            "window_rows_of_service": (at, HOUR_OF_ALL),
            "windows_of_minutes": ({"services": ["service-3"] * 10, "starts": minutes}, 10 * 2 * BATCH),
        }
        assert name in asked, f"{name} is new: say here with which parameters it is asked, and how much it may read"
        found.append(Asked(*asked[name], frozenset({day})))
    return found


_MINUTES: Final = {
    "services": ["service-3"] * 10,
    "starts": [T0 + 4 * DAY + minute * 60 * S for minute in range(10)],
}
_LEDGER: Final = {"agent_id": bytes(16), "incarnation": bytes(8), "partition": 3}
_LEDGERS: Final = {"agents": [bytes(16)], "incarnations": [bytes(8)], "partitions": [3]}
_REPORT: Final = {"incident_id": "i00017", "revision": 2, "created_us": T0, "generator": "rules", "document": "{}"}
_INCIDENT: Final = {"id": "i00017", "state": "resolved", "severity": "low", "opened_us": T0, "updated_us": T0}
_ROLLUP: Final = {
    **dict.fromkeys(("events", "errors", "warnings", "unparsed", "bytes_in", "latency_count", "latency_sum_us"), 1),
    "levels": "[0,0,1,0,0,0]", "latency": None, "endpoints": None, "templates_overflow": 0,
    "step_s": 60, "start_us": T0, "service": "service-3", "signal": 1,
}  # fmt: skip
ALONE: Final[dict[str, Mapping[str, Any]]] = {
    "advance_raw_from": {"before_us": T0},
    "alerts_in_range": hour(4),
    "claim_all_pending": {"until_us": FAR, "limit": 50},
    "claim_ledgers": _LEDGERS,
    "claim_pending": {"until_us": FAR, "limit": 50},
    "claim_pending_of": _MINUTES,
    "claim_positions": {"topics": ["events"], "partitions": [3]},
    "delete_incident": {"incident_id": "i00017"},
    "delete_reports": {"incident_id": "i00017"},
    "incident": {"id": "i00017"},
    "incident_states": {},
    "incidents_before": {"before_us": T0 + HOUR, "limit": 50},
    "incidents_latest": {"limit": 50},
    "incidents_of_service_in_range": {**hour(4), "limit": 200},
    "incidents_open": {"limit": 1_000},
    "incidents_page": {"state": "", "service": "", "before_us": FAR, "before_id": "", "limit": 101},
    "incidents_recent": {"ids": '["i00017"]', "limit": 50},
    "incidents_to_know": {"limit": 200},
    "ledger_states": _LEDGERS,
    "lock_rollups": {"services": ["service-3"]},
    "positions": {"topics": ["events"], "partitions": [3]},
    "prune_rollups": {"step_s": 3_600, "before_us": T0 + HOUR},
    "raw_from": {},
    "report": {"incident_id": "i00017"},
    "rollup_counts_of_service": {**hour(4), "step_s": 60},
    "rollup_reach": {"service": "service-3"},
    "rollups_of_buckets": {**_MINUTES, "step_s": 60, "width_s": 300},
    "save_ledger": {**_LEDGER, "state": b""},
    "save_position": {"next_offset": 1, "topic": "events", "partition": 3},
    "schema_version": {},
    "services_known": {"limit": 10_000},
    "totals": {},
    "touch_rollups": _MINUTES,
    "upsert_anomaly": {
        "id": "new", "service": "cart", "state": "fired", "severity": "low", "decided_us": T0, "document": "{}",
    },
    "upsert_incident": {**_INCIDENT, "resolved_us": None, "document": "{}"},
    "upsert_report": {**_REPORT, "markdown": ""},
    "upsert_rollup": _ROLLUP,
    "upsert_templates": {
        "service": ["service-3"], "template_id": [7], "level": [4], "text": ["x"], "start_us": [T0],
    },
    "window_reach": {"service": "of which there is nothing"},
}  # fmt: skip
SEEKS: Final = {"services_known", "window_reach"}  # the first and the last row, whatever their day
READS: Final = {"services_known": 4 * BATCH * SERVICES, "window_reach": 4 * BATCH, "incidents_page": 4 * 101}

# One service is gone since the first day.
FILL: Final = f"""
CREATE TEMP VIEW spans AS
SELECT to_timestamp({T0 // S}) AS first, to_timestamp({(T0 + DAYS * DAY) // S}) - interval '1 us' AS last;
INSERT INTO windows
SELECT at, 10000, 'service-' || s, 'host-' || h, 1, 6, 0, 0, '{{0,0,6,0,0,0}}', 0, 1200, 6, 100000,
    decode(md5(s::text || at), 'hex') || decode(md5(h::text || at), 'hex'), int8send(s), 0
FROM spans, generate_series(first, last, interval '{EVERY_S} s') AS at, generate_series(1, {SERVICES}) AS s,
    generate_series(1, {HOSTS}) AS h;
INSERT INTO windows
SELECT first, 10000, 'gone', 'host', 1, 1, 0, 0, '{{0,0,1,0,0,0}}', 0, 100, 0, 0, NULL, NULL, 0 FROM spans;
INSERT INTO window_templates
SELECT 'service-' || s, t, at, 2
FROM spans, generate_series(first, last, interval '1 minute') AS at, generate_series(1, {SERVICES}) AS s,
    generate_series(6, 8) AS t;
INSERT INTO templates
SELECT 'service-' || s, t, 4, 'no item', now(), now()
FROM generate_series(1, {SERVICES}) AS s, generate_series(1, 50) AS t;
INSERT INTO events
SELECT first + i * interval '{86_400 // EVENTS_A_DAY} s', 'service-' || i % {SERVICES} + 1, 4, 'no item ' || i, 1500,
    '/items', 't' || i % 999, '', 'host-1', 1, '{{}}', 6 + i % 3, 1,
    decode(md5(i::text), 'hex'), decode(md5('content' || i), 'hex')
FROM spans, generate_series(0, {DAYS * EVENTS_A_DAY - 1}) AS i;
INSERT INTO rollups
SELECT step_s, at, 'service-' || s, 1, 36, 0, 0, '{{0,0,36,0,0,0}}', 0, 7200, 36, 600000, NULL, NULL, 0
FROM spans, (VALUES (60), (300), (3600)) AS steps (step_s), generate_series(1, {SERVICES}) AS s,
    generate_series(first, last, interval '1 s' * step_s) AS at;
INSERT INTO rollup_pending (service, start_time)
SELECT service, start_time FROM rollups WHERE step_s = 60 AND service > 'service-5'
UNION ALL SELECT 'gone', first FROM spans;
INSERT INTO anomalies
SELECT 'a' || i, 'service-1', 'fired', 'low', first + i * (last - first) / 20000, '{{}}'
FROM spans, generate_series(0, 19999) AS i;
INSERT INTO incidents
SELECT 'i' || lpad(i::text, 5, '0'), CASE WHEN i < {INCIDENTS - 20} THEN 'resolved' ELSE 'triggered' END, 'low',
    first + i * (last - first) / {INCIDENTS}, last,
    CASE WHEN i < {INCIDENTS - 20} THEN first + i * (last - first) / {INCIDENTS} END,
    '{{"members": [{{"service": "service-3"}}]}}'
FROM spans, generate_series(0, {INCIDENTS - 1}) AS i;
INSERT INTO reports SELECT id, 1, opened_at, 'rules', '{{}}', '' FROM incidents;
"""


@dataclass(frozen=True)
class Full:
    """A store that is full, and the day of each of its tables by day."""

    store: PostgresStore
    days: Mapping[str, int]


async def filled(stack: AsyncExitStack, server: str, *, timescale: bool) -> Full:
    dsn = await stack.enter_async_context(fresh_database(server, timescale=timescale))
    await migrate(PostgresSettings(dsn))
    store = await PostgresStore.open(PostgresSettings(dsn), command_s=300)
    stack.push_async_callback(store.close)
    async with store._connection() as connection:
        dates = [datetime.fromtimestamp((T0 + day * DAY) / S, UTC).date() for day in range(DAYS)]
        await connection.execute("CALL helios_make_days($1::text[]::date[])", [date.isoformat() for date in dates])
        await connection.execute(FILL)
        if not timescale:
            await connection.execute("VACUUM ANALYZE")
            return Full(store, {f"{table}_{date:%Y%m%d}": day for day, date in enumerate(dates) for table in BY_DAY})
        for table in BY_DAY:
            await connection.execute(
                f"SELECT compress_chunk(c) FROM show_chunks('{table}', older_than => $1::timestamptz) AS c",
                T0 + 3 * DAY,
            )
        await connection.execute("VACUUM ANALYZE")
        rows = await connection.fetch("SELECT chunk_name, range_start FROM timescaledb_information.chunks")
        return Full(store, {row["chunk_name"]: (row["range_start"] - T0) // DAY for row in rows})


@pytest.fixture(scope="module", params=["plain", "timescale"])
def full(request: pytest.FixtureRequest, postgres: str) -> Iterator[tuple[asyncio.Runner, Full]]:
    """It lives in a loop of its own, which all tests share."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            yield runner, runner.run(filled(stack, postgres, timescale=request.param == "timescale"))
        finally:
            runner.run(stack.aclose())


async def scans(connection: Connection, name: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What of a plan reads tables, as it was carried out; nothing is changed."""
    text, arguments = _prepared(name, parameters)
    transaction = connection.transaction()
    await transaction.start()
    try:
        found = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT json) {text}", *arguments))
    finally:
        await transaction.rollback()
    nodes = [found[0]["Plan"]]
    for node in nodes:  # it grows
        nodes += node.get("Plans", ())
    return [
        node for node in nodes
        if "Relation Name" in node and node["Node Type"] != "ModifyTable" and node["Actual Loops"]
    ]  # fmt: skip


def rows_read(node: Mapping[str, Any]) -> float:
    """Those that were thrown away, too."""
    removed = sum(node.get(f"Rows Removed by {why}", 0) for why in ("Filter", "Index Recheck"))
    return float((node["Actual Rows"] + removed) * node["Actual Loops"])


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("name", sorted(set(helios_sql.query_names("postgres")) - NO_PLAN))
def test_a_query_reads_little_more_than_it_is_asked_for(
    name: str, mode: str, full: tuple[asyncio.Runner, Full]
) -> None:
    """Planned for its parameters, as the first times, and for any, as PostgreSQL may do from the sixth time on."""
    runner, store = full

    async def look() -> None:
        async with store.store._connection() as connection:
            await connection.execute(f"SET plan_cache_mode = {mode}")
            for asked in cases(name):
                found = await scans(connection, name, asked.parameters)
                own = [node for node in found if not node["Relation Name"].startswith("compress_hyper_")]
                whole = {
                    node["Relation Name"] for node in found
                    if node["Node Type"] == "Seq Scan" and rows_read(node) > LARGE and name not in WHOLE
                }  # fmt: skip
                assert not whole, "read from the beginning to the end"
                days = {store.days[node["Relation Name"]] for node in own if node["Relation Name"] in store.days}
                assert asked.days is None or days <= asked.days
                assert sum(map(rows_read, own)) <= asked.reads

    runner.run(look())
