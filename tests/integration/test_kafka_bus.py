"""The bus on a real Kafka, by what the port promises: what is published, who reads it, and how members share it."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence

import pytest
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.structs import OffsetAndMetadata
from tests.integration.kafka_support import (
    admin_of,
    all_left,
    applied,
    eventually,
    is_in_order_of_time,
    opened,
    partition_of,
    prefixed,
    raw_producer,
    read,
    record,
    spread,
    until,
    values,
)

from helios_core.bus.base import (
    MAX_METADATA_BYTES,
    MAX_RECORD_BYTES,
    Commit,
    Consumer,
    Lag,
    Partition,
    Received,
    Record,
    Topic,
)
from helios_core.bus.kafka import topics
from helios_core.bus.kafka.bus import KafkaBus
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.errors import BusRejected, BusUnavailable

pytestmark = pytest.mark.engines

# A member in a process of its own: it says which records it polled, and commits none.
MEMBER = """
import asyncio, sys
from helios_core.bus.base import Topic
from helios_core.bus.kafka.bus import KafkaBus
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.errors import BusUnavailable

async def main(bootstrap, prefix):
    bus = KafkaBus(KafkaSettings(bootstrap, prefix=prefix))
    consumer = await bus.subscribe("g", [Topic.WINDOWS])
    print("joined", flush=True)
    while True:
        try:
            for received in await consumer.poll(max_records=50, timeout_s=0.5):
                print(received.value.decode(), flush=True)
        except BusUnavailable:
            await asyncio.sleep(0.1)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def settings(kafka: str) -> KafkaSettings:
    return await applied(kafka, partitions=4)


@pytest.fixture
async def bus(settings: KafkaSettings) -> AsyncIterator[KafkaBus]:
    async with opened(settings) as made:
        yield made


def member_of(settings: KafkaSettings) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", MEMBER, settings.bootstrap, settings.prefix]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def joined(settings: KafkaSettings) -> subprocess.Popen[str]:
    """One that is a member already."""
    process = member_of(settings)
    assert process.stdout is not None
    assert process.stdout.readline() == "joined\n"
    return process


def commits_of(received: Sequence[Received]) -> dict[Partition, Commit]:
    return {one.partition: Commit(one.offset + 1) for one in received}


# Publishing


async def test_records_of_a_key_stay_in_one_partition_and_in_order(bus: KafkaBus) -> None:
    for turn in range(20):
        await bus.publish([record(f"key{i % 9}", f"{turn:02d}-{i:03d}") for i in range(90)])
    consumer = await bus.subscribe("g", [Topic.WINDOWS])
    found = await all_left(consumer)
    assert len(found) == 1_800
    by_key: defaultdict[str, list[Received]] = defaultdict(list)
    for one in found:
        by_key[one.key].append(one)
    assert len(by_key) == 9
    for of_key in by_key.values():
        assert len({one.partition for one in of_key}) == 1
        assert values(of_key) == sorted(values(of_key))
    assert len({one.partition for one in found}) > 1


@pytest.mark.parametrize("compression", ["zstd", "lz4", "snappy", "gzip", "none"])
async def test_the_largest_record_passes_by_every_compression(kafka: str, compression: str) -> None:
    settings = await applied(kafka, partitions=1, compression=compression)
    headers = {"name": "Größe ☃", "x" * 50: "y" * 500}
    key = "k" * 100
    room = MAX_RECORD_BYTES - sum(len(text.encode()) for text in (key, *headers, *headers.values()))
    for noise in (random.Random(3).randbytes(room), bytes(room)):
        async with opened(settings) as bus:
            await bus.publish([record("k", "before"), Record(Topic.WINDOWS, key, noise, headers)])
            consumer = await bus.subscribe(f"g{noise[:1].hex()}", [Topic.WINDOWS])
            found = await all_left(consumer)
            assert found[-1].value == noise
            assert found[-1].headers == headers
            with pytest.raises(BusRejected, match="windows"):
                await bus.publish([record("k", "good"), Record(Topic.WINDOWS, key, noise + b"1", headers)])
            assert await all_left(consumer) == []


