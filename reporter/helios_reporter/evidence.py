"""The evidence pack of an incident: numbered facts, each from the store or an alert, with where it came from.

Also what was looked at and found normal, and what was left out. Nothing is interpreted here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import isnan
from typing import Any, Final

import msgspec

from helios_core.alerts import Alert, AlertState, Contribution, Family, Finding
from helios_core.model import Level
from helios_core.sketches.latency import LatencyHistogram
from helios_core.store.base import Row, Store
from helios_core.store.rows import delta_of_row
from helios_reporter.incidents import MAX_AGE_US, Incident

_MINUTE_US: Final = 60_000_000
BEFORE_US: Final = 30 * _MINUTE_US  # what the incident is compared with
AROUND_US: Final = 10 * _MINUTE_US
_MAX_TEMPLATES: Final = 8
_MIN_COUNT: Final = 3
_MAX_SAMPLES: Final = 2
_MAX_SERVICES: Final = 10
_MAX_NEIGHBOURS: Final = 50
# A change below this says "normal": the share of the value before, and for rates the difference.
_NOTABLE_RATIO: Final = 0.3
_NOTABLE_RATE: Final = 0.02
_BUSY: Final = 3  # events a window: by chance one in twenty would be empty
_TOLD_BY_DETAIL: Final = ("new_template", "services_unwatched")


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One fact.

    Attributes:
        id: E1 to En, in order.
        kind: detector, metric, log_template, log_sample, neighbour.
        service: what it is about.
        from_us, to_us: the interval it was taken from.
        source: the query or the alert that it came from.
        name: of the measure or feature; the template's or sample's text for logs.
        value, baseline: during the incident and before it, in `unit`; None where there is none.
        notable: False when it was looked at and is normal.
    """

    id: str
    kind: str
    service: str
    from_us: int
    to_us: int
    source: str
    name: str
    unit: str = ""
    value: float | None = None
    baseline: float | None = None
    notable: bool = True


class EvidencePack(msgspec.Struct, kw_only=True):
    """All that a report may cite."""

    incident_id: str
    items: list[Evidence] = msgspec.field(default_factory=list)
    truncation: list[str] = msgspec.field(default_factory=list)

    def add(self, **fields: Any) -> Evidence:
        item = Evidence(id=f"E{len(self.items) + 1}", **fields)
        self.items.append(item)
        return item

    def of(self, kind: str, service: str | None = None) -> list[Evidence]:
        return [item for item in self.items if item.kind == kind and service in (None, item.service)]


async def gather(store: Store, incident: Incident, now_us: int) -> EvidencePack:
    """The pack of an incident as it is known at `now_us` (event time)."""
    pack = EvidencePack(incident_id=incident.id)
    services = incident.services
    if len(services) > _MAX_SERVICES:
        pack.truncation.append(f"{_MAX_SERVICES} of {len(services)} services")
    seen_us = max(alert.seen_us for member in incident.members for alert in member.alerts)
    end_us = min(seen_us if incident.resolved_us else now_us, now_us)
    for member in incident.members:
        for alert in member.alerts[:1]:
            for finding in alert.findings:
                for part in _parts(finding):
                    pack.add(
                        kind="detector",
                        service=alert.service,
                        from_us=alert.decided_us - round(finding.minutes * _MINUTE_US),
                        to_us=alert.decided_us,
                        source=f"alert {alert.id} ({finding.detector}, {finding.severity.value})",
                        name=finding.detail if part.feature in _TOLD_BY_DETAIL else part.feature,
                        unit=part.unit,
                        value=part.actual,
                        baseline=part.typical,
                    )
    watched = [
        name for name in services if any(m.service == name and m.family != Family.AGENT for m in incident.members)
    ]
    for service in watched[:_MAX_SERVICES]:
        await _metrics(store, pack, service, incident.onset_us, end_us)
        await _templates(store, pack, service, incident.onset_us, end_us)
    if watched:
        await _neighbours(store, pack, services, incident.onset_us, end_us, now_us)
    return pack


