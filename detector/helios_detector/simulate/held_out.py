"""The kinds of anomaly in reserve, for judging only: whoever tunes detection does not read this module.

They come with `--held-out`, or when they are asked for by name; the usual mixture never has them. Each is named
after its cause; `docs/simulator.md` describes what it looks like.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from helios_detector.simulate.anomalies import KINDS, Kind, Span
from helios_detector.simulate.background import Mark
from helios_detector.simulate.catalogue import ARCHETYPES
from helios_detector.simulate.conditions import Conditions, Floats
from helios_detector.simulate.incidents import HEAP_FULL, NO_MEMORY, UNKNOWN_KEY, UPSTREAM_REFUSED
from helios_detector.simulate.model import MINUTE_S, Anomaly, Service
from helios_detector.simulate.overlays import Overlay
from helios_detector.simulate.seeding import generator

Estate = tuple[Service, ...]
Reached = tuple[tuple[int, int], ...]

_HEALTH_CHECK_S = 15
"""A balancer sends requests to a dead host for so long; then the others take its share."""
_BACKOFF_S = (15, 90)
"""The first wait before a restart, doubled each time, and the longest."""
_WARNS_AT, _FAILS_AT = 0.6, 0.88
"""From these parts of its life on a host warns, and part of its requests fail."""
_ONLY_MARKS = 1e-12
"""So few requests that there are none, while a mark, which is never thinned, gets through."""
_CALLS = 0.5
"""Share of a caller's requests that need the service."""

_WITHOUT_TOKEN = frozenset(
    {
        "POST /api/session",
        "GET /assets/{id}.js",
        "POST /oauth/token",
        "POST /login",
        "POST /webhooks/carrier",
        "POST /v1/webhooks/acquirer",
    }
)


@dataclass(frozen=True, slots=True)
class _Journey:
    """What users do in one part of the client: the operations of each archetype that it leads to, the owner first."""

    steps: tuple[tuple[str, frozenset[str]], ...]

    @property
    def owner(self) -> str:
        return self.steps[0][0]


def _journey(**steps: str) -> _Journey:
    return _Journey(tuple((name, frozenset(operations.split(", "))) for name, operations in steps.items()))


_JOURNEYS = (
    _journey(
        checkout="POST /api/orders, POST /api/orders/{id}/confirm",
        gateway="POST /api/orders",
        payments="POST /v1/charges, POST /v1/charges/{id}/capture",
        mailer="order-confirmation, receipt",
        inventory="POST /reservations",
    ),
    _journey(
        checkout="GET /api/cart/{id}, PUT /api/cart/{id}/items/{n}, DELETE /api/cart/{id}/items/{n}",
        gateway="GET /api/cart/{id}, POST /api/cart/{id}/items",
    ),
    _journey(
        checkout="GET /api/orders/{id}",
        gateway="GET /api/orders/{id}",
        shipping="GET /parcels/{id}",
    ),
    _journey(gateway="GET /api/catalog/search", search="GET /search, POST /facets"),
    _journey(
        gateway="GET /api/catalog/items/{id}",
        catalog="GET /items/{id}, GET /items/{id}/variants, GET /items/{id}/reviews",
    ),
    _journey(payments="GET /v1/customers/{id}/methods"),
    _journey(auth="POST /login, POST /oauth/token", gateway="POST /api/session"),
    _journey(recommendations="GET /items/{id}/similar"),
    _journey(shipping="POST /quotes"),
)
"""Each is a seventh of its owner's traffic at least: less would not show in ten minutes of it."""


# memory_limit: the heap of each host fills up, the host is killed and comes back, each time later.


@dataclass(frozen=True, slots=True)
class _Life:
    """One life of a host, in seconds since the incident began; it is up in [born, killed)."""

    born_s: float
    killed_s: int
    ready_s: int


