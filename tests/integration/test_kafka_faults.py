"""Brokers that are away, die, or accept and never answer: what was acknowledged is there, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.consumer.group_coordinator import CoordinatorGroupRebalance
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import KafkaError
from tests.engines.kafka.broker import Brokers, missing
from tests.integration.kafka_support import (
    admin_of,
    all_left,
    applied,
    eventually,
    opened,
    prefixed,
    read,
    record,
    values,
)

from helios_core.bus.base import Commit, Consumer, Received, Record, Topic
from helios_core.bus.kafka import topics
from helios_core.bus.kafka.bus import KafkaBus, partition_of
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.errors import BusUnavailable

pytestmark = pytest.mark.engines


def brokers_in(folder: Path, nodes: int = 1) -> Brokers:
    if missing():
        pytest.fail(f"no Kafka: {missing()}")
    return Brokers(folder, nodes)


@pytest.fixture
async def settings(broker: Brokers) -> KafkaSettings:
    return await applied(broker.bootstrap, partitions=4)


@pytest.fixture
async def bus(settings: KafkaSettings) -> AsyncIterator[KafkaBus]:
    async with opened(settings, publish_s=4) as made:
        yield made


class Publishing:
    """Several tasks that publish numbered records, each again until it is acknowledged."""

    def __init__(self, bus: KafkaBus, tasks: int, pause_s: float = 0.005) -> None:
        self.acknowledged: set[str] = set()
        self.refused = 0
        self.longest_s = 0.0
        self._bus, self._pause_s = bus, pause_s
        self._ending = asyncio.Event()
        self._tasks = [asyncio.create_task(self._run(task)) for task in range(tasks)]

    async def _run(self, task: int) -> None:
        for i in itertools.count():
            made = [record(f"key{task}", f"{task}-{i}-{j}") for j in range(3)]
            while True:
                began_s = time.monotonic()
                try:
                    await self._bus.publish(made)
                    break
                except BusUnavailable:
                    self.refused += 1
                    if self._ending.is_set():
                        return
                finally:
                    self.longest_s = max(self.longest_s, time.monotonic() - began_s)
                await asyncio.sleep(0.1)
            self.acknowledged |= {one.value.decode() for one in made}
            if self._ending.is_set():
                return
            await asyncio.sleep(self._pause_s)

    async def end(self) -> None:
        self._ending.set()
        await asyncio.gather(*self._tasks)


async def took_s(call: Callable[[], Awaitable[object]], match: str | None = None) -> float:
    """How long it took to be refused."""
    began_s = time.monotonic()
    with pytest.raises(BusUnavailable, match=match):
        await call()
    return time.monotonic() - began_s


async def until_refused(consumer: Consumer) -> None:
    """Polls on, after what it had fetched before."""
    while True:
        await consumer.poll(max_records=100, timeout_s=0.5)


async def test_what_was_acknowledged_outlives_the_broker(broker: Brokers, bus: KafkaBus) -> None:
    publishing = Publishing(bus, 20)
    for _ in range(2):
        before = len(publishing.acknowledged)
        deadline_s = time.monotonic() + 30
        while len(publishing.acknowledged) < before + 1_000:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.01)
        await asyncio.to_thread(broker.kill)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(broker.restart)
    before = len(publishing.acknowledged)
    deadline_s = time.monotonic() + 30
    while len(publishing.acknowledged) < before + 100:  # the same bus goes on
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)
    await publishing.end()
    consumer = await bus.subscribe("g", [Topic.WINDOWS])
    found = values(await all_left(consumer))
    assert publishing.acknowledged <= set(found)
    for task in range(20):  # the order of a key, by when each was there first
        own = [text for text in dict.fromkeys(found) if text.startswith(f"{task}-")]
        assert own == sorted(own, key=lambda text: [int(number) for number in text.split("-")])


async def test_a_broker_that_is_away_from_the_beginning(broker: Brokers, settings: KafkaSettings) -> None:
    await asyncio.to_thread(broker.kill)
    async with opened(settings, publish_s=4) as bus:
        assert await took_s(lambda: bus.publish([record("k", "v")]), "brokers of kafka.bootstrap are up") < 5
        assert await took_s(lambda: bus.subscribe("g", [Topic.WINDOWS]), "kafka.bootstrap") < 40
        assert await took_s(lambda: bus.subscribe("g", [Topic.WINDOWS], at_end=True), "kafka.bootstrap") < 40
        assert await took_s(lambda: topics.check(settings), "kafka.bootstrap") < 60
        await asyncio.to_thread(broker.restart)
        await eventually(lambda: bus.publish([record("k", "v")]))
        consumer = await eventually(lambda: bus.subscribe("g", [Topic.WINDOWS]))
        assert set(values(await read(consumer, 1))) == {"v"}


async def test_a_broker_that_accepts_and_never_answers_from_the_beginning(
    broker: Brokers, settings: KafkaSettings
) -> None:
    broker.freeze()
    try:
        async with opened(settings, publish_s=3) as bus:
            refusals = [took_s(lambda: bus.publish([record("k", "v")])) for _ in range(5)]
            assert max(await asyncio.gather(*refusals)) < 4
            assert await took_s(lambda: bus.publish([record("k", "v")]), "kafka.bootstrap") < 4
            assert await took_s(lambda: bus.subscribe("g", [Topic.WINDOWS])) < 40
            broker.thaw()
            await eventually(lambda: bus.publish([record("k", "v")]))
            consumer = await eventually(lambda: bus.subscribe("g", [Topic.WINDOWS]))
            assert set(values(await read(consumer, 1))) == {"v"}
    finally:
        broker.thaw()


async def test_a_broker_that_stops_to_answer(broker: Brokers, bus: KafkaBus) -> None:
    """Every call of the port is refused in a time that somebody can wait for, and works again after."""
    await bus.publish([record(f"k{i}", f"before {i}") for i in range(40)])
    readers = [await bus.subscribe(f"g{i}", [Topic.WINDOWS]) for i in range(5)]
    watcher = await bus.subscribe("w", [Topic.WINDOWS], at_end=True)
    first = await read(readers[0], 10, at_once=10)
    commits = {one.partition: Commit(one.offset + 1) for one in first}
    broker.freeze()
    try:
        publishing = [took_s(lambda: bus.publish([record("k", "during")]), "kafka.bootstrap") for _ in range(20)]
        large = [Record(Topic.EVENTS, "k", bytes(1_000_000))] * 20
        assert max(await asyncio.gather(*publishing, took_s(lambda: bus.publish(large)))) < 5
        asking = [
            took_s(lambda: readers[0].commit(commits), "kafka.bootstrap"),
            took_s(readers[1].committed, "kafka.bootstrap"),
            took_s(readers[2].lag, "kafka.bootstrap"),
            took_s(readers[3].rewind, "kafka.bootstrap"),
            took_s(lambda: until_refused(readers[4]), "kafka.bootstrap"),
            took_s(lambda: watcher.poll(max_records=100, timeout_s=0), "kafka.bootstrap"),
        ]
        assert max(await asyncio.gather(*asking)) < 15
    finally:
        broker.thaw()
    await eventually(lambda: bus.publish([record("k", "after")]))
    found = set(values(first))
    deadline_s = time.monotonic() + 60
    while not found >= {f"before {i}" for i in range(40)} | {"after"}:
        assert time.monotonic() < deadline_s
        found |= set(values(await eventually(lambda: readers[0].poll(max_records=100, timeout_s=1))))
    await eventually(lambda: readers[0].commit(commits))
    assert await eventually(readers[0].committed) == commits
    seen = await read(watcher, 1)
    while "after" not in values(seen):
        seen += await read(watcher, 1)


async def test_a_consumer_lives_through_a_restart(broker: Brokers, bus: KafkaBus) -> None:
    consumer = await bus.subscribe("g", [Topic.WINDOWS])
    given: list[str] = []
    ended = asyncio.Event()

    async def poll() -> None:
        while not ended.is_set():
            try:
                got = await consumer.poll(max_records=50, timeout_s=0.5)
                given.extend(values(got))
                if got:
                    await consumer.commit({one.partition: Commit(one.offset + 1) for one in got})
            except BusUnavailable:
                await asyncio.sleep(0.2)

    polling = asyncio.create_task(poll())
    publishing = Publishing(bus, 5)
    for _ in range(2):
        await asyncio.sleep(2)
        await asyncio.to_thread(broker.kill)
        await asyncio.sleep(3)
        await asyncio.to_thread(broker.restart)
    await asyncio.sleep(3)
    await publishing.end()
    deadline_s = time.monotonic() + 60
    while not publishing.acknowledged <= set(given):
        assert time.monotonic() < deadline_s, len(publishing.acknowledged - set(given))
        await asyncio.sleep(0.2)
    ended.set()
    await polling
    assert (await eventually(consumer.lag)).records == 0


async def test_who_could_not_poll_for_long_goes_on(
    broker: Brokers, bus: KafkaBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker, or the store, was away for hours: what was read before is to be committed before the next poll."""
    await bus.publish([record(f"key{n}", str(n)) for n in range(20)])
    consumer = await bus.subscribe("patient", (Topic.WINDOWS,))
    received = await read(consumer, 20)
    # Nobody has polled for three hours, as far as the group can tell.
    monkeypatch.setattr(SubscriptionState, "fetcher_idle_time", property(lambda _: 3 * 3_600.0))
    broker.kill()
    await asyncio.to_thread(broker.restart)
    commits = {one.partition: Commit(one.offset + 1) for one in received}
    await eventually(lambda: consumer.commit(commits), within_s=60)
    assert {p: c.next_offset for p, c in (await eventually(consumer.committed)).items() if p in commits} == {
        p: c.next_offset for p, c in commits.items()
    }
    await eventually(lambda: bus.publish([record("key0", "after")]))
    assert values(await read(consumer, 1)) == ["after"]