@pytest.mark.parametrize("text", ["", "größer ☃ 𝄞", "a\nb\0c", "lone \ud800 surrogate"])
async def test_any_text_is_a_key_and_a_header(bus: KafkaBus, text: str) -> None:
    await bus.publish([Record(Topic.EVENTS, text, b"", {"plain": text, f"n{text[:5]}": "v"})])
    (found,) = await all_left(await bus.subscribe("g", [Topic.EVENTS]))
    assert (found.key, found.value) == (text, b"")
    assert found.headers == {"plain": text, f"n{text[:5]}": "v"}


async def test_many_publishers_at_once(bus: KafkaBus) -> None:
    async def publish(task: int) -> None:
        for i in range(10):
            await bus.publish([record(f"{task}", f"{task}-{i}-{j}") for j in range(3)])

    await asyncio.gather(*map(publish, range(200)))
    found = await all_left(await bus.subscribe("g", [Topic.WINDOWS]))
    assert len({*values(found)}) == len(found) == 6_000
    for task in range(200):
        own = [one for one in values(found) if one.startswith(f"{task}-")]
        assert own == [f"{task}-{i}-{j}" for i in range(10) for j in range(3)]


async def test_publishing_nothing_is_nothing(bus: KafkaBus) -> None:
    await bus.publish([])


async def test_a_topic_that_is_not_there_is_said_with_what_to_do(kafka: str) -> None:
    async with opened(prefixed(kafka), publish_s=4) as bus:
        began_s = time.monotonic()
        with pytest.raises(BusUnavailable, match="helios topics apply"):
            await bus.publish([record("k", "v")])
        assert time.monotonic() - began_s < 5
        for at_end in (False, True):
            with pytest.raises(BusUnavailable, match="helios topics apply"):
                await bus.subscribe("g", [Topic.WINDOWS], at_end=at_end)


async def test_a_topic_that_is_made_later_is_taken_by_the_same_bus(kafka: str) -> None:
    settings = prefixed(kafka)
    async with opened(settings, publish_s=3) as bus:
        with pytest.raises(BusUnavailable):
            await bus.publish([record("k", "v")])
        await topics.apply(settings, topics.Plan(partitions=2))
        await eventually(lambda: bus.publish([record("k", "v")]))
        assert values(await all_left(await bus.subscribe("g", [Topic.WINDOWS])))[-1] == "v"


async def test_close_waits_for_what_is_being_published(settings: KafkaSettings) -> None:
    bus = KafkaBus(settings)
    await bus.publish([record("k", "first")])
    acknowledged: list[str] = []

    async def publish(task: int) -> None:
        for i in itertools.count():
            await bus.publish([record(f"{task}", f"{task}-{i}")])
            acknowledged.append(f"{task}-{i}")

    tasks = [asyncio.create_task(publish(task)) for task in range(20)]
    await asyncio.sleep(0.5)
    await bus.close()
    await bus.close()
    done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    assert {type(one) for one in done} == {BusUnavailable}
    with pytest.raises(BusUnavailable, match="closed"):
        await bus.publish([record("k", "late")])
    async with opened(settings) as other:
        found = values(await all_left(await other.subscribe("g", [Topic.WINDOWS])))
    assert len(acknowledged) > 100
    assert set(acknowledged) <= set(found)
    assert "late" not in found


# Reading


async def test_reading_without_waiting_ends_when_nothing_is_left(bus: KafkaBus) -> None:
    published = await spread(bus, keys=50, each=200)
    consumer = await bus.subscribe("g", [Topic.WINDOWS])
    assert (await consumer.lag()).records == 10_000
    found = await all_left(consumer)
    assert len(found) == 10_000
    assert set(values(found)) == published
    assert (await consumer.lag()).records == 0