def _parts(finding: Finding) -> tuple[Contribution, ...]:
    """The contributions that stand in the pack; a forest that cannot say why has its score."""
    if not finding.contributions:
        return (Contribution(feature="score", unit="", actual=finding.score),)
    # The detail is the text of the first new template; of the others only the counts are known.
    return finding.contributions[: 1 if finding.family is Family.PATTERN else 3]


async def _metrics(store: Store, pack: EvidencePack, service: str, onset_us: int, end_us: int) -> None:
    """The service's own measures during the incident, beside the half hour before it."""
    during = await _totals(store, service, onset_us - _MINUTE_US, end_us)
    before = await _totals(store, service, onset_us - _MINUTE_US - BEFORE_US, onset_us - _MINUTE_US, while_it_sent=True)
    for name, unit, rate in (
        ("events_per_minute", "events/min", False),
        ("error_rate", "share", True),
        ("warning_rate", "share", True),
        ("p50_latency", "ms", False),
        ("p95_latency", "ms", False),
        ("p99_latency", "ms", False),
        ("unparsed_per_minute", "lines/min", False),
    ):
        value, baseline = during.get(name), before.get(name)
        if (value is None and baseline is None) or (name == "unparsed_per_minute" and not value and not baseline):
            continue
        pack.add(
            kind="metric",
            service=service,
            from_us=onset_us - _MINUTE_US,
            to_us=end_us,
            source="window_rows_of_service",
            name=name,
            unit=unit,
            value=value,
            baseline=baseline,
            notable=_is_notable(value, baseline, rate=rate),
        )


def _is_notable(value: float | None, baseline: float | None, *, rate: bool) -> bool:
    if value is None or baseline is None:
        return True
    if rate:
        return abs(value - baseline) >= _NOTABLE_RATE
    return abs(value - baseline) > _NOTABLE_RATIO * max(abs(baseline), 1e-9) and max(value, baseline) >= 1


async def _totals(
    store: Store, service: str, from_us: int, to_us: int, *, while_it_sent: bool = False
) -> dict[str, float]:
    """Measures of a service in an interval, from its windows; without those that it has not.

    Args:
        while_it_sent: rates are of the windows that it has, when it is so busy that an empty one was
            not read, rather than without events: before it was known, or while nothing ran.
    """
    rows = await store.query("window_rows_of_service", service=service, from_us=from_us, to_us=to_us)
    if not rows:
        return {"events_per_minute": 0.0, "unparsed_per_minute": 0.0} if to_us > from_us else {}
    minutes = max(to_us - from_us, 1) / _MINUTE_US
    if while_it_sent:
        minutes = _sent_minutes(rows) or minutes
    return await asyncio.to_thread(_measured, rows, service, minutes)


def _sent_minutes(rows: Sequence[Row]) -> float | None:
    """How long the windows of a busy service are together; None when it is not busy."""
    widths = {row["start_us"]: row["duration_ms"] for row in rows}
    events = sum(sum(msgspec.json.decode(row["levels"], type=list[int])) for row in rows)
    if events < _BUSY * len(widths):
        return None
    return float(sum(widths.values()) / 60_000)


def _measured(rows: Sequence[Row], service: str, minutes: float) -> dict[str, float]:
    """Off the event loop: a day of several hosts is tens of thousands of rows."""
    latency = LatencyHistogram()
    events = errors = warnings = unparsed = 0
    for row in rows:
        delta = delta_of_row(row, service)
        events += delta.events
        errors += delta.errors
        warnings += delta.levels[Level.WARN]
        unparsed += delta.unparsed
        latency.merge(delta.latency)
    totals = {"events_per_minute": events / minutes, "unparsed_per_minute": unparsed / minutes}
    if events:
        totals |= {"error_rate": errors / events, "warning_rate": warnings / events}
    quantiles = latency.quantiles_us((0.5, 0.95, 0.99))
    if not isnan(quantiles[0]):
        totals |= {
            name: q / 1_000 for name, q in zip(("p50_latency", "p95_latency", "p99_latency"), quantiles, strict=True)
        }
    return totals