def _lives(service: Service, severity: float, rolls: tuple[float, ...], length_s: int) -> dict[int, list[_Life]]:
    """All lives of the hosts that have the new limit; a rollout that was stopped half-way spares the others."""
    uptime_s = 300 * (160 / 300) ** severity
    chosen = generator(int(rolls[0] * 2**32), "memory_limit").permutation(service.hosts)
    limited = chosen if severity >= 0.3 else chosen[: -(-service.hosts // 2)]
    lives: dict[int, list[_Life]] = {}
    for host in limited.tolist():
        rng = generator(int(rolls[0] * 2**32), "memory_limit", host)
        born_s = -uptime_s * rng.uniform(0.1, 0.6)
        wait_s, longest_s = _BACKOFF_S
        lives[host] = []
        while born_s < length_s:
            killed_s = int(born_s + uptime_s * rng.uniform(0.85, 1.2))
            ready_s = killed_s + int(wait_s * rng.uniform(0.9, 1.1))
            lives[host].append(_Life(born_s, killed_s, ready_s))
            born_s, wait_s = float(ready_s), min(2 * wait_s, longest_s)
    return lives


def _memory_limit(conditions: Conditions, span: Span) -> None:
    lives = _lives(span.root, span.severity, span.rolls, span.length_s + span.delay_s)
    elapsed_s = span.elapsed_s + span.delay_s
    if span.service != span.root:
        _lose_calls(conditions, span, lives, elapsed_s)
        return
    shape = (conditions.hosts, len(elapsed_s))
    slower, warns, fails, down = np.ones(shape), np.zeros(shape), np.zeros(shape), np.zeros(shape, np.bool_)
    taken_over, starts = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    for host, all_lives in lives.items():
        for life in all_lives:
            up = (elapsed_s >= life.born_s) & (elapsed_s < life.killed_s)
            fill = (elapsed_s[up] - life.born_s) / (life.killed_s - life.born_s)
            cold = 0.8 * np.exp((life.born_s - elapsed_s[up]) / 25) if life.born_s > 0 else 0.0
            slower[host, up] = 1 + (span.between(3, 5) - 1) * fill**3 + cold
            warns[host, up] = 0.3 * np.clip((fill - _WARNS_AT) / (1 - _WARNS_AT), 0, 1)
            fails[host, up] = np.where(fill >= _FAILS_AT, span.between(0.22, 0.4), 0.0)
            down[host] |= (elapsed_s >= life.killed_s) & (elapsed_s <= life.ready_s)
            starts[host] |= elapsed_s == life.ready_s
            taken_over[host] |= (elapsed_s >= life.killed_s + _HEALTH_CHECK_S) & (elapsed_s < life.ready_s)
    at, left = span.at, conditions.hosts - down.sum(axis=0)
    conditions.keep[:, at][down] = 0.0
    conditions.keep[:, at][starts] = _ONLY_MARKS
    # Spread over all hosts, of which those that are down lose theirs again: the total stays what it was.
    conditions.extra[at] += conditions.rate[at] * np.where(left > 0, taken_over.sum(axis=0) / np.maximum(left, 1), 0.0)
    conditions.latency[at] *= (conditions.hosts / np.maximum(left, 1)) ** 0.3
    conditions.overlays += [
        Overlay(_placed(conditions, at, 1.0), factor=_placed(conditions, at, slower)),
        Overlay(_placed(conditions, at, warns), message=HEAP_FULL),
        Overlay(_placed(conditions, at, fails), message=NO_MEMORY),
    ]


def _lose_calls(conditions: Conditions, span: Span, lives: dict[int, list[_Life]], elapsed_s: Floats) -> None:
    """A caller's requests fail that go to a host which is dead and still in the balancer's list."""
    dead = np.zeros(len(elapsed_s))
    for life in (life for all_lives in lives.values() for life in all_lives):
        until_s = min(life.ready_s, life.killed_s + _HEALTH_CHECK_S)
        dead += (elapsed_s >= life.killed_s) & (elapsed_s < until_s)
    share = _CALLS * dead / span.root.hosts
    conditions.error[:, span.at] = np.maximum(conditions.error[:, span.at], share)
    conditions.cause[span.at] = np.where(dead > 0, 0, conditions.cause[span.at])


def _memory_limit_reaches(anomaly: Anomaly, service: Service, estate: Estate) -> Reached:
    """The nearest caller, from the first time that a host is killed."""
    length_s = anomaly.end_s - anomaly.start_s
    lives = _lives(service, anomaly.severity, anomaly.rolls, length_s)
    first_s = min(life.killed_s for all_lives in lives.values() for life in all_lives)
    return tuple((index, first_s) for index in service.callers[:1] if first_s < length_s)


def _memory_limit_restarts(anomaly: Anomaly, service: Service) -> tuple[Mark, ...]:
    """A killed process says nothing; the one that follows says that it is ready."""
    length_s = anomaly.end_s - anomaly.start_s
    return tuple(
        Mark((anomaly.start_s + life.ready_s) * 1000 + life.killed_s * 137 % 900, host, "start", anomaly.rolls[3])
        for host, all_lives in _lives(service, anomaly.severity, anomaly.rolls, length_s).items()
        for life in all_lives
        if life.ready_s < length_s
    )


# key_rotation: as tokens are renewed, ever more of them are signed by a key that the service does not know.


def _key_rotation(conditions: Conditions, span: Span) -> None:
    share = span.between(0.12, 0.45) * span.ramp(span.length_s * (0.3 + 0.3 * span.rolls[1]))
    by_host = _placed(conditions, span.at, share)
    needs_token = _chosen(span.service, frozenset(o.name for o in span.service.operations) - _WITHOUT_TOKEN)
    if span.service == span.root:
        overlay = Overlay(by_host, needs_token, message=UNKNOWN_KEY, median_ms=1.6 + 2 * span.rolls[2])
    elif span.root.index in span.service.callers:
        # What was refused at the door never comes here.
        overlay = Overlay(by_host, needs_token, gone=True)
    else:
        passed_on = _chosen(span.service, _shared_operations(span.service, span.root))
        overlay = Overlay(by_host, passed_on, message=UPSTREAM_REFUSED, median_ms=6 + 5 * span.rolls[2])
    conditions.overlays.append(overlay)


def _shared_operations(service: Service, other: Service) -> frozenset[str]:
    """What the service hands on to the other, to judge by the names."""
    return frozenset(o.name for o in service.operations) & frozenset(o.name for o in other.operations)


def _key_rotation_reaches(anomaly: Anomaly, service: Service, estate: Estate) -> Reached:
    """All that it calls, itself or through others, and the callers that hand requests on to it."""
    called = [s for s in estate if service.index in s.callers]
    callers = [s for s in estate if s.index in service.callers and _shared_operations(s, service)]
    return tuple((s.index, 0) for s in (*called, *callers))


def _key_rotation_refuses(service: Service, estate: Estate) -> str | None:
    return None if any(service.index in s.callers for s in estate) else "it calls no other service"


# client_release: a part of the client no longer works, so the requests that it leads to do not come.


def _client_release(conditions: Conditions, span: Span) -> None:
    journey = _journey_of(span.root, span.rolls)
    # Clients load the release, and later the one that mends it, whenever they start again.
    ending = np.minimum((span.length_s - span.elapsed_s) / (3 * MINUTE_S), 1.0)
    share = (1 - span.between(0.3, 0.04)) * span.ramp((2 + 6 * span.rolls[1]) * MINUTE_S) * ending
    operations = _chosen(span.service, dict(journey.steps)[span.service.kind.name])
    conditions.overlays.append(Overlay(_placed(conditions, span.at, share), operations, gone=True))


def _journey_of(owner: Service, rolls: tuple[float, ...]) -> _Journey:
    owned = [journey for journey in _JOURNEYS if journey.owner == owner.kind.name]
    return owned[int(rolls[0] * len(owned))]


def _client_release_reaches(anomaly: Anomaly, service: Service, estate: Estate) -> Reached:
    """The other services of the journey, those of the same region."""
    region = service.index // len(ARCHETYPES)
    near = {s.kind.name: s.index for s in estate if s.index // len(ARCHETYPES) == region}
    steps = _journey_of(service, anomaly.rolls).steps[1:]
    return tuple((near[name], 0) for name, _ in steps if name in near)


def _client_release_refuses(service: Service, estate: Estate) -> str | None:
    owners = {journey.owner for journey in _JOURNEYS}
    return None if service.kind.name in owners else "no part of the client is about it"


def _placed(conditions: Conditions, at: slice, values: float | Floats) -> Floats:
    """The values in their seconds of the block, by host, and 0 in the others."""
    block = np.zeros_like(conditions.keep)
    block[:, at] = values
    return block


def _chosen(service: Service, names: frozenset[str]) -> NDArray[np.bool_]:
    return np.array([operation.name in names for operation in service.operations])


HELD_OUT: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "memory_limit",
            "hosts get less memory than they need",
            _memory_limit,
            min_per_5min=150,
            shortest_s=15 * MINUTE_S,
            longest_s=50 * MINUTE_S,
            reaches=_memory_limit_reaches,
            restarts=_memory_limit_restarts,
        ),
        Kind(
            "key_rotation",
            "a service does not learn of a new signing key",
            _key_rotation,
            min_per_5min=120,
            needs_latency=True,
            shortest_s=20 * MINUTE_S,
            longest_s=60 * MINUTE_S,
            reaches=_key_rotation_reaches,
            refuses=_key_rotation_refuses,
        ),
        Kind(
            "client_release",
            "a release of the client breaks a part of it",
            _client_release,
            min_per_5min=120,
            shortest_s=20 * MINUTE_S,
            longest_s=75 * MINUTE_S,
            reaches=_client_release_reaches,
            refuses=_client_release_refuses,
        ),
    )
}
ALL_KINDS: dict[str, Kind] = KINDS | HELD_OUT
"""Whatever can be asked for by name."""