async def test_an_empty_poll_returns_in_time(bus: KafkaBus) -> None:
    consumer = await bus.subscribe("g", list(Topic))
    await consumer.poll(max_records=1, timeout_s=0)
    for timeout_s in (0, 0.3, 1):
        began_s = time.monotonic()
        assert await consumer.poll(max_records=10, timeout_s=timeout_s) == []
        assert timeout_s - 0.05 <= time.monotonic() - began_s < timeout_s + 1


async def test_a_record_comes_soon_after_it_was_published(bus: KafkaBus) -> None:
    """Also where other partitions and topics are quiet."""
    consumer = await bus.subscribe("g", list(Topic))
    await bus.publish([record("warm", "up")])
    await read(consumer, 1)
    took_s = []
    for i in range(20):
        await asyncio.sleep(random.Random(i).uniform(0, 0.2))
        began_s = time.monotonic()
        await bus.publish([record(f"k{i}", f"{i}", list(Topic)[i % 6])])
        assert values(await consumer.poll(max_records=10, timeout_s=10)) == [f"{i}"]
        took_s.append(time.monotonic() - began_s)
    assert sorted(took_s)[10] < 1


@pytest.mark.parametrize("pause_s", [0, 0.05, 0.4])
async def test_partitions_and_topics_are_read_in_the_order_of_time(kafka: str, pause_s: float) -> None:
    """While it is published by many, and however slowly it is read."""
    settings = await applied(kafka, partitions=5)
    ended = asyncio.Event()
    async with opened(settings) as bus:

        async def publish(task: int) -> int:
            numbers = random.Random(task)
            for i in itertools.count():
                if ended.is_set():
                    return i
                topic = Topic.WINDOWS if numbers.random() < 0.5 else Topic.EVENTS
                await bus.publish([record(f"{task}-{i}", f"{task}-{i}", topic)])
                await asyncio.sleep(numbers.uniform(0, 0.02))
            raise AssertionError

        consumer = await bus.subscribe("g", [Topic.WINDOWS, Topic.EVENTS])
        tasks = [asyncio.create_task(publish(task)) for task in range(8)]
        found: list[Received] = []
        deadline_s = time.monotonic() + 6
        while time.monotonic() < deadline_s:
            found += await consumer.poll(max_records=40 if pause_s < 0.4 else 2_000, timeout_s=0.5)
            await asyncio.sleep(pause_s)
        ended.set()
        published = sum(await asyncio.gather(*tasks))
        found += await all_left(consumer)
    assert len(set(values(found))) == len(found) == published > 500
    # What one partition takes a millisecond earlier may be seen a few later than that of another.
    back_ms = [(before.time_us - after.time_us) // 1_000 for before, after in itertools.pairwise(found)]
    assert max(back_ms) < 30


async def test_what_was_kept_is_read_in_the_order_of_time(kafka: str) -> None:
    """One partition has far more than the others, and larger records."""
    settings = await applied(kafka, partitions=5)
    async with opened(settings) as bus:
        for turn in range(40):
            await bus.publish([Record(Topic.WINDOWS, "busy", bytes([turn]) * 200_000) for _ in range(2)])
            await bus.publish([record(f"k{i}", f"{turn}-{i}", Topic.EVENTS) for i in range(turn)])
        consumer = await bus.subscribe("g", [Topic.WINDOWS, Topic.EVENTS])
        found = await all_left(consumer, at_once=7)
    assert len(found) == 80 + sum(range(40))
    assert is_in_order_of_time(found)  # all was there before the first was read


async def test_lag_is_exact(bus: KafkaBus) -> None:
    consumer = await bus.subscribe("g", [Topic.WINDOWS, Topic.EVENTS])
    assert (await consumer.lag()).records == 0
    await spread(bus, keys=10, each=30)
    await spread(bus, keys=10, each=20, topic=Topic.EVENTS)
    assert (await consumer.lag()).records == 500
    read_ = 0
    while read_ < 500:
        got = await consumer.poll(max_records=77, timeout_s=5)
        assert 0 < len(got) <= 77
        read_ += len(got)
        assert (await consumer.lag()).records == 500 - read_
    await consumer.rewind()
    assert (await consumer.lag()).records == 500
    other = await bus.subscribe("other", [Topic.EVENTS])
    assert (await other.lag()).records == 200


async def test_commits_are_kept_with_their_metadata(bus: KafkaBus, settings: KafkaSettings) -> None:
    await spread(bus, keys=10, each=10)
    first = await bus.subscribe("g", [Topic.WINDOWS])
    assert await first.committed() == {}
    found = await all_left(first)
    done = {one.partition: Commit(one.offset + 1, os.urandom(MAX_METADATA_BYTES)) for one in found}
    assert len(done) == 4
    await first.commit(done)
    assert await first.committed() == done
    partition = found[0].partition
    with pytest.raises(BusRejected, match="metadata"):
        await first.commit({partition: Commit(1, bytes(MAX_METADATA_BYTES + 1))})
    await first.commit({})
    await first.commit({partition: Commit(1)})  # back again, as it likes
    await first.close()
    second = await bus.subscribe("g", [Topic.WINDOWS])
    assert await second.committed() == {**done, partition: Commit(1)}
    assert (await second.lag()).records == sum(one.partition == partition for one in found) - 1


async def test_offsets_that_somebody_else_has_set_are_taken(bus: KafkaBus, settings: KafkaSettings) -> None:
    """As kafka-consumer-groups --reset-offsets does, and tools that write notes of their own."""
    await bus.publish([record("k", str(i)) for i in range(5)])
    first = await bus.subscribe("g", [Topic.WINDOWS])
    found = await all_left(first)
    await first.commit(commits_of(found))
    await first.close()
    place = partition_of(settings, found[0])
    for notes in ("", "moved by hand", "é"):
        await first_commit(settings, "g", {place: OffsetAndMetadata(2, notes)})
        second = await bus.subscribe("g", [Topic.WINDOWS])
        assert (await second.committed())[found[0].partition].next_offset == 2
        assert values(await all_left(second)) == ["2", "3", "4"]
        await second.close()


async def first_commit(settings: KafkaSettings, group: str, offsets: dict[object, OffsetAndMetadata]) -> None:
    from aiokafka import AIOKafkaConsumer

    client = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap, group_id=settings.prefix + group, enable_auto_commit=False
    )
    await client.start()
    client.assign(list(offsets))
    await client.commit(offsets)
    await client.stop()


