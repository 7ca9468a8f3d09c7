"""What every store promises, run over all adapters."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest

import helios_sql
from helios_core import wire
from helios_core.batches import MAX_UNACKNOWLEDGED, BatchId, Slice
from helios_core.bus.base import Partition, Topic
from helios_core.errors import StoreMismatch, StoreUnavailable
from helios_core.model import Event, EventRecord, Level, MetricSample
from helios_core.store.base import EventsWrite, Outcome, SliceWrite, Statement, Store
from helios_core.store.ledger import Verdict
from helios_core.store.rows import delta_of_row, unsigned64
from helios_core.store.sqlite import SqliteStore
from helios_core.windows import WindowDelta, deltas_of, merge_all

AGENT = b"0123456789abcdef"
EVENTS = Partition(Topic.EVENTS, 0)


def delta(start_s: int, events: int, service: str = "cart") -> WindowDelta:
    made = WindowDelta(start_s * 1_000_000, service, "host-1")
    made.levels[Level.INFO] = events - 1
    made.levels[Level.ERROR] = 1
    made.latency.add([1_000 * i for i in range(events)])
    made.endpoints.add_hashes(range(events))
    made.templates.add(Level.ERROR, "no item <*>")
    return made


def write(sequence: int, *deltas: WindowDelta, incarnation: int = 7, content: bytes = b"same-content") -> SliceWrite:
    part = Slice(deltas[0].service if deltas else "cart", 0, deltas=list(deltas))
    return SliceWrite(BatchId(AGENT, incarnation, sequence), 0, content, wire.stored_slice(part))


async def total(store: Store) -> int:
    (row,) = await store.query("totals")
    return int(row["events"])


async def test_a_slice_comes_back_as_its_windows(store: Store) -> None:
    deltas = [delta(0, 5), delta(10, 3)]
    assert await store.apply([write(1, *deltas)]) == [Outcome(Verdict.APPLIED)]
    rows = await store.query("window_rows_of_service", service="cart", from_us=0, to_us=10**9)
    back = [delta_of_row(row, "cart") for row in rows]
    for one in deltas:
        one.templates.counts.clear()
    assert back == deltas


async def test_a_slice_is_applied_once(store: Store) -> None:
    assert await store.apply([write(1, delta(0, 5)), write(1, delta(0, 5))]) == [
        Outcome(Verdict.APPLIED),
        Outcome(Verdict.DUPLICATE),
    ]
    assert await store.apply([write(1, delta(0, 5))]) == [Outcome(Verdict.DUPLICATE)]
    assert await total(store) == 5


async def test_several_slices_of_one_batch_are_all_applied(store: Store) -> None:
    await store.apply([write(1, delta(0, 5, service)) for service in ("cart", "checkout", "users")])
    assert await total(store) == 15


async def test_batches_out_of_order_are_all_applied_within_the_bound(store: Store) -> None:
    order = [3, 1, 2, 40, 20, MAX_UNACKNOWLEDGED]
    await store.apply([write(sequence, delta(0, 2)) for sequence in order])
    assert await total(store) == 2 * len(order)


async def test_what_lies_below_the_bound_was_applied(store: Store) -> None:
    await store.apply([write(100, delta(0, 2))])
    assert await store.apply([write(100 - MAX_UNACKNOWLEDGED, delta(0, 2))]) == [Outcome(Verdict.DUPLICATE)]


async def test_the_same_identity_with_other_content_is_a_conflict(store: Store) -> None:
    await store.apply([write(1, delta(0, 5))])
    assert await store.apply([write(1, delta(0, 6), content=b"other-content")]) == [Outcome(Verdict.CONFLICT)]
    assert await total(store) == 5


async def test_incarnations_number_their_batches_by_themselves(store: Store) -> None:
    await store.apply([write(1, delta(0, 5), incarnation=2**64 - 1)])
    assert await store.apply([write(1, delta(0, 5), incarnation=1)]) == [Outcome(Verdict.APPLIED)]


def record(*events: Event) -> EventRecord:
    return EventRecord("cart", 0, list(events))


def event(second: int, id_: str = "", message: str = "no item 17") -> Event:
    return Event(second * 1_000_000, "cart", Level.ERROR, message, 1_500, "/items/17", host="h", id=id_)


async def test_raw_events_are_counted_and_kept_once(store: Store) -> None:
    items = [event(second) for second in range(25)]
    first = EventsWrite(EVENTS, 4, record(*items))
    assert await store.apply([first]) == [Outcome(Verdict.APPLIED)]
    assert await store.apply([first]) == [Outcome(Verdict.DUPLICATE)]
    rows = await store.query("window_rows_of_service", service="cart", from_us=0, to_us=10**9)
    derived = {one.key: one for one in deltas_of(record(*items))}
    for one in derived.values():
        one.templates.counts.clear()
    assert merge_all(delta_of_row(row, "cart") for row in rows) == derived
    assert await total(store) == 25


async def test_an_event_with_an_id_is_counted_once_wherever_it_comes_again(store: Store) -> None:
    await store.apply([EventsWrite(EVENTS, 0, record(event(1, "a"), event(1, "b")))])
    outcomes = await store.apply(
        [EventsWrite(EVENTS, 1, record(event(1, "b"), event(1, "c"), event(1, "c"), event(1, "a", "other")))]
    )
    assert outcomes == [Outcome(Verdict.APPLIED, duplicates=2, conflicting=(event(1, "a", "other"),))]
    assert await total(store) == 3


async def test_templates_are_counted_by_time_with_their_samples(store: Store) -> None:
    sample = event(1, message="no item 99")
    sample.counted = True
    one = delta(0, 2)
    sample.template_id = next(iter(one.templates.counts))
    part = Slice("cart", 0, deltas=[one, delta(600, 2)], samples=[sample])
    await store.apply([SliceWrite(BatchId(AGENT, 7, 1), 0, b"c", wire.stored_slice(part))])
    (row,) = await store.query(
        "template_counts", service="cart", before_us=0, from_us=300_000_000, to_us=10**9, limit=10
    )
    assert (row["text"], row["count"], row["count_before"]) == ("no item <*>", 1, 1)
    assert unsigned64(row["template_id"]) == sample.template_id
    (kept,) = await store.query(
        "samples_of_template", service="cart", from_us=0, to_us=10**9, template_id=row["template_id"], limit=3
    )
    assert kept["message"] == "no item 99"
    assert await total(store) == 4


async def test_metrics_are_kept(store: Store) -> None:
    part = Slice("cart", 0, metrics=[MetricSample("cpu", 0.25, {"core": "1"}, 5, "cart", "h")])
    assert await store.apply([SliceWrite(BatchId(AGENT, 7, 1), 0, b"c", wire.stored_slice(part))]) == [
        Outcome(Verdict.APPLIED)
    ]


async def test_statements_are_all_or_nothing(store: Store) -> None:
    good = {
        "incident_id": "i",
        "revision": 1,
        "created_us": 0,
        "generator": "rules",
        "document": "{}",
        "markdown": "",
    }
    with pytest.raises(ValueError, match="document"):
        await store.transact([Statement("upsert_report", good), Statement("upsert_report", {**good, "document": None})])
    assert await store.query("report", incident_id="i") == []
    await store.transact([Statement("upsert_report", good)])
    assert len(await store.query("report", incident_id="i")) == 1


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.query("totals")


async def test_the_ledger_outlives_the_process(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path / "store.db")
    await first.apply([write(1, delta(0, 5))])
    await first.close()
    second = SqliteStore(tmp_path / "store.db")
    assert await second.apply([write(1, delta(0, 5))]) == [Outcome(Verdict.DUPLICATE)]
    await second.close()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "store.db")
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(StoreMismatch, match="999"):
        SqliteStore(tmp_path / "store.db")


def test_a_file_that_is_no_store_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"no database at all, but a text that is long enough" * 50)
    with pytest.raises(StoreUnavailable, match=r"store\.db cannot be opened"):
        SqliteStore(tmp_path / "store.db")


def test_every_query_of_an_engine_can_be_prepared() -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript(helios_sql.schema("sqlite"))
    for name in helios_sql.query_names("sqlite"):
        text = helios_sql.query("sqlite", name)
        parameters = dict.fromkeys(re.findall(r":(\w+)", text), 0)
        connection.execute(f"EXPLAIN {text}", parameters)
    connection.close()
