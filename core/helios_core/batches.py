"""The unit of durability (a batch) and of idempotence (a slice), as types. Not their wire form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from helios_core.model import Event, MetricSample
from helios_core.windows import WindowDelta

MAX_SLICE_BYTES: Final = 512 * 1024
# A batch is not sent before the one this many before it is acknowledged (DESIGN, promise 4).
MAX_UNACKNOWLEDGED: Final = 64


@dataclass(frozen=True, slots=True)
class BatchId:
    """Who cut a batch (16 bytes of UUID), in which run of its process, and which one it is."""

    agent_id: bytes
    incarnation: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.agent_id.hex()}/{self.incarnation:016x}/{self.sequence}"


@dataclass(frozen=True, slots=True)
class SourceRange:
    """The bytes [from_offset, to_offset) of one source that a batch covers, and how far it has got."""

    source: str
    path: str
    from_offset: int
    to_offset: int
    watermark_us: int
    backlog_bytes: int


@dataclass(slots=True)
class Slice:
    """The part of one batch for one service: the unit on the bus and of idempotence.

    Attributes:
        watermark_us: the event time up to which the agent has read the service's sources.
        history: of the past: to be counted and learned from, never to alert.
        closing: the agent ends in good order.
    """

    service: str
    watermark_us: int
    backlog_bytes: int = 0
    history: bool = False
    closing: bool = False
    deltas: list[WindowDelta] = field(default_factory=list)
    metrics: list[MetricSample] = field(default_factory=list)
    samples: list[Event] = field(default_factory=list)


@dataclass(slots=True)
class Batch:
    """Everything that an agent read between two cuts: the unit of durability."""

    host: str
    cut_us: int
    sources: list[SourceRange] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
