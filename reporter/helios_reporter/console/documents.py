"""What is stored, as the API's JSON: times become RFC 3339 with milliseconds. Nothing is read or decided here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from helios_core.alerts import Alert, AlertState, Contribution, Severity
from helios_core.clock import US_PER_S, rfc3339
from helios_core.store.base import Row
from helios_reporter.report import number

_DURATIONS: Final = frozenset({"horizon_us"})  # what ends in _us and is no time
_MAX_LISTED: Final = 20  # services of one incident in a list


class ListedAlert(msgspec.Struct):
    """Of an alert what a list needs."""

    severity: Severity
    state: AlertState
    seen_us: int


class ListedMember(msgspec.Struct):
    """Of a member what a list needs."""

    service: str
    family: str
    onset_us: int
    resolved_us: int | None = None
    alerts: list[ListedAlert] = []

    @property
    def severity(self) -> Severity:
        """The highest that its alerts had."""
        return max((alert.severity for alert in self.alerts), key=lambda s: s.rank, default=Severity.LOW)

    @property
    def ended_us(self) -> int | None:
        """Where it was last found, once it is over; None while it lasts."""
        over = [alert.seen_us for alert in self.alerts if alert.state is AlertState.RESOLVED]
        return over[-1] if over else self.resolved_us


class _Listed(msgspec.Struct):
    members: list[ListedMember] = []


_LISTED: Final = msgspec.json.Decoder(_Listed)


def members_of(document: str) -> list[ListedMember]:
    """The members of a stored incident in order of their onsets; none when it cannot be read."""
    try:
        members = _LISTED.decode(document).members
    except msgspec.DecodeError:
        return []
    return sorted(members, key=lambda member: member.onset_us)


def time_of(us: int | None) -> str | None:
    """A time of the API; None where there is none, or one that no calendar has."""
    if us is None:
        return None
    try:
        return rfc3339(us)
    except OverflowError:
        return None


def with_times(value: Any) -> Any:
    """The same document with every `…_us` as a time under the name without it; durations become seconds."""
    if isinstance(value, list):
        return [with_times(item) for item in value]
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for name, item in value.items():
        if not name.endswith("_us") or not (item is None or isinstance(item, int)):
            found[name] = with_times(item)
        elif name in _DURATIONS:
            found[name.removesuffix("_us") + "_s"] = None if item is None else item / US_PER_S
        else:
            found[name.removesuffix("_us")] = time_of(item)
    return found


def incident_summary(row: Row) -> dict[str, Any]:
    """An incident as it stands in a list and in the live stream."""
    members = members_of(row["document"])
    services = list(dict.fromkeys(member.service for member in members))
    families = ", ".join(dict.fromkeys(member.family for member in members))
    return {
        "id": row["id"],
        "title": row["title"] or (f"{services[0]}: {families}" if services else row["id"]),
        "headline": row["headline"],
        "severity": row["severity"],
        "state": row["state"],
        "services": services[:_MAX_LISTED],
        "services_total": len(services),
        "families": list(dict.fromkeys(member.family for member in members)),
        "onset": time_of(members[0].onset_us if members else row["opened_us"]),
        "opened": time_of(row["opened_us"]),
        "updated": time_of(row["updated_us"]),
        "resolved": time_of(row["resolved_us"]),
        "alerts": sum(len(member.alerts) for member in members),
        "open_alerts": sum(member.resolved_us is None for member in members),
        "revision": row["revision"],
        "generator": row["generator"],
    }


def incident_detail(row: Row, report: Row | None) -> dict[str, Any]:
    """An incident with its members, and its newest report with the evidence; None where there is no report."""
    detail = incident_summary(row)
    detail["members"] = with_times(_decoded(row["document"])).get("members", [])
    detail["report"], detail["evidence"] = None, []
    if report is None:
        return detail
    document = with_times(_decoded(report["document"]))
    detail["report"] = {
        "revision": report["revision"],
        "created": time_of(report["created_us"]),
        "generator": report["generator"],
        **document.get("report", {}),
    }
    detail["evidence"] = [_evidence(item) for item in document.get("evidence", [])]
    return detail


def _decoded(document: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(document)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _evidence(item: Mapping[str, Any]) -> dict[str, Any]:
    """With its numbers also as a person reads them."""
    unit = str(item.get("unit") or "")
    texts = {
        f"{name}_text": number(item[name], unit) if isinstance(item.get(name), int | float) else None
        for name in ("value", "baseline")
    }
    return {**item, **texts}


def alert_message(alert: Alert) -> dict[str, Any]:
    """An alert in the live stream."""
    parts = [part for finding in alert.findings for part in finding.contributions[:1]]
    details = [finding.detail for finding in alert.findings if finding.detail]
    return {
        "type": "alert",
        "at": time_of(alert.decided_us),
        "alert": alert.id,
        "service": alert.service,
        "family": alert.family.value,
        "state": alert.state.value,
        "severity": alert.severity.value,
        "detectors": list(alert.detectors),
        "learning": alert.learning,
        "text": "; ".join([*dict.fromkeys(map(_said, parts)), *dict.fromkeys(details)][:3])[:500],
    }


def _said(part: Contribution) -> str:
    name = part.feature.replace("_", " ")
    if part.actual is None:
        return f"{name} is missing"
    text = f"{name} {number(part.actual, part.unit)}"
    return text if part.typical is None else f"{text}, typically {number(part.typical, part.unit)}"
