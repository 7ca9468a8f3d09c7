"""The templates and latencies of every operation of a service, as tables that the sampler indexes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from helios_detector.simulate.conditions import Floats
from helios_detector.simulate.incidents import INCIDENT_MESSAGES
from helios_detector.simulate.model import Message, Operation, Service
from helios_detector.simulate.probes import NOVELTIES
from helios_detector.simulate.seeding import generator
from helios_detector.simulate.templates import Templates

Ids = NDArray[np.int64]

_SCAN = Operation("GET {probe}", 1.0, 4.0, 0.4, status=404)
_STARTED = ("shutting down, {n} requests in flight", "ready, listening on port 8080 after {n} ms")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Rows are operations: the normal ones, then the nightly job, then what a scanner asks for."""

    popularity: Floats
    """Cumulative weights of the normal operations, the last one 1."""
    batch: int
    scan: int
    ok: Ids
    warn: Ids
    """(operations, warnings)"""
    error: Ids
    """(operations, errors)"""
    novel: Ids
    """(operations, novelties), at least one novelty."""
    incident: Ids
    """(operations, incident messages)"""
    stop: int
    start: int
    """Templates of the lines of a restart, which belong to no operation."""
    median_cs: Floats
    sigma: Floats
    slow_share: Floats
    slow_factor: Floats
    warn_weights: Floats
    warn_periods_s: Floats
    warn_phases: Floats
    error_shares: Floats
    """Cumulative, the last one 1."""

    def warn_shares(self, at_s: int) -> Floats:
        """Cumulative shares of the warnings: their mix drifts over hours."""
        swing = np.sin(2 * np.pi * at_s / self.warn_periods_s + self.warn_phases)
        return _cumulative(self.warn_weights * np.exp(0.8 * swing))


def build(service: Service, templates: Templates, novelties: int, seed: int) -> Vocabulary:
    """Registers all templates of a service, `novelties` unheard-of messages among them."""
    rng = generator(seed, service.name, "vocabulary")
    kind = service.kind
    operations = list(service.operations)
    if service.batch is not None:
        operations.append(service.batch)
    if service.has_latency:
        operations.append(_SCAN)
    order = rng.permutation(len(NOVELTIES))
    strange = [Message(NOVELTIES[order[i % len(order)]], 500, 1, 1, 99_999) for i in range(max(novelties, 1))]
    count = len(kind.warnings)
    return Vocabulary(
        popularity=_cumulative(np.array([operation.weight for operation in service.operations])),
        batch=len(service.operations),
        scan=len(operations) - 1,
        ok=np.array([_ok(service, templates, operation) for operation in operations]),
        warn=_messages(service, templates, operations, "WARN", kind.warnings),
        error=_messages(service, templates, operations, "ERROR", kind.errors),
        novel=_messages(service, templates, operations, "ERROR", strange),
        incident=np.hstack(
            [_messages(service, templates, operations, level, [message]) for level, message in INCIDENT_MESSAGES]
        ),
        stop=templates.plain(service.name, "INFO", f"{service.name}: {_STARTED[0]}", (0, 9)),
        start=templates.plain(service.name, "INFO", f"{service.name}: {_STARTED[1]}", (900, 1600)),
        median_cs=np.array([operation.median_ms * 100 for operation in operations]),
        sigma=np.array([operation.sigma for operation in operations]),
        slow_share=np.array([operation.slow_share for operation in operations]),
        slow_factor=np.array([operation.slow_factor for operation in operations]),
        warn_weights=np.array([message.weight for message in kind.warnings]),
        warn_periods_s=rng.uniform(5, 40, count) * 3600,
        warn_phases=rng.uniform(0, 2 * np.pi, count),
        error_shares=_cumulative(np.array([message.weight for message in kind.errors])),
    )


def _cumulative(weights: Floats) -> Floats:
    shares = np.cumsum(weights / weights.sum())
    shares[-1] = 1.0
    return shares


def _ok(service: Service, templates: Templates, operation: Operation) -> int:
    if not service.has_latency:
        text = f"job {operation.name} {{id}} done, {{n}} ms in queue"
        return templates.plain(service.name, "INFO", text)
    level = "WARN" if operation.status >= 400 else "INFO"
    return templates.request(service.name, level, "{op} {status} {ms}ms", operation, operation.status)


def _messages(
    service: Service,
    templates: Templates,
    operations: list[Operation],
    level: str,
    messages: tuple[Message, ...] | list[Message],
) -> Ids:
    """A row for each operation; whatever the outcome, a probed path stays a 404."""
    rows = []
    for operation in operations:
        row = []
        for message in messages:
            n = (message.low, message.high)
            if not service.has_latency:
                row.append(templates.plain(service.name, level, message.text, n))
            else:
                status = message.status if message.status >= 400 else operation.status
                row.append(templates.request(service.name, level, message.text, operation, status, n))
        rows.append(row)
    return np.array(rows)