async def test_memory_is_bounded_while_the_broker_is_away(broker: Brokers, settings: KafkaSettings) -> None:
    """However it is away."""

    def resident_mb() -> float:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    async def flood(bus: KafkaBus, ended: asyncio.Event, task: int) -> int:
        refused = 0
        noise = random.Random(task).randbytes(100_000)
        while not ended.is_set():
            try:
                await bus.publish([Record(Topic.EVENTS, f"{task}-{refused}", noise)] * 20)
            except BusUnavailable:
                refused += 1
        return refused

    async with opened(settings, publish_s=2) as bus:
        await bus.publish([Record(Topic.EVENTS, f"{i}", bytes(100_000)) for i in range(100)])
        for away, back in ((broker.freeze, broker.thaw), (broker.kill, broker.restart)):
            before = resident_mb()
            await asyncio.to_thread(away)
            try:
                ended = asyncio.Event()
                tasks = [asyncio.create_task(flood(bus, ended, task)) for task in range(50)]
                highest = 0.0
                for _ in range(80):
                    await asyncio.sleep(0.1)
                    highest = max(highest, resident_mb())
                ended.set()
                assert all(await asyncio.gather(*tasks))
            finally:
                await asyncio.to_thread(back)
            assert highest - before < 100
        await eventually(lambda: bus.publish([record("k", "v")]))


