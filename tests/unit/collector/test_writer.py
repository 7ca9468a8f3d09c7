"""The store writer: everything on the bus is in the store once, or in the dead letter with the reason."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from helios.v1 import batch_pb2, events_pb2, windows_pb2
from helios_collector.telemetry import Telemetry
from helios_collector.writer import GROUP, StoreWriter
from helios_core import retry, wire
from helios_core.alerts import Alert, AlertState, Family, Severity
from helios_core.batches import BatchId, Slice
from helios_core.bus.base import Commit, Consumer, Partition, Received, Record, Topic
from helios_core.bus.memory import MemoryBus, MemoryConsumer
from helios_core.errors import BusUnavailable, StoreUnavailable
from helios_core.model import Event, EventRecord, Level, MetricSample
from helios_core.records import events_record, slice_record
from helios_core.sketches.templates import template_id
from helios_core.store.base import EventsWrite, Outcome, Row, SliceWrite, Statement
from helios_core.store.sqlite import SqliteStore
from helios_core.windows import WindowDelta

AGENT = b"0123456789abcdef"
START = 1_772_409_600_000_000


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_PAUSE_S", 0.001)


@pytest.fixture
async def store() -> AsyncIterator[SqliteStore]:
    made = SqliteStore(":memory:")
    yield made
    await made.close()


class Killed(Exception):
    """The end of the process."""


class Site(MemoryBus):
    """A bus that can be away, and that can end the process at a commit or a publish."""

    def __init__(self) -> None:
        super().__init__()
        self.away: dict[str, int] = {}
        self.dies_at: set[str] = set()

    def reached(self, step: str) -> None:
        if self.away.get(step, 0):
            self.away[step] -= 1
            raise BusUnavailable(f"{step}: the bus is away")
        if step in self.dies_at:
            self.dies_at.discard(step)
            raise Killed(step)

    async def publish(self, records: Sequence[Record]) -> None:
        self.reached("publish")
        await super().publish(records)

    async def subscribe(self, group: str, topics: Sequence[Topic]) -> MemoryConsumer:
        self.reached("subscribe")
        return Member(self, group, topics)


class Member(MemoryConsumer):
    """Of the group, on a `Site`."""

    def __init__(self, bus: Site, group: str, topics: Sequence[Topic]) -> None:
        super().__init__(bus, group, topics)
        self._site = bus

    async def poll(self, *, max_records: int, timeout_s: float) -> list[Received]:
        self._site.reached("poll")
        return await super().poll(max_records=max_records, timeout_s=timeout_s)

    async def commit(self, commits: Mapping[Partition, Commit]) -> None:
        self._site.reached("commit")
        await super().commit(commits)
        self._site.reached("committed")


class Away:
    """A store that cannot be reached so many times, before or after it has done what it was asked to."""

    def __init__(self, store: SqliteStore, times: int) -> None:
        self._store = store
        self.times = times
        self.calls = 0

    def _reached(self) -> None:
        self.calls += 1
        if self.times:
            self.times -= 1
            raise StoreUnavailable("the store is away")

    async def apply(self, writes: Sequence[SliceWrite | EventsWrite]) -> list[Outcome]:
        if self.times % 2:  # the answer is lost: it was applied, and nobody knows
            await self._store.apply(writes)
        self._reached()
        return await self._store.apply(writes)

    async def transact(self, statements: Sequence[Statement]) -> None:
        self._reached()
        await self._store.transact(statements)

    async def query(self, name: str, **parameters: Any) -> list[Row]:
        return await self._store.query(name, **parameters)

    async def close(self) -> None:
        await self._store.close()


def slice_(sequence: int, service: str = "cart", events: int = 3, **fields: Any) -> Record:
    delta = WindowDelta(START + sequence * 10_000_000, service, "host-1")
    delta.levels[Level.INFO] = events
    part = Slice(service, START, deltas=[delta], **fields)
    data = wire.slice_to_proto(part).SerializeToString()
    return slice_record(BatchId(AGENT, 7, sequence), service, data, "host-1")


def raw(service: str = "api", count: int = 2, first: int = 0) -> Record:
    events = [Event(START + n, service, Level.INFO, f"event {n}", id=f"{n}") for n in range(first, first + count)]
    return events_record(EventRecord(service, START, events))


def alert(number: int) -> Record:
    made = Alert(
        id=f"{number:016x}", episode="e", service="cart", family=Family.ERRORS, state=AlertState.FIRED,
        severity=Severity.HIGH, decided_us=START + number, onset_us=START, seen_us=START, horizon_us=300_000_000,
        detectors=("rules",), findings=(), features={},
    )  # fmt: skip
    return Record(Topic.ANOMALY_ALERTS, "cart", made.to_bytes())


async def write(bus: MemoryBus, store: Any) -> dict[str, int]:
    """Until everything on the bus is done; what was counted."""
    telemetry = Telemetry()
    writer = StoreWriter(bus, store, telemetry)
    drain = asyncio.Event()
    drain.set()
    async with asyncio.timeout(20):
        await writer.run(drain)
    return telemetry.status()


async def on(bus: MemoryBus, topic: Topic) -> list[Received]:
    consumer = await MemoryBus.subscribe(bus, "test", [topic])
    return await consumer.poll(max_records=10_000, timeout_s=0)


async def events(store: SqliteStore) -> int:
    (row,) = await store.query("totals")
    return int(row["events"])


async def alerts(store: SqliteStore) -> int:
    return len(await store.query("alerts_in_range", from_us=START, to_us=START + 10))


async def lag(bus: MemoryBus) -> int:
    consumer: Consumer = await MemoryBus.subscribe(bus, GROUP, (Topic.WINDOWS, Topic.EVENTS, Topic.ANOMALY_ALERTS))
    return (await consumer.lag()).records


async def test_everything_is_written_once_and_committed(store: SqliteStore) -> None:
    bus = Site()
    metrics = [MetricSample("cpu", 0.5, time_us=START, service="cart")]
    samples = [Event(START, "cart", Level.ERROR, "no item", counted=True)]
    await bus.publish([slice_(1), slice_(2, metrics=metrics, samples=samples), raw(), alert(1)])
    await write(bus, store)
    assert await events(store) == 3 + 3 + 2
    assert await lag(bus) == 0
    assert len(await on(bus, Topic.DEAD_LETTER)) == 0
    counts = await write(bus, store)
    assert (await events(store), counts["duplicates"]) == (8, 0)


async def test_what_comes_while_it_runs_is_written(store: SqliteStore) -> None:
    bus = Site()
    drain = asyncio.Event()
    running = asyncio.create_task(StoreWriter(bus, store).run(drain))
    for number in range(1, 6):
        await bus.publish([slice_(number)])
        await asyncio.sleep(0.005)
    drain.set()
    async with asyncio.timeout(10):
        await running
    assert await events(store) == 15


async def test_what_was_sent_twice_is_counted_once(store: SqliteStore) -> None:
    bus = Site()
    await bus.publish([slice_(1), slice_(2), slice_(1), raw(), raw()])
    counts = await write(bus, store)
    assert await events(store) == 8
    assert counts["duplicates"] == 1 + 2
    assert len(await on(bus, Topic.DEAD_LETTER)) == 0


# ---- what cannot be written

MAX = 2**64 - 1
LATENCY = windows_pb2.LatencyHistogram(offset=200, bucket_counts=[1], min_us=80, max_us=80)


def odd(sequence: int = 9, **fields: Any) -> Record:
    """A slice whose delta has the given fields of the message."""
    message = windows_pb2.WindowDelta(start_us=START, duration_ms=10_000, host="host-1", signal=1)
    message.MergeFrom(windows_pb2.WindowDelta(**fields))
    part = batch_pb2.Slice(service="odd", deltas=[message])
    return slice_record(BatchId(AGENT, 7, sequence), "odd", part.SerializeToString(), "host-1")


def template(count: int) -> windows_pb2.TemplateCount:
    return windows_pb2.TemplateCount(id=template_id(4, "x"), text="x", level=4, count=count)


POISON = {
    "no slice": Record(Topic.WINDOWS, "x", b"\xff\xff", dict(slice_(9).headers)),
    "no headers": Record(Topic.WINDOWS, "x", slice_(9).value, {}),
    "a bad sequence": Record(Topic.WINDOWS, "x", slice_(9).value, {**slice_(9).headers, "sequence": "x"}),
    "a bad agent": Record(Topic.WINDOWS, "x", slice_(9).value, {**slice_(9).headers, "agent": "0"}),
    "an incarnation of 80 bits": Record(
        Topic.WINDOWS, "x", slice_(9).value, {**slice_(9).headers, "incarnation": "f" * 20}
    ),
    "no events": Record(Topic.EVENTS, "x", b"\xff\xff"),
    "no alert": Record(Topic.ANOMALY_ALERTS, "x", b"{"),
    "an alert that lacks everything": Record(Topic.ANOMALY_ALERTS, "x", b"{}"),
    "an alert of no time": Record(
        Topic.ANOMALY_ALERTS, "x", alert(9).value.replace(b'"decided_us":', b'"decided_us":9999999999')
    ),
    "levels that do not add up": odd(events=5, levels=[1]),
    "a window that is not aligned": odd(start_us=START + 1),
    "more events than can be stored": odd(events=MAX, levels=[0, 0, MAX]),
    "more bytes than can be stored": odd(bytes_in=MAX),
    "more unparsed lines than can be stored": odd(unparsed=2**63),
    "more overflow than can be stored": odd(templates_overflow=MAX),
    "more of a template than can be stored": odd(events=1, levels=[1], templates=[template(MAX)]),
    "a sum of latencies that is too large": odd(
        events=1, levels=[1], latency=windows_pb2.LatencyHistogram(
            offset=200, bucket_counts=[1], sum_us=b"\xff" * 40, sum_of_squares_us2=b"\xff" * 90, min_us=80, max_us=80
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", POISON)
async def test_a_record_that_cannot_be_written_is_kept_and_the_others_are_written(
    store: SqliteStore, kind: str
) -> None:
    bus = Site()
    await bus.publish([slice_(1), raw(), alert(1), POISON[kind], slice_(2), raw(first=10), alert(2), odd(3, events=0)])
    await write(bus, store)
    assert await events(store) == 3 + 2 + 3 + 2
    assert await alerts(store) == 2
    (dead,) = await on(bus, Topic.DEAD_LETTER)
    assert dead.value == POISON[kind].value
    assert str(POISON[kind].topic) in dead.headers["kind"]
    assert dead.headers["reason"]
    assert await lag(bus) == 0
    await write(bus, store)
    assert len(await on(bus, Topic.DEAD_LETTER)) == 1


async def test_many_bad_records_among_many_good_ones(store: SqliteStore) -> None:
    bus = Site()
    bad = list(POISON.values())
    for number in range(1, 61):
        await bus.publish([slice_(number), bad[number % len(bad)]])
    await write(bus, store)
    assert await events(store) == 180
    assert len(await on(bus, Topic.DEAD_LETTER)) == 60


async def test_the_same_identity_with_other_content_is_a_conflict(store: SqliteStore) -> None:
    bus = Site()
    await bus.publish([slice_(1), slice_(1, events=5), slice_(2)])
    counts = await write(bus, store)
    assert await events(store) == 6
    assert (counts["conflicts"], counts["duplicates"]) == (1, 0)
    (dead,) = await on(bus, Topic.DEAD_LETTER)
    assert dead.headers["kind"] == "conflict"
    sent = slice_(1, events=5)
    assert dead.value == sent.value
    assert "other content" in dead.headers["reason"]
    assert sent.headers.items() <= dead.headers.items(), "its identity"
    place = (dead.headers["topic"], dead.headers["partition"], dead.headers["offset"], dead.headers["key"])
    assert place == ("windows", "0", "1", sent.key)


async def test_an_event_id_with_other_content_is_a_conflict_and_the_others_are_written(store: SqliteStore) -> None:
    bus = Site()
    other = [Event(START, "api", Level.INFO, "other", id="0"), Event(START + 1, "api", Level.INFO, "new", id="new")]
    await bus.publish([raw(count=1), events_record(EventRecord("api", START, other))])
    counts = await write(bus, store)
    assert await events(store) == 2
    assert counts["conflicts"] == 1
    (dead,) = await on(bus, Topic.DEAD_LETTER)
    assert dead.headers["kind"] == "event conflict"
    assert "'0' came before with other content" in dead.headers["reason"]
    assert (dead.headers["topic"], dead.headers["offset"], dead.headers["key"]) == ("events", "1", "api")
    assert events_pb2.Event.FromString(dead.value).message == "other"


async def test_offsets_that_begin_again_are_those_of_other_records(store: SqliteStore) -> None:
    """Of topics that were made anew under another prefix, or a log whose file was removed."""
    before = Site()
    await before.publish([raw(count=3), raw(count=2, service="cart")])
    await write(before, store)
    after = Site()
    await after.publish([raw(count=4, service="pay")])
    counts = await write(after, store)
    assert counts["duplicates"] == 0
    assert await events(store) == 9


async def test_a_conflict_is_kept_also_when_the_writer_ends_before_its_dead_letter(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store knows the record by then, and what was not taken of it is nowhere else."""
    bus = Site()
    await bus.publish([raw(count=1), events_record(EventRecord("api", START, [other_event()]))])

    async def killed(_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(bus, "publish", killed)
        with pytest.raises(Killed):
            await write(bus, store)
    assert await on(bus, Topic.DEAD_LETTER) == []
    await write(bus, store)
    (dead,) = await on(bus, Topic.DEAD_LETTER)
    assert dead.headers["kind"] == "event conflict"
    assert await events(store) == 1


def other_event() -> Event:
    """Of the same id and time as the first of `raw`."""
    return Event(START, "api", Level.INFO, "other", id="0")


# ---- what is away for a while


@pytest.mark.parametrize("times", [1, 2, 7])
async def test_a_store_that_comes_back_has_everything_once(store: SqliteStore, times: int) -> None:
    bus = Site()
    await bus.publish([slice_(1), raw(), alert(1), slice_(2), POISON["no slice"]])
    away = Away(store, times)
    await write(bus, away)
    assert away.calls >= times + 2
    assert await events(store) == 8
    assert len(await on(bus, Topic.DEAD_LETTER)) == 1
    assert await lag(bus) == 0


@pytest.mark.parametrize("step", ["subscribe", "poll", "commit", "publish"])
async def test_a_bus_that_comes_back_has_lost_nothing(store: SqliteStore, step: str) -> None:
    bus = Site()
    await bus.publish([slice_(1), raw(), alert(1), slice_(2), POISON["no slice"]])
    bus.away = {step: 3}
    await write(bus, store)
    assert bus.away == {step: 0}
    assert await events(store) == 8
    assert len(await on(bus, Topic.DEAD_LETTER)) == 1
    assert await lag(bus) == 0


async def test_nothing_is_committed_while_the_store_is_away(store: SqliteStore) -> None:
    bus = Site()
    await bus.publish([slice_(1), POISON["no slice"]])
    running = asyncio.create_task(StoreWriter(bus, Away(store, 10**9)).run(asyncio.Event()))
    await asyncio.sleep(0.05)
    assert not running.done()
    assert await lag(bus) == 2
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


# ---- killed


@pytest.mark.parametrize("step", ["publish", "commit", "committed"])
async def test_killed_at_a_step_everything_is_applied_once(store: SqliteStore, step: str) -> None:
    bus = Site()
    await bus.publish([slice_(1), raw(), alert(1), slice_(2), slice_(2, events=9), POISON["no slice"]])
    bus.dies_at = {step}
    with pytest.raises(Killed):
        await write(bus, store)
    assert await events(store) == 8  # it was applied before
    await bus.publish([slice_(3)])
    await write(bus, store)
    assert await events(store) == 11
    assert await alerts(store) == 1
    kinds = {one.headers["kind"] for one in await on(bus, Topic.DEAD_LETTER)}
    assert kinds == {"conflict", "record of windows"}  # more than once at worst


async def test_cancelled_anywhere_everything_is_applied_once(store: SqliteStore) -> None:
    bus = Site()
    for number in range(1, 401):
        await bus.publish([slice_(number)])
    for moment in range(12):
        running = asyncio.create_task(StoreWriter(bus, store).run(asyncio.Event()))
        await asyncio.sleep(moment * 0.002)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    await write(bus, store)
    assert await events(store) == 1_200


async def test_a_record_of_another_version_of_the_contract_is_kept_apart_with_the_reason(store: SqliteStore) -> None:
    bus = Site()
    good = raw(count=1)
    await bus.publish([Record(good.topic, good.key, good.value, {"version": "2"}), good])
    await write(bus, store)
    (dead,) = await on(bus, Topic.DEAD_LETTER)
    assert "version 2 of the contract" in dead.headers["reason"]
    (row,) = await store.query("totals")
    assert row["events"] == 1
