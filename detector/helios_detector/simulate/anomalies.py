"""The usual kinds of anomaly: each one function that changes the conditions of a service, registered in `KINDS`.

To add a kind, write one more function under `@_kind`. It gets the conditions of a block and the span of the
anomaly in it, and changes nothing outside `span.at`. Severity goes from 0, which somebody who looks at the
chart would still call an incident, to 1, which nobody misses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from helios_detector.simulate.background import Mark
from helios_detector.simulate.conditions import Conditions, Floats
from helios_detector.simulate.model import MINUTE_S, Anomaly, Service

SHORTEST_S = 6 * MINUTE_S
LONGEST_S = 45 * MINUTE_S
"""How long an anomaly of a usual kind lasts."""
_MAX_EXOTIC_ERROR = 0.049
"""New messages keep the error rate below 5 %, where a rule on the rate alone says nothing."""


@dataclass(frozen=True, slots=True)
class Span:
    """The part of an anomaly that falls into one block of one service."""

    at: slice
    """Seconds of the block."""
    elapsed_s: Floats
    """For each of them the time since the anomaly reached this service."""
    length_s: int
    """How long it lasts on this service."""
    severity: float
    rolls: tuple[float, float, float, float]
    """The anomaly's own uniform draws in [0, 1)."""
    ordinal: int
    """How many of this kind the service has had before."""
    hop: int
    """0 where it began, 1 and more on the services that it spread to."""
    delay_s: int
    """How much later than where it began it reached this service."""
    service: Service
    root: Service
    """Where it began."""

    def between(self, subtle: float, clear: float) -> float:
        """A strength between the two by severity, in equal ratios."""
        return float(subtle * (clear / subtle) ** self.severity)

    def ramp(self, seconds: float) -> Floats:
        """From 0 to 1 over the first seconds."""
        return np.minimum(self.elapsed_s / seconds, 1.0)

    def pick(self, roll: int, count: int) -> int:
        """One of `count` choices, the same in every block."""
        return int(self.rolls[roll] * count)


Effect = Callable[[Conditions, Span], None]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of anomaly and the services that can have it."""

    name: str
    summary: str
    effect: Effect
    min_per_5min: float
    """Expected events in five minutes below which it could not be seen."""
    needs_latency: bool = False
    needs_callers: bool = False
    """It spreads to services that depend on the one where it starts."""
    needs_others: bool = False
    """It means something only while other services go on."""
    shortest_s: int = SHORTEST_S
    longest_s: int = LONGEST_S
    refuses: Callable[[Service, tuple[Service, ...]], str | None] | None = None
    """Why this service of an estate cannot have it, for a reason of the kind's own."""
    reaches: Callable[[Anomaly, Service, tuple[Service, ...]], tuple[tuple[int, int], ...]] | None = None
    """(service, delay in seconds) for each that it spreads to from a service of an estate."""
    restarts: Callable[[Anomaly, Service], tuple[Mark, ...]] | None = None
    """Lines on the service where it begins that no rate explains."""

    def refusal(self, service: Service, estate: tuple[Service, ...]) -> str | None:
        """Why this service cannot have it, whatever its traffic; None when it can."""
        if self.needs_latency and not service.has_latency:
            return "its lines carry no latency or endpoint"
        if self.needs_callers and not service.callers:
            return "no other service depends on it"
        if self.needs_others and len(estate) < 2:
            return "there is no other service that goes on"
        return None if self.refuses is None else self.refuses(service, estate)


KINDS: dict[str, Kind] = {}


def _kind(
    summary: str,
    *,
    min_per_5min: float = 60,
    needs_latency: bool = False,
    needs_callers: bool = False,
    needs_others: bool = False,
) -> Callable[[Effect], Effect]:
    def register(effect: Effect) -> Effect:
        name = effect.__name__
        KINDS[name] = Kind(name, summary, effect, min_per_5min, needs_latency, needs_callers, needs_others)
        return effect

    return register


def apply(kind: Kind, anomaly: Anomaly, index: int, estate: tuple[Service, ...], conditions: Conditions) -> None:
    """Changes the conditions of one service for the part of an anomaly that concerns them."""
    reached = ((anomaly.service, 0), *anomaly.also)
    for hop, (service, delay_s) in enumerate(reached):
        if service != index:
            continue
        first_s = anomaly.start_s + delay_s
        at = conditions.overlap(first_s, anomaly.end_s)
        if at is None:
            continue
        elapsed_s = np.arange(at.start, at.stop) + float(conditions.start_s - first_s)
        span = Span(
            at=at,
            elapsed_s=elapsed_s,
            length_s=anomaly.end_s - first_s,
            severity=anomaly.severity,
            rolls=anomaly.rolls,
            ordinal=anomaly.ordinal,
            hop=hop,
            delay_s=delay_s,
            service=estate[index],
            root=estate[anomaly.service],
        )
        kind.effect(conditions, span)


def _raise_errors(conditions: Conditions, span: Span, share: float | Floats) -> None:
    at = span.at
    conditions.error[:, at] = np.maximum(conditions.error[:, at], share)


