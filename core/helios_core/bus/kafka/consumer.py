"""Reading from Kafka: a member of a group, that gives the records of its partitions in the order of time."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, OffsetAndMetadata, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    IllegalStateError,
    KafkaError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)

from helios_core.bus.base import MAX_METADATA_BYTES, Commit, Lag, Partition, Received, Topic, first_of
from helios_core.bus.kafka.errors import translated
from helios_core.bus.kafka.reading import FETCH_S, Reading, steady_us
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.errors import BusRejected, BusUnavailable
from helios_core.tasks import seen

_JOIN_S: Final = 30.0
_CLOSE_S: Final = 2.0  # for each of the groups of a process that ends
_ANSWER_S: Final = 10.0
_FETCH_WAIT_MS: Final = 100  # a broker that has nothing says so: others are held back until then
# Who does not poll because the bus or the store is away is alive all the same: heartbeats say so. aiokafka would leave
# the group after five minutes and not join it again before the next poll, which may be waiting for a commit, which
# waits for the group.
_MAX_POLL_INTERVAL_MS: Final = 2**31 - 1
# A partition that has more and does not give it holds the others back so long, and no longer.
_PATIENCE_S: Final = 5.0
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
        self._prefix = settings.prefix
        self._group = settings.prefix + group
        self._client = AIOKafkaConsumer(
            **self._connection,
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=2 * 1024 * 1024,
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            max_poll_interval_ms=_MAX_POLL_INTERVAL_MS,
            # By ranges: partitions of the same number in two topics go to the same member.
            partition_assignment_strategy=(RangePartitionAssignor,),
        )
        self._reading = Reading(self._client)
        self._assigned = asyncio.Event()
        self._committing: asyncio.Task[Any] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._given: frozenset[Partition] = frozenset()
        self._log = ""
        self._departures = 0
        self.closed = False

    @property
    def partitions(self) -> frozenset[Partition]:
        """Those that were given last; while they are given out anew none of them is read."""
        return self._given

    @property
    def log(self) -> str:
        """See `base.Consumer`."""
        return self._log

    @property
    def departures(self) -> int:
        """See `base.Consumer`."""
        return self._departures

    async def start(self, *, at_end: bool) -> None:
        """Joins the group; who only watches reads all partitions by itself, beside any other member.

        Raises:
            BusUnavailable: the cluster cannot be reached, or gives no partitions in time.
        """
        try:
            async with self._asking("Kafka gives no partitions", _JOIN_S):
                partitions = await self._partitions()
                if not at_end:
                    self._client.subscribe(list(self._topics), listener=_Listener(self))
                await self._client.start()
                if at_end:
                    await self._watch(partitions)
                await self._until_assigned()
        except BaseException:
            await self.close()
            raise

    async def _partitions(self) -> list[TopicPartition]:
        """All of its topics; BusUnavailable when one is not there."""
        async with self._admin() as admin:
            cluster = (await admin.describe_cluster())["cluster_id"]
            described = await admin.describe_topics(list(self._topics))
        self._log = f"{cluster}/{self._prefix}"
        partitions = [
            TopicPartition(topic["topic"], partition["partition"])
            for topic in described
            for partition in topic["partitions"]
        ]
        missing = sorted(self._topics.keys() - {partition.topic for partition in partitions})
        if missing:
            raise BusUnavailable(f"there is no topic {missing[0]}: `helios topics apply` makes it")
        return partitions

    async def _watch(self, partitions: Collection[TopicPartition]) -> None:
        """Every partition, from what was committed, or from its end."""
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

    @asynccontextmanager
    async def _asking(self, doing: str, within_s: float = _ANSWER_S) -> AsyncIterator[None]:
        """No answer in time, and an error in place of one, are BusUnavailable."""
        try:
            async with asyncio.timeout(within_s):
                yield
        except TimeoutError as error:
            raise BusUnavailable(
                f"{doing}: no answer within {within_s:g} s; see whether the brokers of kafka.bootstrap are up"
            ) from error
        except KafkaError as error:
            raise translated(error, doing) from error

    def assigned(self, partitions: Collection[TopicPartition]) -> None:
        """These are read from now on, and no others; one that was ours until now goes on where it was."""
        self._reading.begin(partitions)
        before, self._given = self._given, frozenset(map(self._ours, partitions))
        self._departures += not before <= self._given
        self._assigned.set()

    def revoked(self) -> None:
        """None are read until they are given out anew: what waits here is read again by whoever gets it."""
        self._assigned.clear()
        self._reading.drop()

    async def _until_assigned(self) -> None:
        """Until it has its partitions. After an error that aiokafka has no answer to, it waits to be asked for it."""
        while not self._assigned.is_set():
            self._client._coordinator.check_errors()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._assigned.wait(), FETCH_S)

    async def poll(self, *, max_records: int, timeout_s: float) -> list[Received]:
        async with self._asking("Kafka cannot be read", timeout_s + _ANSWER_S):
            await self._gather(timeout_s)
        return first_of((self._received(*one) for one in self._reading.take()), max_records)

    async def _gather(self, timeout_s: float) -> None:
        """Waits for records, in the time if there are any; and for those that may be older than what has come."""
        now_s = asyncio.get_running_loop().time
        began_s = now_s()
        reading = self._reading
        await reading.fetch(0)
        while not reading.has_any:
            left_s = began_s + timeout_s - now_s()
            if left_s <= 0 and (await self._lag()).records == 0:
                return
            await reading.fetch(min(left_s, FETCH_S) if left_s > 0 else FETCH_S)
        began_s = now_s()
        while held_back := reading.held_back():
            if now_s() - began_s > _PATIENCE_S:
                reading.give_up(held_back)
                return
            await reading.fetch(FETCH_S, held_back)

    def _received(self, partition: TopicPartition, record: ConsumerRecord[bytes, bytes]) -> Received:
        return Received(
            self._ours(partition),
            record.offset,
            record.timestamp * 1_000,
            _text(record.key),
            record.value or b"",
            {name: _text(value) for name, value in record.headers},
        )

    def _ours(self, partition: TopicPartition) -> Partition:
        return Partition(self._topics[partition.topic], partition.partition)

    async def commit(self, commits: Mapping[Partition, Commit]) -> None:
        for commit in commits.values():
            if len(commit.metadata) > MAX_METADATA_BYTES:
                raise BusRejected(f"{len(commit.metadata)} bytes of metadata: at most {MAX_METADATA_BYTES}")
        async with self._asking("Kafka does not take the commit"):
            if self._committing is not None:
                await asyncio.wait({self._committing})
            await self._until_assigned()
            offsets: dict[TopicPartition, Any] = {
                partition: OffsetAndMetadata(given.next_offset, b64encode(given.metadata).decode())
                for partition in self._reading.partitions
                if (given := commits.get(self._ours(partition))) is not None
            }
            if not offsets:
                return
            # One after the other, and not ended by our deadline: an older one must not land after a newer.
            self._committing = asyncio.create_task(self._client.commit(offsets))
            self._committing.add_done_callback(seen)
            try:
                await asyncio.shield(self._committing)
            except _MOVED as error:
                _log.info("commit_left_to_others", reason=str(error) or type(error).__name__)

    async def committed(self) -> Mapping[Partition, Commit]:
        async with self._asking("Kafka does not tell what is committed"):
            await self._until_assigned()
            partitions = self._reading.partitions
            if not partitions:
                return {}
            async with self._admin() as admin:
                known = await admin.list_consumer_group_offsets(self._group, partitions=partitions)
        return {
            self._ours(partition): Commit(committed.offset, _notes(committed.metadata))
            for partition, committed in known.items()
            if committed.offset >= 0
        }

    async def rewind(self) -> None:
        async with self._asking("Kafka cannot be read from the beginning"):
            while True:
                await self._until_assigned()
                partitions = self._reading.partitions
                starts = await self._client.beginning_offsets(partitions)
                if partitions == self._reading.partitions:
                    break
        self._reading.restart(starts)

    async def lag(self) -> Lag:
        async with self._asking("Kafka does not tell how much it has"):
            return await self._lag()

    async def _lag(self) -> Lag:
        while True:
            await self._until_assigned()
            partitions = self._reading.partitions
            asked_us = steady_us()
            ends = await self._client.end_offsets(partitions)
            with suppress(IllegalStateError):  # they were given to others just now
                await self._reading.look(partitions)
                if partitions == self._reading.partitions:
                    return Lag(self._reading.left(ends), self._reading.clock.at(asked_us))

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._ending = asyncio.create_task(self._end())
        if not (await asyncio.wait({self._ending}, timeout=_CLOSE_S))[0]:
            _log.warning("group_not_left", error="no answer")

    async def _end(self) -> None:
        """Goes on when nobody waits for it any more: the group finds out by itself."""
        try:
            await self._client.stop()
        except KafkaError as error:
            _log.warning("group_not_left", error=str(error) or type(error).__name__)
        if self._committing is not None:
            self._committing.cancel()


def _text(raw: bytes | None) -> str:
    """What Helios has published comes back as it was; what others have as far as it is text."""
    try:
        return (raw or b"").decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return (raw or b"").decode("utf-8", "replace")


def _notes(metadata: str | None) -> bytes:
    """What Helios has committed with an offset; nothing where somebody else has."""
    try:
        return b64decode(metadata or "", validate=True)
    except ValueError:
        return b""


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    """Tells a consumer which partitions are its own."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        del revoked
        self._consumer.revoked()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._consumer.assigned(assigned)