async def test_nothing_of_a_bus_is_left_when_it_is_closed(broker: Brokers, settings: KafkaSettings) -> None:
    before = asyncio.all_tasks()
    for away, back in ((broker.freeze, broker.thaw), (broker.kill, broker.restart), (None, None)):
        bus = KafkaBus(settings, publish_s=2)
        await eventually(lambda bus=bus: bus.publish([record("k", "v")]))  # type: ignore[misc]
        await bus.subscribe("g", [Topic.WINDOWS])
        if away is not None:
            await asyncio.to_thread(away)
        try:
            waiting = asyncio.create_task(bus.publish([record("k", "v")]))
            await asyncio.sleep(0.1)
            began_s = time.monotonic()
            await bus.close()
            assert time.monotonic() - began_s < 12
            await asyncio.wait({waiting})
            assert waiting.exception() is None or isinstance(waiting.exception(), BusUnavailable)
        finally:
            if back is not None:
                await asyncio.to_thread(back)
    deadline_s = time.monotonic() + 90
    while left := asyncio.all_tasks() - before:
        assert time.monotonic() < deadline_s, left
        await asyncio.sleep(0.2)


# Three brokers


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    made = brokers_in(tmp_path_factory.mktemp("three"), 3)
    try:
        made.start_all()
        yield made
    finally:
        for node in range(3):
            made.thaw(node)
        made.stop()


