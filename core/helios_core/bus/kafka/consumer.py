"""Reading from Kafka: a member of a group, that gives the records of its partitions in the order of time."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, OffsetAndMetadata, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    IllegalStateError,
    KafkaError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)

from helios_core.bus.base import MAX_METADATA_BYTES, Commit, Partition, Received, Topic
from helios_core.bus.kafka.errors import translated
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.errors import BusRejected, BusUnavailable

_JOIN_S: Final = 30.0
_CLOSE_S: Final = 5.0
_FETCH_S: Final = 0.2
# A partition that has more and does not give it holds the others back so long, and no longer.
_PATIENCE_S: Final = 5.0
_FETCH_RECORDS: Final = 2_000
# The group has moved on: what this member did is done again by another, and does no harm.
_MOVED: Final = (
    CommitFailedError,
    IllegalGenerationError,
    IllegalStateError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
_log = structlog.get_logger(__name__)


class KafkaConsumer:
    """See `base.Consumer`. Partitions come and go with the members of the group.

    Attributes:
        closed: it has left the group.
    """

    def __init__(self, settings: KafkaSettings, group: str, topics: Sequence[Topic]) -> None:
        self._topics = {settings.prefix + topic.value: topic for topic in topics}
        self._connection = settings.connection()
        self._group = settings.prefix + group
        self._client = AIOKafkaConsumer(
            **self._connection,
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=2 * 1024 * 1024,
        )
        self._waiting: dict[TopicPartition, deque[ConsumerRecord[bytes, bytes]]] = {}
        self._next: dict[TopicPartition, int] = {}
        self._assigned = asyncio.Event()
        self.closed = False

    async def start(self, *, at_end: bool) -> None:
        """Joins the group; who only watches reads all partitions by itself, beside any other member.

        Raises:
            BusUnavailable: the cluster cannot be reached, or gives no partitions in time.
        """
        try:
            if at_end:
                await self._client.start()
                await self._watch()
            else:
                self._client.subscribe(list(self._topics), listener=_Listener(self))
                await self._client.start()
                async with asyncio.timeout(_JOIN_S):
                    await self._assigned.wait()
        except KafkaError as error:
            await self.close()
            raise translated(error, "Kafka gives no partitions") from error
        except TimeoutError as error:
            await self.close()
            raise BusUnavailable(f"Kafka gives no partitions of {', '.join(self._topics)} in {_JOIN_S:g} s") from error
        except BaseException:
            await self.close()
            raise

    async def _watch(self) -> None:
        """Every partition, from what was committed, or from its end."""
        async with self._admin() as admin:
            described = await admin.describe_topics(list(self._topics))
        partitions = [
            TopicPartition(topic["topic"], partition["partition"])
            for topic in described
            for partition in topic["partitions"]
        ]
        missing = sorted(self._topics.keys() - {partition.topic for partition in partitions})
        if missing:
            raise BusUnavailable(f"there is no topic {missing[0]}: `helios topics apply` makes it")
        self._client.assign(partitions)
        ends = await self._client.end_offsets(partitions)
        for partition in partitions:
            committed = await self._client.committed(partition)
            self._client.seek(partition, ends[partition] if committed is None else committed)
        self.assigned(partitions)

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        """For what a consumer cannot ask."""
        admin = AIOKafkaAdminClient(**self._connection)
        try:
            await admin.start()
            yield admin
        finally:
            await admin.close()

    def assigned(self, partitions: Collection[TopicPartition]) -> None:
        """These are read from now on, and no others; one that was ours before goes on where it was."""
        self._waiting = {partition: deque() for partition in sorted(partitions)}
        for partition in partitions:
            if partition in self._next:
                self._client.seek(partition, self._next[partition])
        self._assigned.set()

    def revoked(self) -> None:
        """None are read until they are given out anew: what waits here is read again by whoever gets it."""
        self._waiting = {}

    async def poll(self, *, max_records: int, timeout_s: float) -> list[Received]:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            await self._fetch(0)
            while loop.time() - began_s < _PATIENCE_S and self._held_back():
                await self._fetch(_FETCH_S, self._held_back())
            while not any(self._waiting.values()):
                left_s = began_s + timeout_s - loop.time()
                if left_s > 0:
                    await self._fetch(min(left_s, _FETCH_S))
                elif await self._lag() == 0 or not self._waiting:
                    return []
                elif loop.time() - began_s > max(timeout_s, _PATIENCE_S):
                    raise BusUnavailable("Kafka has records that it does not give; see whether all brokers are up")
                else:
                    await self._fetch(_FETCH_S)
        except KafkaError as error:
            raise translated(error, "Kafka cannot be read") from error
        return self._take(max_records)

    async def _fetch(self, timeout_s: float, only: Collection[TopicPartition] = ()) -> None:
        """Takes what has come for partitions of which nothing waits here."""
        wanted = only or [partition for partition, waiting in self._waiting.items() if not waiting]
        if not wanted:
            if not self._waiting and timeout_s:  # between two assignments
                await asyncio.sleep(timeout_s)
            return
        try:
            for partition in wanted:
                if partition not in self._next:
                    self._next[partition] = await self._client.position(partition)
            found = await self._client.getmany(*wanted, timeout_ms=round(timeout_s * 1_000), max_records=_FETCH_RECORDS)
        except IllegalStateError:  # they were given to others just now
            return
        for partition, records in found.items():
            if partition in self._waiting:
                self._waiting[partition].extend(records)

    def _held_back(self) -> list[TopicPartition]:
        """Partitions that have more, none of which is here: it may be older than what waits of the others."""
        if not any(self._waiting.values()):
            return []
        return [partition for partition, waiting in self._waiting.items() if not waiting and self._has_more(partition)]

    def _has_more(self, partition: TopicPartition) -> bool:
        """As far as its last answer tells; also before the first one."""
        end = self._client.highwater(partition) if partition in self._client.assignment() else None
        return end is None or self._next.get(partition, 0) < end

    def _take(self, max_records: int) -> list[Received]:
        """The oldest of what waits, until a partition runs out of which there is more."""
        taken: list[Received] = []
        waiting = {partition: records for partition, records in self._waiting.items() if records}
        while waiting and len(taken) < max_records:
            partition = min(waiting, key=lambda p: waiting[p][0].timestamp)
            record = waiting[partition].popleft()
            self._next[partition] = record.offset + 1
            taken.append(self._received(partition, record))
            if not waiting[partition]:
                if self._has_more(partition):
                    break
                del waiting[partition]
        return taken

    def _received(self, partition: TopicPartition, record: ConsumerRecord[bytes, bytes]) -> Received:
        return Received(
            self._ours(partition),
            record.offset,
            record.timestamp * 1_000,
            (record.key or b"").decode("utf-8", "surrogatepass"),
            record.value or b"",
            {name: text.decode("utf-8", "replace") for name, text in record.headers},
        )

    def _ours(self, partition: TopicPartition) -> Partition:
        return Partition(self._topics[partition.topic], partition.partition)

    async def commit(self, commits: Mapping[Partition, Commit]) -> None:
        for commit in commits.values():
            if len(commit.metadata) > MAX_METADATA_BYTES:
                raise BusRejected(f"{len(commit.metadata)} bytes of metadata: at most {MAX_METADATA_BYTES}")
        offsets: dict[TopicPartition, Any] = {
            partition: OffsetAndMetadata(given.next_offset, b64encode(given.metadata).decode())
            for partition in self._waiting
            if (given := commits.get(self._ours(partition))) is not None
        }
        if not offsets:
            return
        try:
            await self._client.commit(offsets)
        except _MOVED as error:
            _log.info("commit_left_to_others", reason=str(error) or type(error).__name__)
        except KafkaError as error:
            raise translated(error, "Kafka does not take the commit") from error

    async def committed(self) -> Mapping[Partition, Commit]:
        try:
            async with self._admin() as admin:
                known = await admin.list_consumer_group_offsets(self._group, partitions=list(self._waiting))
        except KafkaError as error:
            raise translated(error, "Kafka does not tell what is committed") from error
        return {
            self._ours(partition): Commit(committed.offset, b64decode(committed.metadata))
            for partition, committed in known.items()
            if committed.offset >= 0
        }

    async def rewind(self) -> None:
        try:
            if self._waiting:
                await self._client.seek_to_beginning(*self._waiting)
        except KafkaError as error:
            raise translated(error, "Kafka cannot be read from the beginning") from error
        self._waiting = {partition: deque() for partition in self._waiting}
        self._next = {}

    async def lag(self) -> int:
        try:
            return await self._lag()
        except KafkaError as error:
            raise translated(error, "Kafka does not tell how much it has") from error

    async def _lag(self) -> int:
        partitions = list(self._waiting)
        if not partitions:
            return 0
        ends = await self._client.end_offsets(partitions)
        for partition in partitions:
            if partition not in self._next and partition in self._client.assignment():
                self._next[partition] = await self._client.position(partition)
        return sum(max(0, ends[partition] - self._next.get(partition, 0)) for partition in partitions)

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._client.stop()
        except (KafkaError, TimeoutError) as error:
            _log.warning("group_not_left", error=str(error) or type(error).__name__)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    """Tells a consumer which partitions are its own."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        del revoked
        self._consumer.revoked()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._consumer.assigned(assigned)