async def _templates(store: Store, pack: EvidencePack, service: str, onset_us: int, end_us: int) -> None:
    """Templates of warnings and errors that are new, or more frequent than before, with samples."""
    rows = await store.query(
        "template_counts",
        service=service,
        before_us=onset_us - _MINUTE_US - BEFORE_US,
        from_us=onset_us - _MINUTE_US,
        to_us=end_us,
        limit=200,
    )
    minutes = max(end_us - onset_us + _MINUTE_US, 1) / _MINUTE_US
    traffic = next((item for item in pack.of("metric", service) if item.name == "events_per_minute"), None)
    growth = 1.0
    if traffic is not None and traffic.value and traffic.baseline:
        growth = max(1.0, traffic.value / traffic.baseline)  # more traffic brings more of every template
    changed = []
    for row in rows:
        rate, before = row["count"] / minutes, row["count_before"] / (BEFORE_US / _MINUTE_US)
        if row["count"] >= _MIN_COUNT and rate > 2 * growth * before:
            changed.append((row, rate, before))
    changed.sort(key=lambda item: item[2] - item[1])
    if len(changed) > _MAX_TEMPLATES:
        pack.truncation.append(f"{_MAX_TEMPLATES} of {len(changed)} changed templates of {service}")
    for row, rate, before in changed[:_MAX_TEMPLATES]:
        is_new = row["first_seen_us"] >= onset_us - _MINUTE_US
        pack.add(
            kind="log_template",
            service=service,
            from_us=onset_us - _MINUTE_US,
            to_us=end_us,
            source="template_counts: never seen before" if is_new else "template_counts",
            name=f"{Level(row['level']).name} {row['text']}",
            unit="events/min",
            value=rate,
            baseline=None if is_new else before,
        )
        samples = await store.query(
            "samples_of_template",
            service=service,
            template_id=row["template_id"],
            from_us=onset_us - _MINUTE_US,
            to_us=end_us,
            limit=_MAX_SAMPLES,
        )
        for sample in samples:
            pack.add(
                kind="log_sample",
                service=service,
                from_us=sample["time_us"],
                to_us=sample["time_us"],
                source=f"events on {sample['host']}",
                name=sample["message"][:300],
            )


async def _neighbours(
    store: Store, pack: EvidencePack, services: list[str], onset_us: int, end_us: int, now_us: int
) -> None:
    """What else alerted round the same time, and which services did not."""
    from_us, until_us = onset_us - AROUND_US, min(end_us + AROUND_US, now_us)
    latest: dict[str, dict[Family, Alert]] = {}
    for row in await store.query("alerts_in_range", from_us=onset_us - MAX_AGE_US, to_us=until_us + 1):
        alert = Alert.from_bytes(row["document"].encode())
        latest.setdefault(alert.service, {})[alert.family] = alert
    alerted = {
        service: [a for a in alerts.values() if a.state is not AlertState.RESOLVED or a.decided_us >= from_us]
        for service, alerts in latest.items()
        if service not in services
    }
    rows = await store.query("services_in_range", from_us=from_us, to_us=until_us)
    events = {row["service"]: row["events"] for row in rows if row["service"] not in services}
    names = sorted(name for name, alerts in alerted.items() if alerts)
    names += [name for name in events if not alerted.get(name)]
    if len(names) > _MAX_NEIGHBOURS:
        pack.truncation.append(f"{_MAX_NEIGHBOURS} of {len(names)} other services")
    for name in names[:_MAX_NEIGHBOURS]:
        alerts = alerted.get(name, [])
        pack.add(
            kind="neighbour",
            service=name,
            from_us=from_us,
            to_us=until_us,
            source="alerts_in_range",
            name=_alerted(alerts),
            unit="events",
            value=float(events.get(name, 0)),
            notable=bool(alerts),
        )


def _alerted(alerts: list[Alert]) -> str:
    ongoing = [alert for alert in alerts if alert.state is not AlertState.RESOLVED]
    if not alerts:
        return "no alert"
    said = "; ".join(f"{alert.family.value}, {alert.severity.value}" for alert in ongoing or alerts)
    return f"also ongoing ({said})" if ongoing else f"an alert that is over ({said})"