async def leader_of(settings: KafkaSettings, partition: int) -> int:
    """The number of the node, as the tests count them."""
    async with admin_of(settings) as admin:
        (described,) = await admin.describe_topics([settings.prefix + "windows"])
    return next(p["leader"] for p in described["partitions"] if p["partition"] == partition) - 1


async def in_sync(settings: KafkaSettings) -> bool:
    try:
        states = await topics.check(settings)
    except BusUnavailable:
        return False
    return not any(state.warnings or state.faults for state in states)


async def all_in_sync(settings: KafkaSettings) -> None:
    deadline_s = time.monotonic() + 60
    while not await in_sync(settings):
        assert time.monotonic() < deadline_s, await topics.check(settings)
        await asyncio.sleep(0.3)


@pytest.mark.slow
async def test_three_brokers_lose_nothing(cluster: Brokers) -> None:
    """Killed, restarted, frozen and thawed one at a time, the leader of a busy partition among them."""
    settings = await applied(cluster.bootstrap, partitions=6)
    await all_in_sync(settings)
    moments = random.Random(5)
    async with opened(settings) as bus:
        consumer = await bus.subscribe("g", [Topic.WINDOWS])
        publishing = Publishing(bus, 10)
        given: set[str] = set()
        ended = asyncio.Event()

        async def poll() -> None:
            while not ended.is_set():
                try:
                    got = await consumer.poll(max_records=500, timeout_s=0.5)
                except BusUnavailable:
                    await asyncio.sleep(0.2)
                else:
                    given.update(values(got))

        polling = asyncio.create_task(poll())
        await asyncio.sleep(1)
        progress = []
        for turn in range(6):
            node = await leader_of(settings, moments.randrange(6)) if turn % 2 else turn // 2
            before = len(publishing.acknowledged)
            if turn % 3 == 2:
                cluster.freeze(node)
                await asyncio.sleep(moments.uniform(3, 12))
                cluster.thaw(node)
            else:
                await asyncio.to_thread(cluster.kill, node)
                await asyncio.sleep(moments.uniform(0.5, 5))
                await asyncio.to_thread(cluster.restart, node)
            await all_in_sync(settings)
            await asyncio.sleep(0.5)
            progress.append(len(publishing.acknowledged) - before)
        assert all(progress), progress
        await publishing.end()
        deadline_s = time.monotonic() + 60
        while not publishing.acknowledged <= given:
            assert time.monotonic() < deadline_s, len(publishing.acknowledged - given)
            await asyncio.sleep(0.2)
        ended.set()
        await polling
        assert publishing.longest_s < 11
        found = values(await all_left(await bus.subscribe("after", [Topic.WINDOWS])))
        assert publishing.acknowledged <= set(found)
        assert len(publishing.acknowledged) > 1_000


@pytest.mark.slow
async def test_with_two_of_three_away_nothing_is_acknowledged(cluster: Brokers) -> None:
    """One copy is not enough; and what has all its copies elsewhere is said to be away."""
    settings = await applied(cluster.bootstrap, partitions=3)
    await all_in_sync(settings)
    async with opened(settings, publish_s=4) as bus:
        await bus.publish([record(f"k{i}", f"{i}") for i in range(30)])
        await asyncio.to_thread(cluster.kill, 0)
        await asyncio.to_thread(cluster.kill, 1)
        try:
            await asyncio.sleep(1)
            for i in range(3):
                assert await took_s(lambda i=i: bus.publish([record(f"k{i}", "lost")])) < 5  # type: ignore[misc]
        finally:
            await asyncio.to_thread(cluster.restart, 0)
            await asyncio.to_thread(cluster.restart, 1)
        await all_in_sync(settings)
        await eventually(lambda: bus.publish([record("k", "after")]))
        consumer = await eventually(lambda: bus.subscribe("g", [Topic.WINDOWS]))
        found = await read(consumer, 31)
        assert {str(i) for i in range(30)} <= set(values(found))