@_kind("part of the requests fail: 6 to 60 % errors")
def error_spike(conditions: Conditions, span: Span) -> None:
    """Most of the errors have one message, as they have one cause."""
    _raise_errors(conditions, span, span.between(0.06, 0.6))
    conditions.cause[span.at] = span.pick(0, 64)


@_kind("every request fails, volume and latency stay as they are")
def total_outage(conditions: Conditions, span: Span) -> None:
    """100 % errors and nothing else: what an Isolation Forest alone misses."""
    conditions.error[:, span.at] = 1.0
    conditions.cause[span.at] = span.pick(0, 64)


@_kind("all latencies x 2 to 6", needs_latency=True)
def latency_shift(conditions: Conditions, span: Span) -> None:
    """The whole distribution moves, within a quarter of a minute."""
    conditions.latency[span.at] *= 1 + (span.between(2, 6) - 1) * span.ramp(15)


@_kind("only the tail grows: 3 to 8 % of the requests x 8 to 30", min_per_5min=120, needs_latency=True)
def latency_tail(conditions: Conditions, span: Span) -> None:
    """p99 moves, the median does not."""
    conditions.tail_share[span.at] = span.between(0.03, 0.08)
    conditions.tail_factor[span.at] = span.between(8, 30)


@_kind("traffic x 3 to 8")
def traffic_spike(conditions: Conditions, span: Span) -> None:
    """More of the same requests; latency rises a little with the load."""
    more = (span.between(3, 8) - 1) * span.ramp(45)
    conditions.extra[span.at] += more * conditions.rate[span.at]
    conditions.latency[span.at] *= (1 + more) ** 0.1


@_kind("traffic falls to 5 to 30 %")
def traffic_drop(conditions: Conditions, span: Span) -> None:
    """Fewer requests, all of them fine."""
    conditions.keep[:, span.at] *= span.between(0.3, 0.05)


@_kind("not a line from the service while the others go on", needs_others=True)
def silence(conditions: Conditions, span: Span) -> None:
    """All hosts stop."""
    conditions.keep[:, span.at] = 0.0


@_kind("an ERROR message never seen before, 1.5 to 4 % of the events", min_per_5min=120)
def new_error_pattern(conditions: Conditions, span: Span) -> None:
    """The error rate as a whole stays below 5 %."""
    usual = float(conditions.error[:, span.at].min())
    conditions.novel[span.at] = min(span.between(0.015, 0.04), _MAX_EXOTIC_ERROR - usual)
    conditions.novelty[span.at] = span.ordinal


@_kind(
    "latency, then errors, that spread to 1 or 2 dependants 20 to 90 s later",
    needs_latency=True,
    needs_callers=True,
)
def dependency_cascade(conditions: Conditions, span: Span) -> None:
    """Each dependant suffers less than what it depends on."""
    weaker = 0.7**span.hop
    conditions.latency[span.at] *= 1 + (span.between(2.5, 5) - 1) * weaker * span.ramp(60)
    errors_after_s = 40 + 80 * span.rolls[1]
    failing = np.clip((span.elapsed_s - errors_after_s) / 60, 0, 1)
    _raise_errors(conditions, span, span.between(0.12, 0.55) * weaker * failing)
    conditions.cause[span.at] = 0


@_kind("latency creeps up over the whole time, to x 4 to 6", needs_latency=True)
def slow_leak(conditions: Conditions, span: Span) -> None:
    """Exponential growth: no single minute looks like a step."""
    end = span.between(4, 6)
    conditions.latency[span.at] *= end ** (span.elapsed_s / span.length_s)


@_kind("a bot asks for hundreds of distinct endpoints and gets 404", needs_latency=True)
def endpoint_scan(conditions: Conditions, span: Span) -> None:
    """Comes on top of normal traffic; at least 400 requests in all."""
    usual = conditions.rate[span.at].mean()
    conditions.scan[span.at] += max(span.between(0.4, 1.6) * usual, 400 / span.length_s)


@_kind("clients retry: traffic x 2 to 3, 10 to 30 % errors, latency up", needs_latency=True)
def retry_storm(conditions: Conditions, span: Span) -> None:
    """Builds up within a minute and a half."""
    rising = span.ramp(90)
    conditions.extra[span.at] += (span.between(2, 3) - 1) * rising * conditions.rate[span.at]
    conditions.latency[span.at] *= 1 + (span.between(1.6, 3) - 1) * rising
    _raise_errors(conditions, span, span.between(0.1, 0.3) * rising)
    conditions.cause[span.at] = 0


@_kind("errors on for a minute, off for a minute: 30 to 90 %")
def flapping(conditions: Conditions, span: Span) -> None:
    """Half of the time everything is fine."""
    on = (span.elapsed_s // 60) % 2 == 0
    _raise_errors(conditions, span, np.where(on, span.between(0.3, 0.9), 0.0))
    conditions.cause[span.at] = span.pick(0, 64)


@_kind("one of the hosts returns only errors, or goes silent", min_per_5min=90)
def host_failure(conditions: Conditions, span: Span) -> None:
    """Clear ones return errors; the subtle half goes silent and nobody takes over its share."""
    host = span.pick(2, conditions.hosts)
    if span.severity >= 0.5:
        conditions.error[host, span.at] = 1.0
    else:
        conditions.keep[host, span.at] = 0.0
