"""Publishing on Kafka: one idempotent producer, that is made when it is first needed and anew when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError, UnknownTopicOrPartitionError
from aiokafka.partitioner import murmur2

from helios_core.bus.base import MAX_RECORD_BYTES, Record, Topic, check
from helios_core.bus.kafka.consumer import KafkaConsumer
from helios_core.bus.kafka.errors import translated
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.errors import BusUnavailable
from helios_core.tasks import seen

_BATCH_BYTES: Final = 256 * 1024
_KEYS: Final = 20_000  # twice as many as there are services at most
_STOP_S: Final = 1.0
# Errors of what was not sent: nothing is missing in the numbering of what was.
_NOT_SENT: Final = (KafkaTimeoutError, UnknownTopicOrPartitionError)
PUBLISH_S: Final = 10.0  # after so long the publisher is told to try again
_log = structlog.get_logger(__name__)


class KafkaBus:
    """See `base.Bus`. Topics must be there: see `topics`.

    A record is durable when all replicas that are in sync have it (`acks=all`). The producer retries by
    itself and numbers what it sends, so that a retry is not appended twice.

    Args:
        publish_s: within this long a publish is durable, or refused as BusUnavailable.
    """

    def __init__(self, settings: KafkaSettings, *, publish_s: float = PUBLISH_S) -> None:
        self._settings = settings
        self._publish_s = publish_s
        self._starting: asyncio.Task[AIOKafkaProducer] | None = None
        self._producer: AIOKafkaProducer | None = None
        self._stopping: set[asyncio.Task[None]] = set()
        self._consumers: list[KafkaConsumer] = []
        self._publishing = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    def topic(self, topic: Topic) -> str:
        """The name of a topic on the cluster."""
        return self._settings.prefix + topic.value

    async def publish(self, records: Sequence[Record]) -> None:
        check(records)
        if not records:
            return
        if self._closed:
            raise BusUnavailable("the bus is closed")
        self._publishing += 1
        self._idle.clear()
        try:
            async with asyncio.timeout(self._publish_s):
                await self._publish(records)
        except TimeoutError as error:
            raise BusUnavailable(
                f"Kafka has not taken {len(records)} records within {self._publish_s:g} s; "
                "see whether the brokers of kafka.bootstrap are up"
            ) from error
        finally:
            self._publishing -= 1
            if not self._publishing:
                self._idle.set()

    async def subscribe(self, group: str, topics: Sequence[Topic], *, at_end: bool = False) -> KafkaConsumer:
        consumer = KafkaConsumer(self._settings, group, topics)
        await consumer.start(at_end=at_end)
        self._consumers = [*(other for other in self._consumers if not other.closed), consumer]
        return consumer

    async def close(self) -> None:
        self._closed = True
        await self._idle.wait()
        if self._starting is not None:
            self._starting.cancel()
        if self._producer is not None:
            self._give_up(self._producer)
        if self._stopping:  # what one still holds then was refused to its publisher
            await asyncio.wait(self._stopping, timeout=_STOP_S)
        while self._consumers:
            await self._consumers.pop().close()

    async def _publish(self, records: Sequence[Record]) -> None:
        producer = await self._started()
        sent: list[asyncio.Future[Any]] = []
        try:
            for record in records:
                # Waits while the batch of its partition is full: so memory is bounded by partitions.
                future = await producer.send(
                    self.topic(record.topic),
                    record.value,
                    key=record.key.encode("utf-8", "surrogatepass"),
                    headers=[(name, text.encode("utf-8", "surrogatepass")) for name, text in record.headers.items()],
                )
                future.add_done_callback(seen)
                sent.append(future)
            for future in sent:
                await asyncio.shield(future)
        except KafkaError as error:
            if not isinstance(error, _NOT_SENT):
                # Its numbering may be broken for good. Another begins anew; readers mind no repeats.
                self._give_up(producer)
            raise translated(error, "Kafka does not take records") from error

    async def _started(self) -> AIOKafkaProducer:
        """The producer; whoever needs it first starts it for all, and no publisher's deadline ends that."""
        if self._producer is not None:
            return self._producer
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
            self._starting.add_done_callback(seen)
        return await asyncio.shield(self._starting)

    async def _start(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **self._settings.connection(),
            enable_idempotence=True,
            acks="all",
            compression_type=None if self._settings.compression == "none" else self._settings.compression,
            linger_ms=0,  # what comes while a request is under way shares the next one
            max_batch_size=_BATCH_BYTES,
            partitioner=partition_of,
            max_request_size=2 * MAX_RECORD_BYTES,
            # It knows best what is wrong, and says it before a publisher is told that nothing came.
            request_timeout_ms=round(self._publish_s * 900),
        )
        try:
            await producer.start()
        except KafkaError as error:
            await _stopped(producer)
            raise translated(error, "Kafka cannot be reached") from error
        except BaseException:
            await _stopped(producer)
            raise
        finally:
            self._starting = None
        self._producer = producer
        return producer

    def _give_up(self, producer: AIOKafkaProducer) -> None:
        """Lets go of a producer, which ends when it has sent what it has; the next publish makes another."""
        if producer is self._producer:
            self._producer = None
            task = asyncio.create_task(_stopped(producer))
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)


def partition_of(key: bytes, partitions: Sequence[int], _: Sequence[int] = ()) -> int:
    """Where records of a key stand, as Kafka's own clients have it."""
    return partitions[_hashed(key) % len(partitions)]


@lru_cache(maxsize=_KEYS)
def _hashed(key: bytes) -> int:
    """To compute it in Python takes as long as to append a record."""
    return int(murmur2(key)) & 0x7FFFFFFF


async def _stopped(producer: AIOKafkaProducer) -> None:
    """Stops it, whatever state it is in."""
    try:
        with suppress(KafkaError):
            await producer.stop()
    finally:
        await producer.client.close()
