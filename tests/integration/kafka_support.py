"""What the tests against a real Kafka share. Not a test."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from helios_core.bus.base import Consumer, Received, Record, Topic
from helios_core.bus.kafka import topics
from helios_core.bus.kafka.bus import KafkaBus
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.errors import BusUnavailable


def prefixed(bootstrap: str, **more: Any) -> KafkaSettings:
    """Settings whose topics nobody else has."""
    return KafkaSettings(bootstrap, prefix=f"t{uuid.uuid4().hex[:10]}.", **more)


async def applied(bootstrap: str, partitions: int = 3, **more: Any) -> KafkaSettings:
    """Settings whose topics are there. A broker that has just come up may need some attempts."""
    settings = prefixed(bootstrap, **more)
    await eventually(lambda: topics.apply(settings, topics.Plan(partitions=partitions)))
    return settings


@asynccontextmanager
async def opened(settings: KafkaSettings, **more: Any) -> AsyncIterator[KafkaBus]:
    bus = KafkaBus(settings, **more)
    try:
        yield bus
    finally:
        await bus.close()


def record(key: str, value: str, topic: Topic = Topic.WINDOWS) -> Record:
    return Record(topic, key, value.encode(), {"n": value})


async def eventually(call: Callable[[], Awaitable[Any]], within_s: float = 60) -> Any:
    """What it gives, once the bus is available."""
    deadline_s = time.monotonic() + within_s
    while True:
        try:
            return await call()
        except BusUnavailable:
            if time.monotonic() > deadline_s:
                raise
            await asyncio.sleep(0.2)


async def until(is_so: Callable[[], object], within_s: float = 60) -> None:
    deadline_s = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.05)


async def read(consumer: Consumer, count: int, *, at_once: int = 500, within_s: float = 60) -> list[Received]:
    """At least so many records, whatever happens to the bus meanwhile."""
    found: list[Received] = []
    deadline_s = time.monotonic() + within_s
    while len(found) < count:
        assert time.monotonic() < deadline_s, f"only {len(found)} of {count} records came"
        try:
            found += await consumer.poll(max_records=at_once, timeout_s=1)
        except BusUnavailable:
            await asyncio.sleep(0.2)
    return found


async def all_left(consumer: Consumer, *, at_once: int = 500) -> list[Received]:
    """What a drain reads: polls without waiting, until there is nothing."""
    found: list[Received] = []
    while got := await consumer.poll(max_records=at_once, timeout_s=0):
        found += got
    return found


def values(received: list[Received]) -> list[str]:
    return [one.value.decode() for one in received]


def is_in_order_of_time(received: list[Received]) -> bool:
    times = [one.time_us for one in received]
    return times == sorted(times)


async def spread(bus: KafkaBus, keys: int, each: int, topic: Topic = Topic.WINDOWS) -> set[str]:
    """Publishes records of many keys; their values."""
    made = [record(f"key{key}", f"{topic}-{key}-{i}", topic) for i in range(each) for key in range(keys)]
    await bus.publish(made)
    return {one.value.decode() for one in made}


@asynccontextmanager
async def admin_of(settings: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**settings.connection())
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


@asynccontextmanager
async def raw_producer(settings: KafkaSettings) -> AsyncIterator[AIOKafkaProducer]:
    """Somebody else, who publishes what Helios never would."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap)
    try:
        await producer.start()
        yield producer
    finally:
        await producer.stop()


def partition_of(settings: KafkaSettings, received: Received) -> TopicPartition:
    return TopicPartition(settings.prefix + received.partition.topic.value, received.partition.number)
