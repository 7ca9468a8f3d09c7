"""What the detector says and the reporter hears: findings and alerts, with their JSON form on the bus."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Any

import msgspec

from helios_core.errors import WireError


class Severity(StrEnum):
    """How bad, in order."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for low to 3 for critical."""
        return list(Severity).index(self)


class Family(StrEnum):
    """What an alert is about; alerts are deduplicated per (service, family).

    AGENT is of an agent that is not heard of, under the name `agent_service` gives it.
    """

    ERRORS = "errors"
    LATENCY = "latency"
    VOLUME = "volume"
    PATTERN = "pattern"
    ANOMALY = "anomaly"
    AGENT = "agent"


class AlertState(StrEnum):
    """What an alert says of its family: it begins, it gets worse, it is over."""

    FIRED = "fired"
    RAISED = "raised"
    RESOLVED = "resolved"


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """One feature of a finding.

    Attributes:
        feature, unit: as in its feature set or rule.
        actual: its value in the horizon.
        typical: what would have been normal; None when nothing is known of it.
        limit: the value at which the finding would not have fired; None when there is no single one.
        share: how much of the finding it explains, 0 to 1.
    """

    feature: str
    unit: str
    actual: float | None
    typical: float | None = None
    limit: float | None = None
    share: float = 1.0


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one detector says of one horizon.

    Attributes:
        detector: forest, baseline, rules, silence or patterns.
        family: what it is about.
        severity: how bad the detector takes it to be.
        minutes: the length of what it looked at.
        score: of the forest, in (0, 1); None for others.
        tail_probability: how rare this is in the service's own past; None when it has no such measure.
        contributions: the features, the largest share first.
        detail: what a number does not say: a template, the kind of silence.
    """

    detector: str
    family: Family
    severity: Severity
    minutes: float
    contributions: tuple[Contribution, ...] = ()
    score: float | None = None
    tail_probability: float | None = None
    detail: str = ""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """Findings on one service that were decided to matter.

    Attributes:
        id: hash of (service, family, decided_us, model_version), so that a repeat changes nothing.
        episode: the id of the alert that opened it: the same for all that follow until it resolves.
        decided_us: the end of the horizon that decided it.
        onset_us: the event time at which the family first showed, before it was held for confirmation.
        seen_us: the end of the last horizon in which the family was found: where a resolved one ended.
        horizon_us: the length of the horizon.
        detectors: those that fired, of any family, at this horizon.
        features: what was computed of the horizon, by name; None where a value is missing.
        suppressed: how many further decisions this one stands for since the last one.
        hosts: where the service's windows came from.
        learning: the service had too little history for a model: rules and baseline alone decided.
    """

    id: str
    episode: str
    service: str
    family: Family
    state: AlertState
    severity: Severity
    decided_us: int
    onset_us: int
    seen_us: int
    horizon_us: int
    detectors: tuple[str, ...]
    findings: tuple[Finding, ...]
    features: dict[str, float | None]
    model_version: str = ""
    suppressed: int = 0
    learning: bool = False
    hosts: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        return _ENCODER.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Alert:
        """WireError when it is no alert."""
        try:
            alert = _DECODER.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise WireError(f"{len(data)} bytes are not an alert: {error}") from error
        for time_us in (alert.decided_us, alert.onset_us, alert.seen_us):
            if not 0 <= time_us <= _MAX_EPOCH_US:
                raise WireError(f"an alert with the time {time_us} µs, outside the years 1970 to 9999")
        return alert


_MAX_EPOCH_US = 253_402_300_799_999_999
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Alert)


def alert_id(service: str, family: Family, decided_us: int, of: str = "") -> str:
    """16 hexadecimal digits.

    Args:
        of: what else tells apart what may be said of one service and family at one time, such as the agent.
    """
    text = "\0".join((service, family, str(decided_us), of))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def alert_row(alert: Alert) -> dict[str, Any]:
    """The parameters of the statement `upsert_anomaly`."""
    return {
        "id": alert.id,
        "service": alert.service,
        "state": alert.state.value,
        "severity": alert.severity.value,
        "decided_us": alert.decided_us,
        "document": alert.to_bytes().decode(),
    }
