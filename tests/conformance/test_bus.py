"""What every bus promises, run over all adapters."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from helios_core.bus.base import MAX_RECORD_BYTES, Bus, Commit, Partition, Received, Record, Topic
from helios_core.bus.embedded import EmbeddedBus
from helios_core.bus.kafka import topics
from helios_core.bus.kafka.bus import KafkaBus
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.bus.memory import MemoryBus
from helios_core.errors import BusError, BusRejected, BusUnavailable

Reopen = Callable[[], Awaitable[Bus]]


@pytest.fixture(params=["memory", "embedded", pytest.param("kafka", marks=pytest.mark.engines)])
async def bus(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bus]:
    made: Bus
    if request.param == "kafka":
        settings = KafkaSettings(request.getfixturevalue("kafka"), prefix=f"{uuid.uuid4()}.")
        await topics.apply(settings, topics.Plan(partitions=3))
        made = KafkaBus(settings)
    else:
        made = MemoryBus() if request.param == "memory" else EmbeddedBus(tmp_path / "bus.db")
    yield made
    await made.close()


def record(key: str, value: str, topic: Topic = Topic.WINDOWS) -> Record:
    return Record(topic, key, value.encode(), {"n": value})


async def read_all(bus: Bus, group: str, topics: list[Topic], expected: int) -> list[Received]:
    consumer = await bus.subscribe(group, topics)
    found: list[Received] = []
    while len(found) < expected:
        got = await consumer.poll(max_records=7, timeout_s=5)
        assert got, f"only {len(found)} of {expected} records came"
        found += got
    assert await consumer.poll(max_records=7, timeout_s=0) == []
    await consumer.close()
    return found


async def test_what_is_published_is_read_in_the_order_of_its_key(bus: Bus) -> None:
    await bus.publish([record(f"k{i % 3}", f"v{i}") for i in range(10)])
    await bus.publish([record(f"k{i % 3}", f"v{i}") for i in range(10, 20)])
    found = await read_all(bus, "g", [Topic.WINDOWS], 20)
    for key in ("k0", "k1", "k2"):
        values = [int(received.value.decode()[1:]) for received in found if received.key == key]
        assert values == sorted(values)
    assert {received.value for received in found} == {f"v{i}".encode() for i in range(20)}
    assert all(received.headers == {"n": received.value.decode()} for received in found)


async def test_topics_are_read_side_by_side_in_the_order_of_time(bus: Bus) -> None:
    for i in range(20):
        await bus.publish([record("k", str(i), Topic.EVENTS if i % 3 else Topic.WINDOWS)])
        await asyncio.sleep(0.003)  # Kafka tells milliseconds
    found = await read_all(bus, "g", [Topic.WINDOWS, Topic.EVENTS], 20)
    assert [int(received.value) for received in found] == list(range(20))


async def test_who_watches_begins_at_the_end(bus: Bus) -> None:
    await bus.publish([record("k", "before")])
    consumer = await bus.subscribe("watcher", [Topic.WINDOWS], at_end=True)
    assert await consumer.poll(max_records=7, timeout_s=0) == []
    assert (await consumer.lag()).records == 0
    await bus.publish([record("k", "after")])
    assert [received.value for received in await consumer.poll(max_records=7, timeout_s=5)] == [b"after"]
    again = await bus.subscribe("watcher", [Topic.WINDOWS], at_end=True)
    assert await again.poll(max_records=7, timeout_s=0) == []


async def test_who_has_committed_goes_on_there_also_when_it_would_begin_at_the_end(bus: Bus) -> None:
    await bus.publish([record("k", "one"), record("k", "two")])
    consumer = await bus.subscribe("reader", [Topic.WINDOWS])
    first = (await consumer.poll(max_records=1, timeout_s=5))[0]
    await consumer.commit({first.partition: Commit(first.offset + 1)})
    again = await bus.subscribe("reader", [Topic.WINDOWS], at_end=True)
    assert [received.value for received in await again.poll(max_records=7, timeout_s=5)] == [b"two"]


async def test_offsets_ascend_in_a_partition(bus: Bus) -> None:
    for i in range(5):
        await bus.publish([record("k", str(i))])
    found = await read_all(bus, "g", [Topic.WINDOWS], 5)
    offsets = [received.offset for received in found]
    assert offsets == sorted(set(offsets))


async def test_a_group_goes_on_at_its_commit(bus: Bus) -> None:
    await bus.publish([record("k", str(i)) for i in range(6)])
    first = await bus.subscribe("g", [Topic.WINDOWS])
    got = await first.poll(max_records=4, timeout_s=5)
    assert len(got) == 4
    assert await first.committed() == {}
    done = got[1]
    await first.commit({done.partition: Commit(done.offset + 1, b"notes")})
    await first.close()
    second = await bus.subscribe("g", [Topic.WINDOWS])
    assert await second.committed() == {done.partition: Commit(done.offset + 1, b"notes")}
    again = await second.poll(max_records=10, timeout_s=5)
    assert [received.value for received in again] == [b"2", b"3", b"4", b"5"]


async def test_groups_and_topics_do_not_disturb_each_other(bus: Bus) -> None:
    await bus.publish([record("k", "w"), record("k", "e", Topic.EVENTS)])
    assert [r.value for r in await read_all(bus, "one", [Topic.WINDOWS], 1)] == [b"w"]
    assert [r.value for r in await read_all(bus, "two", [Topic.EVENTS], 1)] == [b"e"]
    assert len(await read_all(bus, "three", [Topic.EVENTS, Topic.WINDOWS], 2)) == 2


async def test_a_waiting_consumer_wakes_up(bus: Bus) -> None:
    consumer = await bus.subscribe("g", [Topic.WINDOWS])
    waiting = asyncio.create_task(consumer.poll(max_records=10, timeout_s=10))
    await asyncio.sleep(0.05)
    await bus.publish([record("k", "v")])
    assert [received.value for received in await asyncio.wait_for(waiting, 5)] == [b"v"]


async def test_lag_is_what_was_not_polled(bus: Bus) -> None:
    await bus.publish([record("k", str(i)) for i in range(5)])
    consumer = await bus.subscribe("g", [Topic.WINDOWS])
    assert (await consumer.lag()).records == 5
    await consumer.poll(max_records=2, timeout_s=5)
    assert (await consumer.lag()).records == 3


async def test_a_rewound_consumer_reads_everything_again(bus: Bus) -> None:
    await bus.publish([record("k", str(i)) for i in range(3)])
    consumer = await bus.subscribe("g", [Topic.WINDOWS])
    got = await consumer.poll(max_records=9, timeout_s=5)
    await consumer.commit({got[-1].partition: Commit(got[-1].offset + 1)})
    await consumer.rewind()
    assert [r.value for r in await consumer.poll(max_records=9, timeout_s=5)] == [b"0", b"1", b"2"]
    assert (await consumer.committed())[got[-1].partition].next_offset == got[-1].offset + 1


async def test_many_publishers_at_once_lose_nothing(bus: Bus) -> None:
    await asyncio.gather(*(bus.publish([record("k", f"{task}-{i}") for i in range(3)]) for task in range(50)))
    found = await read_all(bus, "g", [Topic.WINDOWS], 150)
    assert len({received.value for received in found}) == 150


async def test_a_record_over_the_limit_is_refused_and_nothing_is_published(bus: Bus) -> None:
    with pytest.raises(BusRejected, match="windows"):
        await bus.publish([record("k", "good"), Record(Topic.WINDOWS, "k", bytes(MAX_RECORD_BYTES + 1))])
    consumer = await bus.subscribe("g", [Topic.WINDOWS])
    assert await consumer.poll(max_records=1, timeout_s=0) == []


async def test_headers_and_key_count_by_their_bytes(bus: Bus) -> None:
    value = bytes(MAX_RECORD_BYTES - 100)
    for record in (
        Record(Topic.WINDOWS, "k", value, {"host": "é" * 60}),
        Record(Topic.WINDOWS, "é" * 60, value),
    ):
        with pytest.raises(BusRejected):
            await bus.publish([record])


async def test_the_embedded_log_outlives_its_process(tmp_path: Path) -> None:
    first = EmbeddedBus(tmp_path / "bus.db")
    await first.publish([record("k", str(i)) for i in range(3)])
    consumer = await first.subscribe("g", [Topic.WINDOWS])
    await consumer.poll(max_records=1, timeout_s=5)
    await consumer.commit({Partition(Topic.WINDOWS, 0): Commit(1)})
    await first.close()
    second = EmbeddedBus(tmp_path / "bus.db")
    assert [r.value for r in await read_all(second, "g", [Topic.WINDOWS], 2)] == [b"1", b"2"]
    await second.close()


async def test_all_who_read_agree_which_log_it_is(bus: Bus) -> None:
    first = await bus.subscribe("g", [Topic.EVENTS])
    assert first.log == (await bus.subscribe("other", [Topic.WINDOWS], at_end=True)).log != ""


async def test_a_file_made_anew_is_another_log(tmp_path: Path) -> None:
    logs = []
    for _ in range(2):
        for path in (tmp_path / "bus.db", tmp_path / "bus.db"):
            log = EmbeddedBus(path)
            logs.append((await log.subscribe("g", [Topic.EVENTS])).log)
            await log.close()
        (tmp_path / "bus.db").unlink()
    assert logs[0] == logs[1] != logs[2] == logs[3]


async def test_retention_keeps_what_a_group_has_not_read(tmp_path: Path) -> None:
    bus = EmbeddedBus(tmp_path / "bus.db", max_bytes=1_000, hard_max_bytes=100_000)
    slow = await bus.subscribe("slow", [Topic.WINDOWS])
    for _ in range(20):
        await bus.publish([Record(Topic.WINDOWS, "k", bytes(100))])
    assert (await slow.lag()).records == 20
    got = await slow.poll(max_records=15, timeout_s=5)
    assert len(got) == 15
    await slow.commit({got[-1].partition: Commit(got[-1].offset + 1)})
    await bus.publish([Record(Topic.WINDOWS, "k", bytes(100))])
    left = await read_all(bus, "late", [Topic.WINDOWS], 10)
    assert left[0].offset == 11
    await bus.close()


async def test_a_topic_that_nobody_reads_drops_its_oldest(tmp_path: Path) -> None:
    bus = EmbeddedBus(tmp_path / "bus.db", max_bytes=1_000, hard_max_bytes=2_000)
    for i in range(100):
        await bus.publish([Record(Topic.DEAD_LETTER, "k", bytes(99) + bytes([i]))])
    left = await read_all(bus, "late", [Topic.DEAD_LETTER], 10)
    assert [received.value[-1] for received in left] == list(range(90, 100))
    await bus.close()


async def test_a_full_topic_refuses_and_goes_on_when_it_was_read(tmp_path: Path) -> None:
    bus = EmbeddedBus(tmp_path / "bus.db", max_bytes=500, hard_max_bytes=1_000)
    slow = await bus.subscribe("slow", [Topic.WINDOWS])
    await bus.publish([Record(Topic.WINDOWS, "k", bytes(100)) for _ in range(10)])
    with pytest.raises(BusUnavailable, match="windows is full"):
        await bus.publish([Record(Topic.WINDOWS, "k", bytes(100))])
    got = await slow.poll(max_records=100, timeout_s=5)
    await slow.commit({got[-1].partition: Commit(got[-1].offset + 1)})
    await bus.publish([Record(Topic.WINDOWS, "k", bytes(100))])
    await bus.close()


async def test_a_file_that_is_no_log_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "bus.db").write_bytes(b"this is no database, it is a text of some length" * 100)
    with pytest.raises(BusError, match=r"bus\.db cannot be opened"):
        EmbeddedBus(tmp_path / "bus.db")
