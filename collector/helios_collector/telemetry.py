"""What the collector counts, as Prometheus metrics and for its status; and how far the clocks of agents are off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from helios_core.clock import US_PER_S

_PERIOD_US: Final = 60 * US_PER_S  # six heartbeats
_ENOUGH: Final = 3  # batches in a period: one may have been under way for long, and not say so
_STEADY_US: Final = 5 * US_PER_S  # batches that differ by more were under way for long
_SKEW_US: Final = 5 * US_PER_S  # beyond which a person is told
_KEPT_US: Final = 600 * US_PER_S  # an agent that is not heard of for so long has no skew
_SAY_AGAIN_US: Final = 600 * US_PER_S
_MAX_AGENTS: Final = 10_000
_MAX_SHOWN: Final = 5
_log = structlog.get_logger(__name__)


class Telemetry:
    """The collector's metrics.

    Args:
        registry: where they are registered; one of its own without it.
        is_live: time is the machine's; in replay, where it is that of the events, no clock is off.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, is_live: bool = True) -> None:
        self.registry = registry or CollectorRegistry()
        self.batches = self._counter("helios_batches_received", "Batches of agents, by answer.", "answer")
        self.batch_bytes = self._counter("helios_batch_received_bytes", "Bytes of the batches that were accepted.")
        self.events_accepted = self._counter("helios_events_accepted", "Raw events put on the bus.", "protocol")
        self.events_rejected = self._counter("helios_events_rejected", "Raw events refused.", "protocol")
        self.requests = self._counter("helios_http_requests", "HTTP requests by path and status.", "path", "status")
        self.otlp_taken = self._counter("helios_otlp_accepted", "Log records, spans and data points.", "kind")
        self.otlp_rejected = self._counter("helios_otlp_rejected", "Those that can never be taken.", "kind")
        self.otlp_passed_over = self._counter(
            "helios_otlp_spans_passed_over", "Spans inside a service, which are no requests to it."
        )
        self.refused = self._counter(
            "helios_ingest_refusals", "Requests to be sent again, by why: rate of the client, memory, bus.", "reason"
        )
        self.pending = self._gauge("helios_ingest_pending_bytes", "Memory that requests under way hold.")
        self.breaker = self._gauge("helios_ingest_breaker_open", "1 while the bus is away and nothing is taken.")
        self.faults = self._counter("helios_request_faults", "Requests that failed by an error that was not expected.")
        self.applied = self._counter("helios_store_records_applied", "Records of the bus that were applied.")
        self.duplicates = self._counter("helios_store_duplicates", "Slices and events that had been applied before.")
        self.conflicts = self._counter("helios_store_conflicts", "Same identity with other content: dead-lettered.")
        self.dead = self._counter("helios_dead_letters", "What could not be taken, by where it failed.", "stage")
        self.lag = self._gauge("helios_store_lag_records", "Records that are not in the store.")
        self.skew = ClockSkew(_MAX_AGENTS if is_live else 0)
        Gauge(
            "helios_agent_clock_skew_seconds",
            "How far the clock of an agent is off at most, forward or back; 0 while none is known.",
            registry=self.registry,
        ).set_function(lambda: max(map(abs, self.skew.worst().values()), default=0.0))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)

    def status(self) -> dict[str, int]:
        """The sums a person looks at first."""
        shown = {
            "batches": self.batches.labels("accepted"),
            "http_events": self.events_accepted.labels("http"),
            "grpc_events": self.events_accepted.labels("grpc"),
            "records_applied": self.applied,
            "duplicates": self.duplicates,
            "conflicts": self.conflicts,
        }
        return {name: round(_value(counter)) for name, counter in shown.items()} | {
            "behind": round(_value(self.lag)),
        }


@dataclass(slots=True)
class _Clock:
    """What is known of one agent's clock: the least and most that receipt was after the cut, in this period.

    Attributes:
        skew_us: what the periods that are over say; None while they say nothing. Positive: it is behind.
    """

    host: str
    began_us: int
    least_us: int
    most_us: int
    batches: int = 0
    heard_us: int = 0
    skew_us: int | None = None

    def end(self) -> None:
        """The period is over."""
        is_steady = self.most_us - self.least_us <= _STEADY_US and self.batches >= _ENOUGH
        if is_steady or self.least_us < (self.skew_us or 0):
            self.skew_us = self.least_us


class ClockSkew:
    """How far the clocks of agents are from the collector's: measured and shown, never corrected.

    Of each agent the least time, in a minute, from a cut to its receipt: being under way only adds to it, so
    that the skew is never more. A minute in which these times differ says no more than that: then the agent
    catches up with what it had spooled.

    Args:
        limit: of agents, those that were heard of last.
    """

    def __init__(self, limit: int = _MAX_AGENTS) -> None:
        self._limit = limit
        self._clocks: dict[bytes, _Clock] = {}
        self._now_us = 0
        self._said_us = 0

    def saw(self, agent: bytes, host: str, cut_us: int, now_us: int) -> None:
        """A batch that was cut at `cut_us` by the agent's clock was received."""
        if not self._limit:
            return
        late_us = now_us - cut_us
        clock = self._clocks.pop(agent, None) or _Clock(host, now_us, late_us, late_us)
        self._clocks[agent] = clock  # the newest last
        if len(self._clocks) > self._limit:
            del self._clocks[next(iter(self._clocks))]
        if not 0 <= now_us - clock.began_us < _PERIOD_US:
            clock.end()
            clock.began_us, clock.least_us, clock.most_us, clock.batches = now_us, late_us, late_us, 0
        clock.batches += 1
        clock.least_us, clock.most_us = min(clock.least_us, late_us), max(clock.most_us, late_us)
        clock.heard_us = self._now_us = now_us
        if clock.skew_us is not None and abs(clock.skew_us) > _SKEW_US:
            self._say()

    def _say(self) -> None:
        if 0 < self._now_us - self._said_us < _SAY_AGAIN_US:
            return
        self._said_us = self._now_us
        beyond = {host: s for host, s in self.worst().items() if abs(s) * US_PER_S > _SKEW_US}
        _log.warning("agent_clock_skew", seconds=beyond, remedy="negative is ahead of the collector: run NTP on both")

    def worst(self) -> dict[str, float]:
        """The hosts whose clocks are off the most, with their seconds; negative: ahead of the collector's."""
        known = [
            (clock.host, clock.skew_us)
            for clock in self._clocks.values()
            if clock.skew_us is not None and self._now_us - clock.heard_us < _KEPT_US
        ]
        worst = sorted(known, key=lambda one: -abs(one[1]))[:_MAX_SHOWN]
        return {host: round(skew_us / US_PER_S, 3) for host, skew_us in reversed(worst)}


def _value(metric: Counter | Gauge) -> float:
    (family,) = metric.collect()
    return next((sample.value for sample in family.samples if not sample.name.endswith("_created")), 0.0)