@pytest.mark.slow
async def test_a_cluster_of_three_has_three_copies(cluster: Brokers) -> None:
    settings = prefixed(cluster.bootstrap)
    await eventually(lambda: topics.apply(settings))
    await all_in_sync(settings)
    states = await topics.check(settings)
    assert {(state.partitions, state.replication, state.faults, state.warnings) for state in states} == {
        (10, 3, (), ())
    }
    async with admin_of(settings) as admin:
        from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

        for state in states:
            (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, state.name)])
            found = {entry[0]: entry[1] for entry in answer.resources[0][4]}
            assert found["min.insync.replicas"] == "2"
            assert found["unclean.leader.election.enable"] == "false"
    await asyncio.to_thread(cluster.kill, 2)
    try:
        deadline_s = time.monotonic() + 30
        while not any(state.warnings for state in await eventually(lambda: topics.check(settings))):
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.3)
        states = await eventually(lambda: topics.apply(settings))
        assert all("behind" in " ".join(state.warnings) for state in states)
        assert not any(state.made or state.changed or state.faults for state in states)
    finally:
        await asyncio.to_thread(cluster.restart, 2)
    await all_in_sync(settings)


async def test_a_damaged_batch_holds_up_its_own_partition_alone(broker: Brokers) -> None:
    """A bit that has flipped on the broker's disk; later a good replica leads."""
    settings = await applied(broker.bootstrap, partitions=2, compression="none")
    keys = {partition_of(f"k{i}".encode(), [0, 1]): f"k{i}" for i in range(20)}
    async with opened(settings) as bus:
        await bus.publish([record(keys[1], "DAMAGED")])
        (path,) = broker.logs().glob(f"{settings.prefix}windows-1/*.log")
        at = path.read_bytes().index(b"DAMAGED")
        _flip(path, at)
        consumer = await bus.subscribe("g", [Topic.WINDOWS])
        sent: set[str] = set()
        found: list[str] = []
        for turn in range(6):
            made = [f"{turn}-{i}" for i in range(10)]
            await bus.publish([record(keys[0], value) for value in made])
            sent |= {*made}
            with contextlib.suppress(BusUnavailable):
                found += values(await consumer.poll(max_records=1_000, timeout_s=0.5))
        assert len(found) >= 40
        fault = ""
        while not fault:
            try:
                found += values(await consumer.poll(max_records=1_000, timeout_s=0.2))
            except BusUnavailable as error:
                fault = str(error)
        assert "windows, partition 1, from offset 0 on cannot be read" in fault
        assert {*found} == sent
        _flip(path, at)
        while len(found) < len(sent) + 1:
            found += values(await eventually(lambda: consumer.poll(max_records=1_000, timeout_s=0.5)))
    assert sorted(found) == sorted({*sent, "DAMAGED"})


def _flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


async def test_sharing_that_fails_once_is_tried_again(bus: KafkaBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an answer that aiokafka does not know: it does nothing more until somebody asks for it."""
    consumer = await bus.subscribe("g", [Topic.WINDOWS])
    await bus.publish([record(f"k{i}", f"v{i}") for i in range(10)])
    assert len(await read(consumer, 10)) == 10
    joined = CoordinatorGroupRebalance.perform_group_join
    failing = True

    async def fails_once(self: CoordinatorGroupRebalance) -> Any:
        nonlocal failing
        if failing and self._coordinator is consumer._client._coordinator:
            failing = False
            raise KafkaError("an answer that nobody knows")
        return await joined(self)

    monkeypatch.setattr(CoordinatorGroupRebalance, "perform_group_join", fails_once)
    other = await bus.subscribe("g", [Topic.ANOMALY_ALERTS])  # all share anew
    await bus.publish([record(f"k{i}", f"w{i}") for i in range(10)])
    found: list[Received] = []
    async with asyncio.timeout(60):
        while len(found) < 10:
            found += await eventually(lambda: consumer.poll(max_records=100, timeout_s=0.5))
    assert not failing
    assert {*values(found)} >= {f"w{i}" for i in range(10)}
    await other.close()
