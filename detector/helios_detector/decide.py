"""From findings to alerts: hold what may be a blip, say it once, say when it gets worse, say when it is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from helios_core.alerts import Alert, AlertState, Family, Finding, Severity, alert_id

_S: Final = 1_000_000
_MINUTE_US: Final = 60 * _S
# How long a detector must keep finding before it is believed, by (detector, family): a rate over five
# minutes cannot be a blip, a quantile over few latencies can.
_HOLD_US: Final[Mapping[tuple[str, Family], int]] = {
    ("rules", Family.ERRORS): 20 * _S,
    ("rules", Family.VOLUME): 30 * _S,
    ("silence", Family.VOLUME): 0,
    ("patterns", Family.PATTERN): 0,
    ("baseline", Family.ERRORS): 30 * _S,
    ("baseline", Family.LATENCY): 60 * _S,
    ("baseline", Family.VOLUME): 60 * _S,
    ("baseline", Family.ANOMALY): 60 * _S,
    ("forest", Family.ANOMALY): 90 * _S,
}
_FORGIVEN_US: Final = 20 * _S  # a finding may be absent this long while it is held
RESOLVE_US: Final = 300 * _S  # without any finding
COOLDOWN_US: Final = 600 * _S


@dataclass(slots=True)
class _Held:
    """A finding that waits to be believed."""

    since_us: int
    seen_us: int


@dataclass(slots=True)
class _Episode:
    """An open alert of one family."""

    id: str
    severity: Severity
    onset_us: int
    seen_us: int
    suppressed: int = 0


@dataclass(slots=True)
class _FamilyState:
    held: dict[str, _Held] = field(default_factory=dict)  # by detector
    episode: _Episode | None = None
    closed_us: int = 0
    closed_severity: Severity | None = None
    suppressed: int = 0  # since it closed


@dataclass(frozen=True, slots=True)
class Horizon:
    """What an alert says of the horizon that decided it."""

    service: str
    end_us: int
    length_us: int
    features: Mapping[str, float | None]
    model_version: str
    learning: bool
    hosts: tuple[str, ...] = ()


class Decider:
    """The open and held alerts of one service."""

    def __init__(self) -> None:
        self._families: dict[Family, _FamilyState] = {}

    @property
    def is_open(self) -> bool:
        """An alert of any family is open."""
        return any(state.episode is not None for state in self._families.values())

    @property
    def is_suspicious(self) -> bool:
        """An alert is open, or a finding is held: what is seen now is not to be learned as normal."""
        return self.is_open or any(state.held for state in self._families.values())

    def decide(self, findings: Sequence[Finding], horizon: Horizon) -> list[Alert]:
        """The alerts of one horizon: usually none."""
        believed: dict[Family, list[Finding]] = {}
        now_us = horizon.end_us
        for finding in findings:
            state = self._families.setdefault(finding.family, _FamilyState())
            # Of whatever severity: a finding that got worse has been there since it was milder.
            held = state.held.setdefault(finding.detector, _Held(now_us, now_us))
            held.seen_us = now_us
            if now_us - held.since_us >= _HOLD_US[finding.detector, finding.family]:
                believed.setdefault(finding.family, []).append(finding)
        alerts = []
        # The anomaly last: what another family says at this horizon holds it back.
        for family, state in sorted(self._families.items(), key=lambda item: item[0] is Family.ANOMALY):
            alert = self._step(family, state, believed.get(family, []), findings, horizon)
            if alert is not None:
                alerts.append(alert)
            state.held = {key: held for key, held in state.held.items() if now_us - held.seen_us <= _FORGIVEN_US}
        return alerts

    def _step(
        self,
        family: Family,
        state: _FamilyState,
        believed: list[Finding],
        findings: Sequence[Finding],
        horizon: Horizon,
    ) -> Alert | None:
        now_us = horizon.end_us
        episode = state.episode
        if episode is None:
            if not believed or (family is Family.ANOMALY and self._other_open(family)):
                return None
            severity = max((finding.severity for finding in believed), key=lambda s: s.rank)
            if now_us - state.closed_us < COOLDOWN_US and not _worse(severity, state.closed_severity):
                state.suppressed += 1
                return None
            onset_us = min(held.since_us for held in state.held.values())
            # Silence began when the last event came, however long it took to be one.
            silent_us = (round(f.minutes * _MINUTE_US) for f in believed if f.detector == "silence")
            onset_us = min([onset_us, *(now_us - span for span in silent_us)])
            id_ = alert_id(horizon.service, family, now_us)
            episode = state.episode = _Episode(id_, severity, onset_us, now_us, state.suppressed)
            alert = _alert(episode, id_, AlertState.FIRED, family, believed, findings, horizon)
            episode.suppressed = state.suppressed = 0
            return alert
        if any(finding.family is family for finding in findings):
            episode.seen_us = now_us
        if believed:
            severity = max((finding.severity for finding in believed), key=lambda s: s.rank)
            if _worse(severity, episode.severity):
                episode.severity = severity
                id_ = alert_id(horizon.service, family, now_us)
                alert = _alert(episode, id_, AlertState.RAISED, family, believed, findings, horizon)
                episode.suppressed = 0
                return alert
            episode.suppressed += 1
            return None
        if now_us - episode.seen_us < RESOLVE_US:
            return None
        state.episode = None
        state.closed_us, state.closed_severity = now_us, episode.severity
        id_ = alert_id(horizon.service, family, now_us)
        return _alert(episode, id_, AlertState.RESOLVED, family, (), (), horizon)

    def _other_open(self, family: Family) -> bool:
        return any(state.episode is not None for other, state in self._families.items() if other is not family)


def _worse(severity: Severity, than: Severity | None) -> bool:
    return than is None or severity.rank > than.rank


def _alert(
    episode: _Episode,
    id_: str,
    state: AlertState,
    family: Family,
    own: Sequence[Finding],
    findings: Sequence[Finding],
    horizon: Horizon,
) -> Alert:
    return Alert(
        id=id_,
        episode=episode.id,
        service=horizon.service,
        family=family,
        state=state,
        severity=episode.severity,
        decided_us=horizon.end_us,
        onset_us=episode.onset_us,
        seen_us=episode.seen_us,
        horizon_us=horizon.length_us,
        detectors=tuple(sorted({finding.detector for finding in findings})),
        findings=tuple(own),
        features=dict(horizon.features),
        model_version=horizon.model_version,
        suppressed=episode.suppressed,
        learning=horizon.learning,
        hosts=horizon.hosts,
    )
