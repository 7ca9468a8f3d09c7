"""The port of the bus: topics of partitions of records, and groups of consumers that commit offsets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import merge
from itertools import islice
from typing import Final, NamedTuple, Protocol

from helios_core.errors import BusRejected

MAX_POLL_BYTES: Final = 16 * 1024 * 1024
MAX_RECORD_BYTES: Final = 1024 * 1024  # value, key and headers; twice the largest slice
MAX_METADATA_BYTES: Final = 3_000  # in base64 below the 4,096 that Kafka keeps with an offset by default


class Topic(StrEnum):
    """The topics of Helios, by the names that users see."""

    WINDOWS = "windows"
    EVENTS = "events"
    METRICS = "metrics"
    ANOMALY_ALERTS = "anomaly-alerts"
    INCIDENTS = "incidents"
    DEAD_LETTER = "dead-letter"


class Partition(NamedTuple):
    topic: Topic
    number: int


@dataclass(frozen=True, slots=True)
class Record:
    """What is published. Records with the same key go to the same partition, in order."""

    topic: Topic
    key: str
    value: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Received:
    """A record as it was read, with where it stands.

    Attributes:
        offset: its position in the partition; unique and ascending, not without gaps.
        time_us: when the bus took it, microseconds since the epoch.
    """

    partition: Partition
    offset: int
    time_us: int
    key: str
    value: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Commit:
    """How far a group has got in a partition.

    Attributes:
        next_offset: the first offset that is not yet done.
        metadata: what the group wants to find again with it, at most MAX_METADATA_BYTES.
    """

    next_offset: int
    metadata: bytes = b""


class Lag(NamedTuple):
    """How far a consumer is behind.

    Attributes:
        records: of its partitions, that it has not yet polled.
        asked_us: the bus's clock when that was asked, or a little earlier: when nothing is left, no record that comes
            later has an earlier time, unless that clock is set back. 0 while the bus has told no time.
    """

    records: int
    asked_us: int


class Consumer(Protocol):
    """One member of a group, reading the partitions that it is given. Not for use by two tasks at once.

    Where several members share a group, partitions come and go while it polls; a service's partitions of
    two topics have the same number, and go to the same member.
    """

    @property
    def partitions(self) -> frozenset[Partition]:
        """Those that it reads now."""
        ...

    @property
    def log(self) -> str:
        """What the offsets are of: another where all began at 0 again, in another cluster, under another prefix."""
        ...

    @property
    def departures(self) -> int:
        """How often some were given to another: whoever knows what was in them does not know it all any more."""
        ...

    async def poll(self, *, max_records: int, timeout_s: float) -> list[Received]:
        """The next records in order of each partition; empty when none came within the time.

        At most `max_records`, and no more once their values have MAX_POLL_BYTES.

        Partitions are read side by side, in the order of the time at which the bus took the records: none
        runs ahead while another has older ones that are not read.

        Raises:
            BusUnavailable: the bus cannot be read now; the position is unchanged.
        """
        ...

    async def commit(self, commits: Mapping[Partition, Commit]) -> None:
        """Makes progress durable. Called after the work on all earlier offsets is safe.

        Raises:
            BusUnavailable: it is not durable; records may come again.
        """
        ...

    async def committed(self) -> Mapping[Partition, Commit]:
        """What the group has committed, for every partition that this member reads and that has any."""
        ...

    async def rewind(self) -> None:
        """Reads again from the oldest record that is kept. What is committed stays as it is."""
        ...

    async def lag(self) -> Lag:
        """What it has not yet polled, and the time of the bus: who reads needs no clock of its own.

        Raises:
            BusUnavailable: the bus does not tell now.
        """
        ...

    async def close(self) -> None:
        """Leaves the group. Nothing is committed by it."""
        ...


class Bus(Protocol):
    """Where records are kept until every group has read them, or retention drops them."""

    async def publish(self, records: Sequence[Record]) -> None:
        """Returns when all records are durable. Their order within a key is kept.

        Raises:
            BusRejected: a record is over the size limit; none was published.
            BusUnavailable: not all are known to be durable: publish them all again. Readers are
                idempotent, so that a record that was durable after all does no harm.
        """
        ...

    async def subscribe(self, group: str, topics: Sequence[Topic], *, at_end: bool = False) -> Consumer:
        """A member of the group, at what the group has committed, or at the beginning.

        Args:
            at_end: begins at the end instead when the group has committed nothing, and holds no record
                back from retention: for who only watches.

        Raises:
            BusUnavailable: the bus cannot be reached now.
        """
        ...

    async def close(self) -> None:
        """Waits for what is being published, then lets go of everything. May be called twice."""
        ...


def in_order_of_time(partitions: Iterable[Iterable[Received]]) -> Iterator[Received]:
    """All records by the time at which the bus took them; the order within each partition is kept."""
    return merge(*partitions, key=lambda record: record.time_us)


def first_of(records: Iterable[Received], max_records: int) -> list[Received]:
    """What one poll returns of them."""
    taken: list[Received] = []
    size = 0
    for record in islice(records, max_records):
        taken.append(record)
        size += len(record.value)
        if size >= MAX_POLL_BYTES:
            break
    return taken


def check(records: Sequence[Record]) -> None:
    """BusRejected when one of the records can never be published."""
    for record in records:
        texts = [record.key, *record.headers, *record.headers.values()]
        n_chars = sum(map(len, texts))
        if len(record.value) + 4 * n_chars <= MAX_RECORD_BYTES:  # whatever characters they are
            continue
        size = len(record.value) + sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        if size > MAX_RECORD_BYTES:
            raise BusRejected(f"a record of {size} bytes for {record.topic} ({record.key}): at most {MAX_RECORD_BYTES}")
