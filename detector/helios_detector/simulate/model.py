"""What a simulated service is: operations, messages and habits, as plain data without behaviour."""

from __future__ import annotations

from dataclasses import dataclass

MINUTE_S = 60
HOUR_S = 3600
DAY_S = 86_400
WEEK_S = 7 * DAY_S


@dataclass(frozen=True, slots=True)
class Operation:
    """One endpoint (`POST /api/orders/{id}`) or, in a service without latency, one kind of job."""

    name: str
    weight: float
    median_ms: float = 0.0
    sigma: float = 0.35
    """Standard deviation of the logarithm of the latency."""
    slow_share: float = 0.04
    slow_factor: float = 5.0
    status: int = 200

    @property
    def path(self) -> str:
        """The endpoint without its method."""
        return self.name.partition(" ")[2]


@dataclass(frozen=True, slots=True)
class Message:
    """A WARN or ERROR text: `{n}` is in [low, high], `{word}` one of a few names, `{op}` the request."""

    text: str
    status: int = 200
    weight: float = 1.0
    low: int = 1
    high: int = 9


@dataclass(frozen=True, slots=True)
class Archetype:
    """A kind of service, before a seed varies it."""

    name: str
    per_second: float
    """Mean over a week at rate scale 1."""
    hosts: int
    operations: tuple[Operation, ...]
    warnings: tuple[Message, ...]
    errors: tuple[Message, ...]
    """The first is about a dependency that does not answer."""
    calls: tuple[str, ...] = ()
    has_latency: bool = True
    batch: Operation | None = None
    error_rate: float = 0.004
    warn_rate: float = 0.015
    amplitude: float = 0.5
    """Half of the logarithm of the ratio of the busiest to the quietest hour."""
    peak_hour: float = 14.0
    weekend: float = 0.7
    noise: float = 0.06
    """Standard deviation of the AR(1) noise of the logarithm of the rate."""


@dataclass(frozen=True, slots=True)
class Service:
    """An archetype as one seed has made it."""

    index: int
    name: str
    kind: Archetype
    per_second: float
    operations: tuple[Operation, ...]
    batch: Operation | None
    batch_start_s: int
    """Second of the UTC day at which the nightly job starts."""
    error_rate: float
    warn_rate: float
    amplitude: float
    peak_hour: float
    weekend: float
    growth: float
    """Relative growth a week."""
    callers: tuple[int, ...]
    """Indexes of the services that depend on this one, the direct ones first."""

    @property
    def hosts(self) -> int:
        """How many hosts share its traffic."""
        return self.kind.hosts

    @property
    def has_latency(self) -> bool:
        """Whether its lines carry latency, endpoint and status."""
        return self.kind.has_latency


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One anomaly that was placed; times are whole seconds since the epoch, the end exclusive."""

    kind: str
    service: int
    start_s: int
    end_s: int
    severity: float
    """From 0, subtle, to 1, clear."""
    rolls: tuple[float, float, float, float]
    """Uniform draws in [0, 1) for whatever else the kind decides."""
    also: tuple[tuple[int, int], ...] = ()
    """(service, delay in seconds) for each that it spreads to."""
    ordinal: int = 0
    """How many of the same kind the service has had before."""


@dataclass(frozen=True, slots=True)
class Background:
    """Something that happens in normal operation and must not alert."""

    kind: str
    service: int
    start_s: int
    end_s: int
    intensity: float = 0.0