async def test_a_rewound_member_reads_what_is_kept_and_commits_stay(bus: KafkaBus) -> None:
    published = await spread(bus, keys=10, each=30)
    consumer = await bus.subscribe("g", [Topic.WINDOWS])
    await consumer.commit(commits_of(await all_left(consumer)))
    before = await consumer.committed()
    for _ in range(2):
        await consumer.rewind()
        assert set(values(await all_left(consumer))) == published
        await consumer.rewind()
        await consumer.poll(max_records=100, timeout_s=5)
    assert await consumer.committed() == before


async def test_watchers_of_one_group_both_see_everything(bus: KafkaBus) -> None:
    await spread(bus, keys=10, each=5)
    watchers = [await bus.subscribe("console", [Topic.WINDOWS, Topic.EVENTS], at_end=True) for _ in range(2)]
    assert [(await watcher.lag()).records for watcher in watchers] == [0, 0]
    made = await spread(bus, keys=10, each=30) | await spread(bus, keys=10, each=30, topic=Topic.EVENTS)
    for watcher in watchers:
        assert set(values(await read(watcher, 600))) == made
        assert await all_left(watcher) == []


async def test_groups_do_not_disturb_each_other(bus: KafkaBus) -> None:
    made = await spread(bus, keys=10, each=30)
    one = await bus.subscribe("one", [Topic.WINDOWS])
    await one.commit(commits_of(await all_left(one)))
    two = await bus.subscribe("two", [Topic.WINDOWS])
    assert await two.committed() == {}
    assert set(values(await all_left(two))) == made


# What others do to the topics


