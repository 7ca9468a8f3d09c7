"""Reading from Kafka: a member of a group, that gives the records of its partitions in the order of time."""

from __future__ import annotations

import asyncio
import time
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, OffsetAndMetadata, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    CorruptRecordException,
    IllegalGenerationError,
    IllegalStateError,
    KafkaError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)

from helios_core.bus.base import MAX_METADATA_BYTES, Commit, Lag, Partition, Received, Topic, first_of
from helios_core.bus.kafka.brokerclock import BrokerClock
from helios_core.bus.kafka.errors import translated
from helios_core.bus.kafka.settings import KafkaSettings
from helios_core.errors import BusRejected, BusUnavailable

_JOIN_S: Final = 30.0
_CLOSE_S: Final = 2.0  # for each of the groups of a process that ends
_ANSWER_S: Final = 10.0
_FETCH_S: Final = 0.2
_FETCH_WAIT_MS: Final = 100  # a broker that has nothing says so: others are held back until then
# Who does not poll because the bus or the store is away is alive all the same: heartbeats say so. aiokafka would leave
# the group after five minutes and not join it again before the next poll, which may be waiting for a commit, which
# waits for the group.
_MAX_POLL_INTERVAL_MS: Final = 2**31 - 1
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
# What a client raises of a batch that is damaged, and of a text in it that is none.
_UNREADABLE: Final = (CorruptRecordException, UnicodeDecodeError)
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
        self._waiting: dict[TopicPartition, deque[ConsumerRecord[bytes, bytes]]] = {}
        self._next: dict[TopicPartition, int] = {}
        self._came_ms: dict[TopicPartition, int] = {}  # when the answer came that brought what waits
        self._overdue: dict[TopicPartition, int] = {}  # not waited for again before they answer
        self._clock = BrokerClock()
        self._assigned = asyncio.Event()
        self._committing: asyncio.Task[Any] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._given: frozenset[Partition] = frozenset()
        self._log = ""
        self._departures = 0
        self._ill: set[TopicPartition] = set()  # those that cannot be read, and are asked alone
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
        self._next = {partition: self._next[partition] for partition in partitions if partition in self._next}
        for partition, offset in self._next.items():
            self._client.seek(partition, offset)
        self._waiting = {partition: deque() for partition in sorted(partitions)}
        before, self._given = self._given, frozenset(map(self._ours, partitions))
        self._ill &= {*partitions}
        self._departures += not before <= self._given
        self._assigned.set()

    def revoked(self) -> None:
        """None are read until they are given out anew: what waits here is read again by whoever gets it."""
        self._assigned.clear()
        self._waiting = {}

    async def _until_assigned(self) -> None:
        """Until it has its partitions. After an error that aiokafka has no answer to, it waits to be asked for it."""
        while not self._assigned.is_set():
            self._client._coordinator.check_errors()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._assigned.wait(), _FETCH_S)

    async def poll(self, *, max_records: int, timeout_s: float) -> list[Received]:
        async with self._asking("Kafka cannot be read", timeout_s + _ANSWER_S):
            await self._gather(timeout_s)
        return first_of(self._take(), max_records)

    async def _gather(self, timeout_s: float) -> None:
        """Waits for records, in the time if there are any; and for those that may be older than what has come."""
        now_s = asyncio.get_running_loop().time
        began_s = now_s()
        await self._fetch(0)
        while not any(self._waiting.values()):
            left_s = began_s + timeout_s - now_s()
            if left_s <= 0 and (await self._lag()).records == 0:
                return
            await self._fetch(min(left_s, _FETCH_S) if left_s > 0 else _FETCH_S)
        began_s = now_s()
        while held_back := self._held_back():
            if now_s() - began_s > _PATIENCE_S:
                self._overdue = {partition: self._answered_ms(partition) for partition in held_back}
                return
            await self._fetch(_FETCH_S, held_back)

    async def _fetch(self, timeout_s: float, only: Collection[TopicPartition] = ()) -> None:
        """Takes what has come for partitions of which nothing waits here."""
        wanted = only or [partition for partition, waiting in self._waiting.items() if not waiting]
        if not wanted:
            if not self._waiting and timeout_s:  # it has none, or none as yet
                await asyncio.sleep(timeout_s)
            return
        try:
            await self._look(wanted)
            found = await self._read(wanted, timeout_s)
        except IllegalStateError:  # they were given to others just now
            return
        for partition, records in found.items():
            self._clock.saw(partition, records[-1].timestamp * 1_000, _steady_us())
            if partition in self._waiting:
                self._waiting[partition].extend(records)
                self._next.setdefault(partition, records[0].offset)  # it was given anew before it was looked at
                self._came_ms[partition] = self._answered_ms(partition)
            else:  # whoever is given it reads them again
                with suppress(IllegalStateError):
                    self._client.seek(partition, records[0].offset)

    async def _read(self, partitions: Collection[TopicPartition], timeout_s: float) -> dict[TopicPartition, list[Any]]:
        """What has come for these. One that cannot be read, such as a damaged batch, does not hold up the others.

        Raises:
            BusUnavailable: one cannot be read, and nothing has come for the others.
        """
        well = [partition for partition in partitions if partition not in self._ill]
        alone = [partition for partition in partitions if partition in self._ill]
        found: dict[TopicPartition, list[Any]] = {}
        try:
            if well:
                found = await self._get(*well, timeout_s=timeout_s)
        except _UNREADABLE:
            self._go_back(well)  # the client is past what it had of the others, and nobody was given
            alone += well
        faults = []
        for partition in alone:
            try:
                found |= await self._get(partition, timeout_s=0 if len(alone) < len(partitions) else _FETCH_S)
                self._ill -= found.keys()
            except _UNREADABLE as error:
                self._go_back([partition])
                self._ill.add(partition)
                place = f"{partition.topic}, partition {partition.partition}, from offset {self._next.get(partition)}"
                faults.append(f"{place} on cannot be read: {error or type(error).__name__}")
        if faults and not found:
            raise BusUnavailable(faults[0])
        return found

    async def _get(self, *partitions: TopicPartition, timeout_s: float) -> dict[TopicPartition, list[Any]]:
        found: dict[TopicPartition, list[Any]] = await self._client.getmany(
            *partitions, timeout_ms=round(timeout_s * 1_000), max_records=_FETCH_RECORDS
        )
        return found

    def _go_back(self, partitions: Collection[TopicPartition]) -> None:
        """To where those of which nothing waits go on."""
        for partition in partitions:
            if partition in self._next and not self._waiting.get(partition, True):
                with suppress(IllegalStateError):
                    self._client.seek(partition, self._next[partition])

    async def _look(self, partitions: Collection[TopicPartition]) -> None:
        """Where those of which nothing waits go on: also after offsets that are no records, or no more.

        Of those that are given out anew nothing is learnt: the client is past what waited here and nobody was given.
        """
        for partition in partitions:
            waiting = self._waiting.get(partition)
            if waiting is None or waiting:
                continue
            position = await self._client.position(partition)
            if self._waiting.get(partition) is waiting:
                self._next[partition] = position

    def _held_back(self) -> list[TopicPartition]:
        """Partitions that may have something older than what waits of the others, none of which is here."""
        if not any(self._waiting.values()):
            return []
        return [partition for partition, waiting in self._waiting.items() if not waiting and self._may_have(partition)]

    def _may_have(self, partition: TopicPartition) -> bool:
        """There is more, or there was none when it was last asked, which was before others gave what waits here."""
        answered_ms = self._answered_ms(partition)
        if partition in self._ill:
            return False
        if partition in self._overdue and self._overdue[partition] == answered_ms:
            return False
        newest_ms = max((self._came_ms[other] for other, waiting in self._waiting.items() if waiting), default=0)
        end = self._client.highwater(partition) if answered_ms else None
        return end is None or answered_ms < newest_ms or self._next.get(partition, 0) < end

    def _answered_ms(self, partition: TopicPartition) -> int:
        """When the last answer about a partition came; 0 before the first."""
        if partition not in self._client.assignment():
            return 0
        return self._client.last_poll_timestamp(partition) or 0

    def _take(self) -> Iterator[Received]:
        """The oldest of what waits, until a partition runs out that may have more."""
        waiting = {partition: records for partition, records in self._waiting.items() if records}
        while waiting:
            partition = min(waiting, key=lambda p: waiting[p][0].timestamp)
            record = waiting[partition].popleft()
            self._next[partition] = record.offset + 1
            yield self._received(partition, record)
            if not waiting[partition]:
                if self._may_have(partition):
                    return
                del waiting[partition]

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
                for partition in self._waiting
                if (given := commits.get(self._ours(partition))) is not None
            }
            if not offsets:
                return
            # One after the other, and not ended by our deadline: an older one must not land after a newer.
            self._committing = asyncio.create_task(self._client.commit(offsets))
            self._committing.add_done_callback(_seen)
            try:
                await asyncio.shield(self._committing)
            except _MOVED as error:
                _log.info("commit_left_to_others", reason=str(error) or type(error).__name__)

    async def committed(self) -> Mapping[Partition, Commit]:
        async with self._asking("Kafka does not tell what is committed"):
            await self._until_assigned()
            partitions = list(self._waiting)
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
                partitions = list(self._waiting)
                starts = await self._client.beginning_offsets(partitions)
                if partitions == list(self._waiting):
                    break
        for partition in partitions:
            self._client.seek(partition, starts[partition])
            self._waiting[partition].clear()
            self._next[partition] = starts[partition]

    async def lag(self) -> Lag:
        async with self._asking("Kafka does not tell how much it has"):
            return await self._lag()

    async def _lag(self) -> Lag:
        while True:
            await self._until_assigned()
            partitions = list(self._waiting)
            asked_us = _steady_us()
            ends = await self._client.end_offsets(partitions)
            with suppress(IllegalStateError):  # they were given to others just now
                await self._look(partitions)
                if partitions == list(self._waiting):
                    records = sum(max(0, ends[partition] - self._next[partition]) for partition in partitions)
                    return Lag(records, self._clock.at(asked_us))

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


def _steady_us() -> int:
    return time.monotonic_ns() // 1_000


def _seen(task: asyncio.Task[Any]) -> None:
    """An error that nobody waits for any more is no news."""
    if not task.cancelled():
        task.exception()


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
