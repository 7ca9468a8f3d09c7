"""The port of the store: slices and raw events are applied once, queries are asked by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from helios_core.batches import BatchId
from helios_core.bus.base import Partition
from helios_core.model import Event, EventRecord, MetricRecord
from helios_core.store.ledger import Verdict
from helios_core.stored import StoredSlice

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SliceWrite:
    """A slice from the topic `windows`, with its identity and the hash of its bytes."""

    id: BatchId
    partition: int
    content_hash: bytes
    slice: StoredSlice


@dataclass(frozen=True, slots=True)
class EventsWrite:
    """A record from the topic `events`, with where it stood: its identity.

    Attributes:
        log: what the offset is of, see `bus.base.Consumer`.
    """

    partition: Partition
    offset: int
    record: EventRecord
    log: str = ""


@dataclass(frozen=True, slots=True)
class MetricsWrite:
    """A record from the topic `metrics`, with where it stood: its identity, as of an EventsWrite."""

    partition: Partition
    offset: int
    record: MetricRecord
    log: str = ""


Write = SliceWrite | EventsWrite | MetricsWrite


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one write.

    Attributes:
        verdict: of the write as a whole.
        duplicates: raw events that had been stored before under the sender's own id.
        conflicting: those whose id had been stored with other content.
    """

    verdict: Verdict
    duplicates: int = 0
    conflicting: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Statement:
    """A named statement of `helios_sql` with its parameters."""

    name: str
    parameters: Mapping[str, Any]


class Store(Protocol):
    """Where everything that is kept is kept. Queries are asked by their names in helios_sql."""

    async def apply(self, writes: Sequence[Write]) -> list[Outcome]:
        """Applies each write once, all in one transaction that is durable on return.

        A write whose identity was applied before is a DUPLICATE, and a CONFLICT when its content
        differs; neither changes anything. The deltas of raw events are derived here, of those
        events that are new.

        Raises:
            StoreUnavailable: nothing was applied.
            ValueError: a value that can never be stored; nothing was applied.
        """
        ...

    async def transact(self, statements: Sequence[Statement]) -> None:
        """Runs statements in one transaction that is durable on return.

        Raises:
            StoreUnavailable: nothing was changed.
            ValueError: a value that can never be stored; nothing was changed.
        """
        ...

    async def query(self, name: str, **parameters: Any) -> list[Row]:
        """The rows of a named query.

        Raises:
            StoreUnavailable: it cannot be asked now.
        """
        ...

    async def roll_up(self, until_us: int, limit: int) -> int:
        """Brings up to date the rollups of at most `limit` minutes of services that begin before `until_us`.

        Returns:
            how many there were; 0 when none is left, or others have them at work.

        Raises:
            StoreUnavailable: none was.
        """
        ...

    async def prune(self, before_us: int) -> None:
        """Drops what was measured before that time; an adapter may keep the rest of its day.

        What is dropped stays in the rollups; those are dropped by the statement `prune_rollups`.

        Raises:
            StoreUnavailable: not all of it is gone; the next call goes on.
        """
        ...

    async def close(self) -> None:
        """Waits for what is under way, then lets go of everything. May be called twice."""
        ...