async def test_retention_has_removed_what_was_committed(bus: KafkaBus, settings: KafkaSettings) -> None:
    await bus.publish([record("k", str(i)) for i in range(100)])
    first = await bus.subscribe("g", [Topic.WINDOWS])
    got = await first.poll(max_records=10, timeout_s=5)
    await first.commit(commits_of(got))
    await first.close()
    async with admin_of(settings) as admin:
        await admin.delete_records({partition_of(settings, got[0]): RecordsToDelete(60)})
    second = await bus.subscribe("g", [Topic.WINDOWS])
    assert values(await read(second, 40)) == [str(i) for i in range(60, 100)]
    assert await all_left(second) == []
    await second.rewind()
    assert (await second.lag()).records == 40
    assert len(await all_left(second)) == 40


@pytest.mark.parametrize("is_reading", [False, True])
async def test_retention_has_removed_everything(bus: KafkaBus, settings: KafkaSettings, is_reading: bool) -> None:
    await bus.publish([record("k", str(i)) for i in range(100)])
    consumer = await bus.subscribe("g", [Topic.WINDOWS])
    got = await consumer.poll(max_records=10, timeout_s=5)
    await consumer.commit(commits_of(got))
    if not is_reading:
        await consumer.close()
    async with admin_of(settings) as admin:
        await admin.delete_records({partition_of(settings, got[0]): RecordsToDelete(100)})
    if is_reading:
        await all_left(consumer)  # what it had fetched
    else:
        consumer = await bus.subscribe("g", [Topic.WINDOWS])
    assert await consumer.poll(max_records=10, timeout_s=2) == []
    assert await all_left(consumer) == []
    assert (await consumer.lag()).records == 0
    await bus.publish([record("k", "new")])
    assert values(await read(consumer, 1)) == ["new"]


async def test_records_of_others_are_read_and_harm_nobody(bus: KafkaBus, settings: KafkaSettings) -> None:
    topic = settings.prefix + "windows"
    async with raw_producer(settings) as producer:
        await producer.send_and_wait(topic, b"no key")
        await producer.send_and_wait(topic, None, key=b"tombstone")
        await producer.send_and_wait(topic, b"key", key=b"\xff\xfe")
        await producer.send_and_wait(topic, b"header", key=b"k", headers=[("bytes", b"\xff"), ("two", b"a")])
        await producer.send_and_wait(topic, b"null", key=b"k", headers=[("null", None)])
        await producer.send_and_wait(topic, b"twice", key=b"k", headers=[("two", b"a"), ("two", b"b")])
    await bus.publish([record("k", "ours")])
    consumer = await bus.subscribe("g", [Topic.WINDOWS])
    found = await read(consumer, 7)
    assert {*values(found)} == {"no key", "", "key", "header", "null", "twice", "ours"}
    assert all(isinstance(text, str) for one in found for text in (one.key, *one.headers.values()))
    assert (await consumer.lag()).records == 0


async def test_marks_of_transactions_are_no_records(bus: KafkaBus, settings: KafkaSettings) -> None:
    """They take offsets at the end of a partition, and are never given."""
    from aiokafka import AIOKafkaProducer

    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap, transactional_id=settings.prefix)
    await producer.start()
    async with producer.transaction():
        await producer.send_and_wait(settings.prefix + "windows", b"v", key=b"k")
    await producer.stop()
    consumer = await bus.subscribe("g", [Topic.WINDOWS])
    assert values(await read(consumer, 1)) == ["v"]
    assert await consumer.poll(max_records=1, timeout_s=1) == []
    assert await all_left(consumer) == []
    assert (await consumer.lag()).records == 0


async def test_topics_of_another_prefix_are_another_log(kafka: str) -> None:
    logs = set()
    for _ in range(2):
        async with opened(await applied(kafka, partitions=2)) as bus:
            logs.add((await bus.subscribe("g", [Topic.EVENTS])).log)
    assert len(logs) == 2


# Members of a group


