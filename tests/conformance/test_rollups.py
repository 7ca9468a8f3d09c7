"""Rollups agree with their windows to the last count, whatever comes late, and after the windows are dropped."""

from __future__ import annotations

import asyncio
import random
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import helios_sql
from helios.v1 import windows_pb2
from helios_core import wire
from helios_core.batches import BatchId, Slice
from helios_core.bus.base import Partition, Topic
from helios_core.model import Event, EventRecord, Level, Signal
from helios_core.sketches.latency import RELATIVE_ERROR, LatencyHistogram
from helios_core.store.base import EventsWrite, SliceWrite, Statement, Store
from helios_core.store.ledger import Verdict
from helios_core.store.postgres.store import PostgresStore, _prepared
from helios_core.store.rolling import STEPS_S
from helios_core.store.sqlite import SqliteStore
from helios_core.windows import WindowDelta

S = 1_000_000
DAY = 86_400 * S
T0 = 1_772_445_600_000_000 // DAY * DAY + 30 * DAY
FOREVER = 4_000_000_000 * S
Key = tuple[str, int, int]  # service, start, signal


class Writing:
    """Writes deltas as agents do, each with an identity of its own, and knows what the rollups must be."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.deltas: list[WindowDelta] = []
        self._sequence = 0

    async def write(self, *deltas: WindowDelta) -> list[SliceWrite]:
        writes = []
        for delta in deltas:
            self._sequence += 1
            id_ = BatchId(b"0123456789abcdef", 7, self._sequence)
            writes.append(SliceWrite(id_, 0, b"c", wire.stored_slice(Slice(delta.service, 0, deltas=[delta]))))
        outcomes = await self.store.apply(writes)
        assert {outcome.verdict for outcome in outcomes} <= {Verdict.APPLIED}
        self.deltas += deltas
        return writes

    async def roll(self) -> None:
        while await self.store.roll_up(FOREVER, 7):
            pass

    def expected(self, step_s: int) -> dict[Key, WindowDelta]:
        found: dict[Key, WindowDelta] = {}
        for delta in self.deltas:
            start_us = delta.start_us // (step_s * S) * step_s * S
            key = (delta.service, start_us, delta.signal)
            if key not in found:
                found[key] = WindowDelta(start_us, delta.service, "", delta.signal)
            found[key].merge_counts(delta)
        return found


async def rollups(store: Store, step_s: int, buckets: Iterable[tuple[str, int]]) -> dict[Key, Mapping[str, Any]]:
    """All columns, by the query that the rolling up asks itself."""
    asked = sorted(set(buckets))
    if isinstance(store, SqliteStore):
        words: dict[str, Any] = {"buckets": msgspec.json.encode(asked).decode()}
    else:
        words = {"services": [name for name, _ in asked], "starts": [at for _, at in asked]}
    rows = await store.query("rollups_of_buckets", step_s=step_s, width_s=step_s, **words)
    return {(row["service"], row["start_us"], row["signal"]): row for row in rows}


async def agree(writing: Writing) -> None:
    for step_s in STEPS_S:
        expected = writing.expected(step_s)
        found = await rollups(writing.store, step_s, ((name, at) for name, at, _ in expected))
        assert found.keys() == expected.keys()
        for key, delta in expected.items():
            row = found[key]
            assert (row["events"], row["errors"], row["warnings"]) == (
                delta.events, delta.errors, delta.levels[Level.WARN],
            )  # fmt: skip
            assert msgspec.json.decode(row["levels"]) == delta.levels
            assert (row["unparsed"], row["bytes_in"]) == (delta.unparsed, delta.bytes_in)
            assert row["templates_overflow"] == delta.templates.overflow
            assert (row["latency_count"], row["latency_sum_us"]) == (delta.latency.count, delta.latency.sum_us)
            latency = wire.latency_from_bytes(row["latency"]) if row["latency"] else LatencyHistogram()
            assert latency == delta.latency
            assert (
                (wire.distinct_from_bytes(row["endpoints"]) == delta.endpoints)
                if row["endpoints"]
                else (not delta.endpoints)
            )


def delta(
    at_us: int, service: str = "cart", host: str = "a", *, infos: int = 2, errors: int = 0,
    latencies: Iterable[int] = (), endpoints: Iterable[int] = (), signal: int = 1, duration_ms: int = 10_000,
) -> WindowDelta:  # fmt: skip
    made = WindowDelta(at_us, service, host, signal, duration_ms)
    made.levels[Level.INFO], made.levels[Level.ERROR] = infos, errors
    made.unparsed, made.bytes_in = 1, 100
    made.latency.add(list(latencies))
    made.endpoints.add_hashes(endpoints)
    return made


async def test_windows_of_all_hosts_are_added_up(store: Store) -> None:
    writing = Writing(store)
    hosts = ("a", "b", "c")
    await writing.write(
        *(
            delta(T0 + 10 * S * i, host=host, errors=i % 3, latencies=[i * 1_000 + 5], endpoints=[i])
            for i in range(60)
            for host in hosts
        )
    )
    await writing.roll()
    await agree(writing)
    (minute,) = (await rollups(store, 60, [("cart", T0)])).values()
    assert minute["events"] == sum(2 + i % 3 for i in range(6)) * 3


async def test_until_then_it_is_said_what_lacks(store: Store) -> None:
    writing = Writing(store)
    assert await store.query("rollup_reach", service="cart") == [{"pending_us": None}]
    await writing.write(delta(T0 + 130 * S), delta(T0 + 70 * S))
    await writing.write(delta(T0, "users"))
    assert await store.query("rollup_reach", service="cart") == [{"pending_us": T0 + 60 * S}]
    assert await store.roll_up(T0 + 120 * S, 10) == 2
    assert await store.query("rollup_reach", service="cart") == [{"pending_us": T0 + 120 * S}]
    assert await store.roll_up(T0 + 120 * S, 10) == 0
    assert await store.roll_up(FOREVER, 10) == 1
    assert await store.query("rollup_reach", service="cart") == [{"pending_us": None}]
    await writing.write(delta(T0 + 70 * S, host="late"))
    assert await store.query("rollup_reach", service="cart") == [{"pending_us": T0 + 60 * S}]
    await writing.roll()
    await agree(writing)


async def test_signals_and_services_stay_apart(store: Store) -> None:
    writing = Writing(store)
    await writing.write(
        *(delta(T0, name, signal=signal, latencies=[signal]) for name in ("a", "b\u00fc", "c") for signal in (1, 2))
    )
    await writing.roll()
    await agree(writing)


async def test_raw_events_are_in_them(store: Store) -> None:
    events = [Event(T0 + i * S, "cart", Level.ERROR, "no", i, "/a", host="h", signal=Signal.SPAN) for i in range(100)]
    await store.apply([EventsWrite(Partition(Topic.EVENTS, 0), 0, EventRecord("cart", T0, events))])
    while await store.roll_up(FOREVER, 10):
        pass
    (hour,) = (await rollups(store, 3_600, [("cart", T0)])).values()
    assert (hour["events"], hour["errors"], hour["signal"], hour["latency_count"]) == (100, 100, 2, 100)


async def test_what_comes_weeks_late_is_in_them(store: Store) -> None:
    writing = Writing(store)
    await writing.write(delta(T0), delta(T0 + 21 * DAY))
    await writing.roll()
    await writing.write(delta(T0 + 10 * S, host="offline", latencies=[77], endpoints=[1]))
    await writing.roll()
    await agree(writing)


async def test_they_outlive_their_windows(store: Store) -> None:
    """What was not rolled up when its windows are dropped is, before; what comes later is added at once."""
    writing = Writing(store)
    await writing.write(*(delta(T0 + hour * 3_600 * S, errors=1, latencies=[hour + 2]) for hour in range(60)))
    await store.roll_up(FOREVER, 5)
    await store.prune(T0 + 2 * DAY + 7 * S)
    kept = await windows_from(store)
    assert kept >= T0 + 2 * DAY
    (reach,) = await store.query("window_reach", service="cart")
    assert reach["first_start_us"] == T0  # as the rollups tell
    await writing.roll()
    await agree(writing)
    late = await writing.write(
        delta(T0, host="offline", latencies=[9], endpoints=[4]),
        delta(T0 + 600 * S, host="offline", errors=2),
        delta(T0 + 600 * S, host="another", errors=3),
        delta(T0 + 600 * S, "new", errors=3),
        delta(T0 + 59 * 3_600 * S, host="offline", infos=7),
    )
    await agree_after_rolling(writing)
    assert await windows_from(store) == kept  # they came back as no windows
    assert {outcome.verdict for outcome in await store.apply(late)} == {Verdict.DUPLICATE}
    await agree_after_rolling(writing)


async def windows_from(store: Store) -> int:
    rows = await store.query("window_counts_of_service", service="cart", from_us=0, to_us=FOREVER)
    return int(rows[0]["start_us"])


async def agree_after_rolling(writing: Writing) -> None:
    await writing.roll()
    await agree(writing)


async def test_late_windows_of_a_minute_that_is_marked_yet(store: Store) -> None:
    """As when another process has moved the time of which windows are kept, and not yet dropped any."""
    writing = Writing(store)
    await writing.write(delta(T0, latencies=[5]), delta(T0 + 60 * S))
    await store.transact([Statement("advance_raw_from", {"before_us": T0 + DAY})])
    await writing.write(delta(T0, host="offline", latencies=[6], endpoints=[1]))
    await store.prune(T0 + DAY)
    await agree_after_rolling(writing)


async def test_they_are_dropped_by_their_step(store: Store) -> None:
    writing = Writing(store)
    await writing.write(delta(T0), delta(T0 + DAY))
    await writing.roll()
    await store.transact([Statement("prune_rollups", {"step_s": 60, "before_us": T0 + DAY})])
    assert len(await rollups(store, 60, [("cart", T0), ("cart", T0 + DAY)])) == 1
    assert len(await rollups(store, 300, [("cart", T0), ("cart", T0 + DAY)])) == 2


async def test_numbers_beyond_all_reason_do_no_harm(store: Store) -> None:
    most = 2**62
    huge = [delta(T0 + 10 * S * i, infos=most) for i in range(6)]
    writing = Writing(store)
    await writing.write(*huge, delta(T0, "users"))
    await writing.roll()
    (minute,) = (await rollups(store, 60, [("cart", T0)])).values()
    assert minute["events"] == 2**63 - 1
    assert len(await rollups(store, 60, [("users", T0)])) == 1


async def test_no_histogram_stops_the_others(store: Store) -> None:
    """Each is one that the contract allows; their sum is beyond what it can say."""
    writing = Writing(store)
    for host in "abc":
        one = delta(T0, host=host, infos=2**62)
        one.latency.zero_count = 2**62
        await writing.write(one)
    for _ in range(2):
        one = delta(T0 + 60 * S, infos=1, latencies=[9])
        (write,) = await writing.write(one)
        part = write.slice.windows[0]
        data = windows_pb2.LatencyHistogram(bucket_counts=[2**64 - 1], count=1, min_us=9, max_us=9, sum_us=b"\x09")
        write.slice.windows[0] = part._replace(latency=data.SerializeToString())
        id_ = BatchId(b"0123456789abcdef", 8, len(writing.deltas))
        await store.apply([SliceWrite(id_, 0, b"c", write.slice)])
    await writing.write(delta(T0, "users"))
    await writing.roll()
    assert len(await rollups(store, 60, [("cart", T0), ("cart", T0 + 60 * S), ("users", T0)])) == 3


async def test_quantiles_of_rollups_are_within_the_error_of_a_bucket(store: Store) -> None:
    rng = random.Random(5)
    values: defaultdict[int, list[int]] = defaultdict(list)
    deltas = []
    for i in range(720):
        found = [round(rng.lognormvariate(10, 1)) + 2 for _ in range(20)]
        values[i // 360] += found
        deltas.append(delta(T0 + 10 * S * i, infos=20, latencies=found))
    writing = Writing(store)
    await writing.write(*deltas)
    await writing.roll()
    rows = await store.query("rollup_counts_of_service", service="cart", step_s=3_600, from_us=T0, to_us=T0 + 7_200 * S)
    assert len(rows) == 2
    for number, row in enumerate(rows):
        ordered = sorted(values[number])
        latency = wire.latency_from_bytes(row["latency"])
        for q in (0.5, 0.95, 0.99):
            exact = ordered[max(0, -(-len(ordered) * q // 1).__int__() - 1)]
            assert abs(latency.quantile_us(q) - exact) <= exact * RELATIVE_ERROR * 1.001


async def test_writers_and_rollers_at_once_lose_nothing(store: Store) -> None:
    writing = Writing(store)
    rng = random.Random(3)
    over = False

    async def rolling() -> None:
        while not over:
            await store.roll_up(FOREVER, rng.randrange(1, 5))
            await asyncio.sleep(0)

    async def pruning() -> None:
        for hours in range(0, 30, 6):
            await store.prune(T0 + hours * 3_600 * S)
            await asyncio.sleep(0.01)

    async def writer(number: int) -> None:
        own = random.Random(number)
        for _ in range(15):
            at = [T0 + own.randrange(0, 8_640) * 10 * S for _ in range(4)]
            await writing.write(
                *(delta(us, own.choice("xyz"), f"h{number}", latencies=[own.randrange(9)], endpoints=[us]) for us in at)
            )
            await asyncio.sleep(0)

    rollers = [asyncio.create_task(rolling()) for _ in range(2)]
    await asyncio.gather(pruning(), *map(writer, range(3)))
    over = True
    await asyncio.gather(*rollers)
    await agree_after_rolling(writing)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 400), st.sampled_from("ab"), st.integers(0, 3)),
        st.tuples(st.just("roll"), st.integers(1, 5), st.just(""), st.just(0)),
        st.tuples(st.just("prune"), st.integers(0, 400), st.just(""), st.just(0)),
    ),
    max_size=25,
)


@given(steps)
@settings(deadline=None)
def test_in_whatever_order(script: list[tuple[str, int, str, int]]) -> None:
    """On SQLite, which prunes to the minute; a unit is 30 s."""

    async def run() -> None:
        store = SqliteStore(":memory:")
        try:
            writing = Writing(store)
            for word, number, service, errors in script:
                if word == "write":
                    await writing.write(delta(T0 + number * 30 * S, service, errors=errors, latencies=[number + 2]))
                elif word == "roll":
                    await store.roll_up(FOREVER, number)
                else:
                    await store.prune(T0 + number * 30 * S + 1)
            await agree_after_rolling(writing)
        finally:
            await store.close()

    asyncio.run(run())


def is_the_same_encoded(parts: list[list[int]]) -> bool:
    expected = LatencyHistogram()
    for values in parts:
        expected.merge(LatencyHistogram.of(values))
    merged = wire.merged_latencies([wire.latency_to_bytes(LatencyHistogram.of(values)) for values in parts])
    return merged == wire.latency_to_bytes(expected)


@pytest.mark.parametrize("parts", [[], [[]], [[0, 1]], [[5], [5]], [[5], [3_600_000_000]], [[0], [7, 9], [1]]])
def test_merged_as_they_are_encoded(parts: list[list[int]]) -> None:
    assert is_the_same_encoded(parts)


@given(st.lists(st.lists(st.integers(0, 4_000_000_000), max_size=5), max_size=4))
def test_merged_as_they_are_encoded_always(parts: list[list[int]]) -> None:
    assert is_the_same_encoded(parts)


async def test_rolling_up_searches_by_time(store: Store) -> None:
    """However many windows a service has: with statistics that tell how many there are."""
    writing = Writing(store)
    await writing.write(*(delta(T0 + 10 * S * i, host=f"h{i % 3}") for i in range(2_000)))
    await writing.roll()
    minutes = [("cart", T0 + 60 * S * i) for i in range(10)]
    for name in ("windows_of_minutes", "rollups_of_buckets"):
        plan = await plan_of(store, name, minutes, {"step_s": 60, "width_s": 300})
        assert "Seq Scan" not in plan
        assert "SCAN r" not in plan
        assert "SCAN w" not in plan
        assert re.search(r"start_time >=|start_us>\?", plan), plan


async def plan_of(store: Store, name: str, buckets: list[tuple[str, int]], more: dict[str, int]) -> str:
    if isinstance(store, SqliteStore):
        words = {"buckets": msgspec.json.encode(buckets).decode(), **more}

        def explained(connection: sqlite3.Connection) -> str:
            connection.execute("ANALYZE")
            rows = connection.execute(f"EXPLAIN QUERY PLAN {helios_sql.query('sqlite', name)}", words)
            return "\n".join(str(row[3]) for row in rows)

        return await store._on_thread(explained)
    assert isinstance(store, PostgresStore)
    async with store._connection() as connection:
        await connection.execute("ANALYZE windows, rollups")
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        parameters = {"services": [n for n, _ in buckets], "starts": [at for _, at in buckets], **more}
        text, arguments = _prepared(name, parameters)
        rows = await connection.fetch(f"EXPLAIN {text}", *arguments)
        await connection.execute("RESET plan_cache_mode")
        return "\n".join(row[0] for row in rows)
