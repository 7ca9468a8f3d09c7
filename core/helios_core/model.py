"""What happened, as types: level, signal, event. Not their wire form (see `wire`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

MAX_SERVICE_BYTES: Final = 256
MAX_EVENT_BYTES: Final = 256 * 1024
MAX_SERVICES_PER_CLIENT: Final = 2_000
# What is counted beyond a client's number of services, or under a name that is too long.
OVERFLOW_SERVICE: Final = "_overflow"


class Level(IntEnum):
    """Severity of an event, in order; the numbers are those of the contract."""

    UNSPECIFIED = 0
    DEBUG = 1
    INFO = 2
    WARN = 3
    ERROR = 4
    CRITICAL = 5


class Signal(IntEnum):
    """Where a count comes from; the numbers are those of the contract."""

    LOG = 1
    SPAN = 2


@dataclass(slots=True)
class Event:
    """One log record or span. Times and latencies are integer microseconds."""

    time_us: int
    service: str
    level: Level = Level.UNSPECIFIED
    message: str = ""
    latency_us: int | None = None
    endpoint: str = ""
    trace_id: str = ""
    span_id: str = ""
    host: str = ""
    signal: Signal = Signal.LOG
    id: str = ""
    attributes: dict[str, object] = field(default_factory=dict)
    template_id: int = 0
    counted: bool = False


@dataclass(frozen=True, slots=True)
class MetricSample:
    """One value of one metric at one time; without a service it is the host's own.

    A source may leave time and host to the agent: then they are 0 and empty.
    """

    name: str
    value: float
    labels: dict[str, str] = field(default_factory=dict)
    time_us: int = 0
    service: str = ""
    host: str = ""


@dataclass(slots=True)
class EventRecord:
    """The raw events that arrived within a few milliseconds for one service: a record on `events`."""

    service: str
    received_us: int
    events: list[Event]


@dataclass(slots=True)
class MetricRecord:
    """Metrics without an agent that arrived together for one service: a record on `metrics`."""

    service: str
    received_us: int
    metrics: list[MetricSample]


def agent_service(host: str) -> str:
    """What stands for the agent of a host where a service is named: in its own slices, in alerts about it."""
    return f"helios-agent@{host}"