class Member:
    """Reads in a task of its own, and commits what it has read, or not."""

    def __init__(self, consumer: Consumer, *, commits: bool = True, pause_s: float = 0.0) -> None:
        self.consumer = consumer
        self.found: list[Received] = []
        self.given: Counter[tuple[Partition, int]] = Counter()
        self._commits, self._pause_s = commits, pause_s
        self._ending = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._ending.is_set():
            got = await self.consumer.poll(max_records=20, timeout_s=0.3)
            self.found += got
            self.given.update((one.partition, one.offset) for one in got)
            if self._commits and got:
                await self.consumer.commit(commits_of(got))
            await asyncio.sleep(self._pause_s)

    async def end(self) -> None:
        self._ending.set()
        await self._task

    def twice(self) -> list[tuple[Partition, int]]:
        return [place for place, times in self.given.items() if times > 1]

    def skipped(self) -> list[tuple[Partition, int]]:
        """Offsets between those of one partition that it was not given."""
        by_partition: defaultdict[Partition, list[int]] = defaultdict(list)
        for partition, offset in self.given:
            by_partition[partition].append(offset)
        return [
            (partition, offset)
            for partition, offsets in by_partition.items()
            for offset in set(range(min(offsets), max(offsets))) - set(offsets)
        ]


async def test_two_members_share_the_partitions_and_one_leaves(bus: KafkaBus) -> None:
    published = await spread(bus, keys=20, each=20)
    first = Member(await bus.subscribe("g", [Topic.WINDOWS]))
    second = Member(await bus.subscribe("g", [Topic.WINDOWS]))
    for turn in range(20):
        published |= await numbered(bus, turn)
        await asyncio.sleep(0.1)
    await until(lambda: {*values(first.found), *values(second.found)} == published)
    assert {one.partition for one in second.found}
    await second.end()
    await second.consumer.close()
    for turn in range(20, 30):
        published |= await numbered(bus, turn)
    await until(lambda: {*values(first.found), *values(second.found)} == published)
    await first.end()
    assert first.twice() == second.twice() == []
    late = values(first.found)
    assert all(value in late for value in await numbered_values(range(20, 30)))
    assert (await first.consumer.lag()).records == 0


async def numbered(bus: KafkaBus, turn: int) -> set[str]:
    await bus.publish([record(f"key{i}", f"t{turn}-{i}") for i in range(20)])
    return {f"t{turn}-{i}" for i in range(20)}


async def numbered_values(turns: range) -> set[str]:
    return {f"t{turn}-{i}" for turn in turns for i in range(20)}


async def test_a_member_whose_process_dies_is_followed_by_the_other(bus: KafkaBus, settings: KafkaSettings) -> None:
    published = await spread(bus, keys=20, each=50)
    process = member_of(settings)
    try:
        assert process.stdout is not None
        lines = await asyncio.to_thread(lambda: [process.stdout.readline() for _ in range(300)])  # type: ignore[union-attr]
        assert lines[0] == "joined\n"
        first = Member(await bus.subscribe("g", [Topic.WINDOWS]))
        await asyncio.sleep(1)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
    await until(lambda: {*values(first.found)} == published)  # it had committed nothing
    await first.end()
    assert first.twice() == []
    assert (await first.consumer.lag()).records == 0


async def test_partitions_that_stay_go_on_where_they_were(bus: KafkaBus) -> None:
    """Nothing is committed: what a member has read is known by where it is."""
    first = Member(await bus.subscribe("g", [Topic.WINDOWS]), commits=False, pause_s=0.05)
    for turn in range(15):
        await numbered(bus, turn)
    await until(lambda: len(first.found) > 100)
    for _ in range(3):
        other = await bus.subscribe("g", [Topic.WINDOWS])
        await other.close()
    await until(lambda: {*values(first.found)} == {f"t{turn}-{i}" for turn in range(15) for i in range(20)})
    await first.end()
    assert first.skipped() == []


