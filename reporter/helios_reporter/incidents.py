"""Which alerts belong together: an incident is joined by a stated link, never by overlap in time alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec

from helios_core.alerts import Alert, AlertState, Family, Severity

_MINUTE_US: Final = 60_000_000
_MAX_OVER: Final = 10_000
JOIN_US: Final = 5 * _MINUTE_US  # between onsets
SAME_MOMENT_US: Final = _MINUTE_US // 2
MAX_AGE_US: Final = 120 * _MINUTE_US  # of an incident that still takes alerts


class IncidentState(StrEnum):
    """The life of an incident."""

    TRIGGERED = "triggered"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


class Member(msgspec.Struct, kw_only=True):
    """An episode of alerts in an incident, and why it is there.

    Attributes:
        reason: for a person.
        is_link: the reason joins it to alerts of other services.
    """

    episode: str
    service: str
    family: str
    reason: str
    onset_us: int
    is_link: bool = False
    resolved_us: int | None = None
    alerts: list[Alert] = msgspec.field(default_factory=list)


class Incident(msgspec.Struct, kw_only=True):
    """Alerts that belong together. Its id is a hash of the alert that opened it."""

    id: str
    state: IncidentState
    severity: Severity
    opened_us: int
    updated_us: int
    resolved_us: int | None = None
    members: list[Member] = msgspec.field(default_factory=list)

    @property
    def services(self) -> list[str]:
        """In order of their onsets: the first is where it began."""
        ordered = sorted(self.members, key=lambda member: member.onset_us)
        return list(dict.fromkeys(member.service for member in ordered))

    @property
    def onset_us(self) -> int:
        return min(member.onset_us for member in self.members)

    def open_members(self) -> list[Member]:
        return [member for member in self.members if member.resolved_us is None]


def link_of(alert: Alert, incident: Incident) -> str | None:
    """A reason that the alert itself gives to join an incident of other services; None without one.

    Services of one host that fall silent in the same moment have one cause, and so has a service
    that is not heard of since its agent was lost.
    """
    for member in incident.members:
        first = member.alerts[0]
        shared = sorted({*alert.hosts} & {*first.hosts})
        if not shared or abs(alert.onset_us - member.onset_us) > SAME_MOMENT_US:
            continue
        if is_silence(alert) and is_silence(first):
            return f"fell silent in the same moment as {member.service}, on {', '.join(shared[:3])}"
        if Family.AGENT in (alert.family, first.family):
            return f"the agent on {shared[0]} is not heard of since the same moment"
    return None


def is_silence(alert: Alert) -> bool:
    """It is about a service that sends nothing at all."""
    return any(finding.detector == "silence" for finding in alert.findings)


class Incidents:
    """The incidents that may still change. It decides; storing and reporting is its caller's.

    Args:
        known: the open ones, and the last that are resolved: their alerts may come again.
    """

    def __init__(self, known: Sequence[Incident] = ()) -> None:
        self._open: dict[str, Incident] = {}
        self._over: dict[str, None] = {}  # episodes of incidents that are resolved, the oldest first
        for incident in known:
            if incident.state is IncidentState.RESOLVED:
                self._forget(incident)
            else:
                self._open[incident.id] = incident

    @property
    def open(self) -> list[Incident]:
        """Those that are not resolved."""
        return list(self._open.values())

    def candidates(self, alert: Alert) -> list[Incident]:
        """Incidents of other services that began near enough for a link to be looked for."""
        return [
            incident
            for incident in self._open.values()
            if alert.service not in incident.services
            and alert.decided_us - incident.opened_us <= MAX_AGE_US
            and any(abs(alert.onset_us - member.onset_us) <= JOIN_US for member in incident.members)
        ]

    def take(self, alert: Alert, links: dict[str, str]) -> Incident | None:
        """The incident that the alert opens, joins or changes.

        None for an alert that came before, and for one whose incident is not known any more.

        Args:
            alert: the next alert, in order of decision.
            links: reasons to join, by incident id, found among `candidates`.
        """
        known = self._of_episode(alert.episode)
        if known is not None:
            incident, member = known
            if any(alert.id == taken.id for taken in member.alerts):
                return None
            member.alerts.append(alert)
            if alert.state is AlertState.RESOLVED:
                member.resolved_us = alert.decided_us
        elif alert.state is AlertState.RESOLVED or alert.episode in self._over:
            return None
        else:
            incident, reason, is_link = self._joined(alert, links)
            incident.members.append(
                Member(
                    episode=alert.episode,
                    service=alert.service,
                    family=alert.family.value,
                    reason=reason,
                    onset_us=alert.onset_us,
                    is_link=is_link,
                    alerts=[alert],
                )
            )
        incident.updated_us = max(incident.updated_us, alert.decided_us)
        incident.severity = max(incident.severity, alert.severity, key=lambda severity: severity.rank)
        if not incident.open_members():
            incident.state, incident.resolved_us = IncidentState.RESOLVED, alert.decided_us
            del self._open[incident.id]
            self._forget(incident)
        return incident

    def _forget(self, incident: Incident) -> None:
        """Of a resolved incident only its episodes are kept, so that an alert that comes again opens none."""
        self._over.update(dict.fromkeys(member.episode for member in incident.members))
        while len(self._over) > _MAX_OVER:
            del self._over[next(iter(self._over))]

    def _of_episode(self, episode: str) -> tuple[Incident, Member] | None:
        for incident in self._open.values():
            for member in incident.members:
                if member.episode == episode:
                    return incident, member
        return None

    def _joined(self, alert: Alert, links: dict[str, str]) -> tuple[Incident, str, bool]:
        for incident in self._open.values():
            if alert.service in incident.services and alert.decided_us - incident.opened_us <= MAX_AGE_US:
                return incident, f"same service ({alert.service})", False
        for incident_id, reason in links.items():
            if incident_id in self._open:
                return self._open[incident_id], reason, True
        incident = Incident(
            id=hashlib.sha256(f"incident\0{alert.episode}".encode()).hexdigest()[:12],
            state=IncidentState.TRIGGERED,
            severity=alert.severity,
            opened_us=alert.decided_us,
            updated_us=alert.decided_us,
        )
        self._open[incident.id] = incident
        return incident, "opened the incident", False