async def test_a_member_that_keeps_its_partitions_is_given_nothing_twice(bus: KafkaBus) -> None:
    """The other one gets none: there are as many members as it takes to have all, and more."""
    published: set[str] = set()
    for turn in range(15):
        published |= await numbered(bus, turn)
    alone = await bus.subscribe("g", [Topic.ANOMALY_ALERTS])  # shares the group, and no topic
    first = Member(await bus.subscribe("g", [Topic.WINDOWS]), commits=False, pause_s=0.05)
    await until(lambda: len(first.found) > 60)
    for _ in range(3):
        other = await bus.subscribe("g", [Topic.ANOMALY_ALERTS])
        await other.close()
    await until(lambda: {*values(first.found)} == published)
    await first.end()
    assert first.twice() == []
    assert first.skipped() == []
    await alone.close()


async def test_who_asks_for_the_lag_passes_over_nothing(bus: KafkaBus, settings: KafkaSettings) -> None:
    """As the store writer does after each write, with more at hand than it was given, while the group waits for one."""
    published: set[str] = set()
    for turn in range(10):
        published |= await numbered(bus, turn)
    first = await bus.subscribe("g", [Topic.WINDOWS])
    slow = await asyncio.to_thread(joined, settings)
    found: list[Received] = []
    try:
        while not found:  # all partitions that it has wait with more
            found += await first.poll(max_records=1, timeout_s=0.5)
        slow.send_signal(signal.SIGSTOP)
        coming = asyncio.create_task(bus.subscribe("g", [Topic.WINDOWS]))
        began_s = time.monotonic()
        while (now_s := time.monotonic()) < began_s + 7:
            if now_s > began_s + 5:
                slow.send_signal(signal.SIGCONT)
            await eventually(first.lag)
    finally:
        slow.kill()
        slow.wait()
        slow.stdout.close()  # type: ignore[union-attr]
    await (await coming).close()
    member = Member(first, commits=False)
    await until(lambda: {*values(found), *values(member.found)} == published)
    await member.end()


async def test_a_rewound_member_goes_on_at_its_own_place(bus: KafkaBus) -> None:
    published: set[str] = set()
    for turn in range(30):
        published |= await numbered(bus, turn)
    consumer = await bus.subscribe("g", [Topic.WINDOWS])
    await consumer.commit(commits_of(await all_left(consumer)))
    await consumer.rewind()
    member = Member(consumer, commits=False, pause_s=0.1)
    await until(lambda: len(member.found) >= 200)
    other = await bus.subscribe("g", [Topic.ANOMALY_ALERTS])
    await until(lambda: {*values(member.found)} == published)
    await member.end()
    assert member.twice() == []
    await other.close()


async def test_rewound_and_then_shared_before_it_reads(bus: KafkaBus) -> None:
    published = await numbered(bus, 0)
    consumer = await bus.subscribe("g", [Topic.WINDOWS])
    await consumer.commit(commits_of(await all_left(consumer)))
    await consumer.rewind()
    other = await bus.subscribe("g", [Topic.ANOMALY_ALERTS])
    assert set(values(await all_left(consumer))) == published
    await other.close()


async def test_while_the_group_is_shared_anew_nothing_is_made_up(bus: KafkaBus) -> None:
    """Lag, commits, rewind and an empty poll say what is so, or that they cannot, never that there is nothing."""
    published = await numbered(bus, 0)
    consumer = await bus.subscribe("g", [Topic.WINDOWS])
    commits = commits_of(await all_left(consumer))
    await consumer.commit(commits)
    ended = asyncio.Event()

    async def come_and_go() -> None:
        while not ended.is_set():
            other = await bus.subscribe("g", [Topic.ANOMALY_ALERTS])
            await asyncio.sleep(0.2)
            await other.close()
            await asyncio.sleep(0.2)

    going = asyncio.create_task(come_and_go())
    deadline_s = time.monotonic() + 15
    turns = 0
    while time.monotonic() < deadline_s:
        turns += 1
        assert await eventually(consumer.committed) == {p: Commit(c.next_offset) for p, c in commits.items()}
        await eventually(consumer.rewind)
        assert (await eventually(consumer.lag)).records == len(published)
        assert set(values(await all_left(consumer))) == published
        await asyncio.sleep(0.01)
    ended.set()
    await going
    assert turns > 5


async def test_a_partition_that_comes_back_goes_on_at_the_others_commit(bus: KafkaBus) -> None:
    first = await bus.subscribe("g", [Topic.WINDOWS])
    await numbered(bus, 0)
    seen = await all_left(first)
    await first.commit(commits_of(seen))
    second = Member(await bus.subscribe("g", [Topic.WINDOWS]))
    member = Member(first)
    for turn in range(1, 15):
        await numbered(bus, turn)
        await asyncio.sleep(0.1)
    await until(lambda: len({*values(seen), *values(member.found), *values(second.found)}) == 300)
    assert second.found
    await second.end()
    await second.consumer.close()
    await numbered(bus, 15)
    await until(lambda: {f"t15-{i}" for i in range(20)} <= {*values(member.found)})
    await member.end()
    assert member.twice() == []
    both = member.given.keys() & second.given.keys()
    assert len(both) <= 40  # of the polls during which they shared anew


async def test_commits_for_what_was_given_away_do_no_harm(bus: KafkaBus) -> None:
    await numbered(bus, 0)
    first = await bus.subscribe("g", [Topic.WINDOWS])
    old = await all_left(first)
    await numbered(bus, 1)
    second = await bus.subscribe("g", [Topic.WINDOWS])
    new = await all_left(second)
    await second.commit(commits_of(new))
    theirs = await second.committed()
    assert theirs
    await first.commit({one.partition: Commit(1) for one in old})
    assert await second.committed() == theirs
    assert {one.partition for one in new}.isdisjoint(await first.committed())


async def test_more_members_than_partitions(kafka: str) -> None:
    settings = await applied(kafka, partitions=1)
    async with opened(settings) as bus:
        members = [Member(await bus.subscribe("g", [Topic.WINDOWS])) for _ in range(3)]
        await bus.publish([record("k", str(i)) for i in range(50)])
        await until(lambda: len({value for member in members for value in values(member.found)}) == 50)
        lags = [(await member.consumer.lag()).records for member in members]
        assert lags == [0, 0, 0]
        for member in members:
            await member.end()


async def test_who_is_frozen_too_long_comes_back(bus: KafkaBus, settings: KafkaSettings) -> None:
    """Its process stood still for longer than the group waits; another went on; nothing is lost."""
    process = member_of(settings)
    try:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "joined\n"
        process.send_signal(signal.SIGSTOP)
        published = await numbered(bus, 0)
        first = Member(await bus.subscribe("g", [Topic.WINDOWS]))
        await until(lambda: {*values(first.found)} == published)
        process.send_signal(signal.SIGCONT)
        theirs: set[str] = set()
        for turn in range(1, 200):
            await numbered(bus, turn)
            published |= await numbered_values(range(turn, turn + 1))
            await asyncio.sleep(0.05)
        await first.end()
        theirs |= {*values(first.found)}
        while theirs != published:
            line = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 20)
            assert line, f"it has ended; {len(published - theirs)} are missing"
            theirs.add(line.strip())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


async def test_the_time_of_the_bus_is_known_from_below_and_goes_on_while_nothing_comes(bus: KafkaBus) -> None:
    consumer = await bus.subscribe("g", [Topic.WINDOWS])
    assert await consumer.lag() == Lag(0, 0)
    for _ in range(5):
        await bus.publish([record("k", "v")])
        assert await consumer.poll(max_records=10, timeout_s=5)
    for _ in range(3):
        asked_us = time.time_ns() // 1_000  # the broker is on this machine
        lag = await consumer.lag()
        assert lag.records == 0
        assert asked_us - 1_000_000 < lag.asked_us <= asked_us + 1_000
        await asyncio.sleep(0.3)
    await bus.publish([record("k", "later")])
    (later,) = await consumer.poll(max_records=10, timeout_s=5)
    assert later.time_us >= lag.asked_us
